"""``weight.bin``: byte equality with coremltools' writer, checked reads, memory and disk failures."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter
from handmade import blob_file, metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_palettize.errors import BlobError, PackageError
from mil_palettize.package import disk
from mil_palettize.package.blob import SUB_BYTE_BITS, BlobReader, BlobWriter
from mil_palettize.program.values import BLOB_TYPES

# coremltools' method suffix -> (blob data type code, dtype it takes, bits per element)
KINDS = {
    "fp16": (1, np.uint16, 16), "float": (2, np.float32, 32), "uint8": (3, np.uint8, 8),
    "int8": (4, np.int8, 8), "int16": (6, np.int16, 16), "uint16": (7, np.uint16, 16),
    "int4": (8, np.int8, 4), "uint1": (9, np.uint8, 1), "uint2": (10, np.uint8, 2),
    "uint4": (11, np.uint8, 4), "uint3": (12, np.uint8, 3), "uint6": (13, np.uint8, 6),
    "int32": (14, np.int32, 32), "uint32": (15, np.uint32, 32),
}  # fmt: skip


def pack(values: np.ndarray, bits: int) -> bytes:
    """Values of ``bits`` bits, least significant first, by arithmetic on one big integer."""
    number = sum((int(value) % (1 << bits)) << (bits * i) for i, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


def values_of(kind: str, count: int, seed: int) -> np.ndarray:
    _, dtype, bits = KINDS[kind]
    rng = np.random.default_rng(seed)
    if bits >= 8:
        return rng.integers(0, 256, count * bits // 8, dtype=np.uint8).view(dtype)
    low = -(1 << bits - 1) if kind == "int4" else 0
    return rng.integers(low, low + (1 << bits), count).astype(dtype)


def write_both(folder: Path, blobs: list[tuple[str, np.ndarray]]) -> tuple[bytes, bytes, list[int], list[int]]:
    theirs_path, ours_path = folder / "theirs.bin", folder / "ours.bin"
    ours_path.unlink(missing_ok=True)
    theirs = _BlobStorageWriter(str(theirs_path))
    theirs_offsets = [getattr(theirs, f"write_{kind}_data")(values) for kind, values in blobs]
    del theirs
    ours_offsets = []
    with BlobWriter(ours_path) as ours:
        for kind, values in blobs:
            code, _, bits = KINDS[kind]
            data = pack(values, bits) if bits < 8 else values
            ours_offsets.append(ours.append(code, data, padding_bits=-len(values) * bits % 8))
        assert ours.count == len(blobs)
    return theirs_path.read_bytes(), ours_path.read_bytes(), theirs_offsets, ours_offsets


@settings(max_examples=60, deadline=None)
@given(blobs=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 200)), max_size=8))
def test_same_bytes_as_coremltools(tmp_path_factory: pytest.TempPathFactory, blobs: list) -> None:
    folder = tmp_path_factory.mktemp("both")
    arrays = [(kind, values_of(kind, count, i)) for i, (kind, count) in enumerate(blobs)]
    theirs, ours, theirs_offsets, ours_offsets = write_both(folder, arrays)
    assert ours == theirs
    assert ours_offsets == theirs_offsets


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_read_back_by_both(tmp_path: Path, kind: str) -> None:
    code, dtype, bits = KINDS[kind]
    arrays = [(kind, values_of(kind, count, count)) for count in (1, 7, 8, 31, 32, 33, 64, 100)]
    theirs, ours, offsets, _ = write_both(tmp_path, arrays)
    assert ours == theirs
    judge = _BlobStorageReader(str(tmp_path / "ours.bin"))
    with BlobReader(tmp_path / "ours.bin") as reader:
        assert [record.metadata_offset for record in reader.all_records()] == offsets
        for offset, (_, values) in zip(offsets, arrays, strict=True):
            assert getattr(judge, f"read_{kind}_data")(offset).tobytes() == values.tobytes()
            record = reader.record(offset, used_by="w")
            assert (record.data_type, record.padding_bits) == (code, -len(values) * bits % 8)
            if bits < 8:
                assert bytes(reader.read(record)) == pack(values, bits)
            else:
                read = reader.array(record, dtype, (1, len(values)), used_by="w")
                assert read.shape == (1, len(values))
                assert read.tobytes() == values.tobytes()


def test_real_files_are_copied_byte_for_byte(shared_models: Path, tmp_path: Path) -> None:
    """Packages of coremltools before 8 among them: their reserved fields hold anything."""
    paths = sorted(shared_models.glob("*.mlpackage/Data/*/weights/*.bin"))
    assert paths
    padded = 0
    for number, path in enumerate(paths):
        with BlobReader(path) as reader, BlobWriter(tmp_path / f"{number}.bin") as writer:
            records = reader.all_records()
            reader.check_overlaps({r.metadata_offset: f"w{r.metadata_offset}" for r in records})
            assert [writer.copy(reader, record) for record in records] == [r.metadata_offset for r in records]
            padded += sum(record.padding_bits >= 8 for record in records)
        assert (tmp_path / f"{number}.bin").read_bytes() == path.read_bytes()
    assert padded > 0


def test_data_in_pieces_is_the_same_as_in_one(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * disk.BUFFER_BYTES + 5, dtype=np.uint8)
    cuts = [0, 1, 1, 60, disk.BUFFER_BYTES, 2 * disk.BUFFER_BYTES + 9, len(data)]
    pieces = [data[a:b] for a, b in pairwise(cuts)]
    for name, given_size in (("sized", len(data)), ("unsized", None)):
        with BlobWriter(tmp_path / name) as writer:
            writer.append(3, iter(pieces), size=given_size)
            writer.append(3, [memoryview(b"ab"), bytearray(b"c"), b"", np.zeros((0, 3))], size=given_size and 3)
    with BlobWriter(tmp_path / "whole") as writer:
        writer.append(3, data.tobytes())
        writer.append(3, b"abc")
    whole = (tmp_path / "whole").read_bytes()
    assert (tmp_path / "sized").read_bytes() == whole
    assert (tmp_path / "unsized").read_bytes() == whole
    assert whole == blob_with_type(3, data.tobytes(), b"abc")


def blob_with_type(code: int, *blobs: bytes) -> bytes:
    stored = bytearray(blob_file(*blobs))
    position = 64
    for blob in blobs:
        struct.pack_into("<I", stored, position + 4, code)
        position += -(-(64 + len(blob)) // 64) * 64
    return bytes(stored)


def test_arrays_are_written_in_c_order(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    with BlobWriter(tmp_path / "w.bin") as writer:
        offset = writer.append(2, array.T)
    with BlobReader(tmp_path / "w.bin") as reader:
        read = reader.array(reader.record(offset, used_by="w"), "<f4", (4, 3), used_by="w")
    np.testing.assert_array_equal(read, array.T)


def test_copy_keeps_the_metadata_unless_asked(tmp_path: Path) -> None:
    stored = bytearray(blob_file(b"first", b"x" * 70))
    stored[128 + 64 + 24 : 128 + 64 + 64] = b"\xa5" * 40  # padding and reserved fields of the second record
    (tmp_path / "in.bin").write_bytes(stored)
    with BlobReader(tmp_path / "in.bin") as reader, BlobWriter(tmp_path / "out.bin") as writer:
        first, second = reader.all_records()
        offsets = [
            writer.copy(reader, second),
            writer.copy(reader, first),
            writer.copy(reader, second, data_type=9, padding_bits=3),
            writer.copy(reader, second, data_type=3),
        ]
    with BlobReader(tmp_path / "out.bin") as reader:
        records = [reader.record(offset, used_by="w") for offset in offsets]
        data = [bytes(reader.read(record)) for record in records]
    assert data == [b"x" * 70, b"first", b"x" * 70, b"x" * 70]
    assert [record.data_type for record in records] == [1, 1, 9, 3]
    assert [record.padding_bits for record in records] == [0xA5A5A5A5A5A5A5A5, 0, 3, 0]
    assert records[0].reserved == records[2].reserved == b"\xa5" * 32


def test_reading_parts_and_windows(tmp_path: Path) -> None:
    data = bytes(range(200))
    (tmp_path / "w.bin").write_bytes(blob_file(data))
    with BlobReader(tmp_path / "w.bin") as reader:
        record = reader.record(64, used_by="w")
        assert bytes(reader.read(record, 10, 20)) == data[10:30]
        assert bytes(reader.read(record, 190)) == data[190:]
        assert reader.read(record, 200).size == 0
        windows = list(reader.windows(record, 64))
        assert [len(window) for window in windows] == [64, 64, 64, 8]
        assert b"".join(bytes(window) for window in windows) == data
        for start, length in ((-1, 5), (0, 201), (201, None), (5, -1), (2**64, 1)):
            with pytest.raises(BlobError, match="which has 200"):
                reader.read(record, start, length)


@pytest.mark.parametrize("shape", [(99,), (101,), (10, 9), (-10, -10), (0,), (2**40, 2**40)])
def test_array_of_another_size_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(bytes(200)))
    with BlobReader(tmp_path / "w.bin") as reader:
        record = reader.record(64, used_by="w")
        assert reader.array(record, "<f2", (100,), used_by="w").shape == (100,)
        with pytest.raises(BlobError, match=r"'conv_w' is float16\[.*holds 200") as caught:
            reader.array(record, "<f2", shape, used_by="conv_w")
    assert "\n" not in str(caught.value)


def test_overlaps_name_both_weights(tmp_path: Path) -> None:
    stored = bytearray(blob_file(bytes(128), bytes(128)))
    path = tmp_path / "w.bin"
    path.write_bytes(stored)
    with BlobReader(path) as reader:
        reader.check_overlaps({64: "a", 256: "b"})
    stored[64:128] = metadata(128, 192)  # the data of the first now covers the metadata of the second
    path.write_bytes(stored)
    with BlobReader(path) as reader:
        reader.check_overlaps({64: "a"})
        with pytest.raises(BlobError, match="'a' and 'b' overlap at byte 256"):
            reader.check_overlaps({256: "b", 64: "a"})
    stored[64:128] = metadata(320, 64)  # both have the same data
    path.write_bytes(stored)
    with BlobReader(path) as reader, pytest.raises(BlobError, match=r"overlap at byte 320"):
        reader.check_overlaps({64: "a", 256: "b"})


def test_file_that_shrinks_while_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(bytes(1000)))
    with BlobReader(tmp_path / "w.bin") as reader:
        record = reader.record(64, used_by="w")
        os.truncate(tmp_path / "w.bin", 600)
        with pytest.raises(BlobError, match="ends at byte 600"):
            reader.read(record)


def test_writer_refuses_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "there.bin").write_bytes(b"precious")
    with pytest.raises(PackageError, match=r"there\.bin: File exists"):
        BlobWriter(tmp_path / "there.bin")
    assert (tmp_path / "there.bin").read_bytes() == b"precious"
    with BlobWriter(tmp_path / "w.bin") as writer:
        for code, padding in ((9, 8), (9, -1), (1, 4)):
            with pytest.raises(BlobError, match="padding bits"):
                writer.append(code, b"a", padding_bits=padding)
        writer.append(9, b"a", padding_bits=7)
    with BlobReader(tmp_path / "w.bin") as reader:
        assert len(reader.all_records()) == 1


@pytest.mark.parametrize("pieces", [[b"abc"], [b"ab", b"cde"]])
def test_wrong_size_breaks_the_file(tmp_path: Path, pieces: list[bytes]) -> None:
    writer = BlobWriter(tmp_path / "w.bin")
    with pytest.raises(BlobError, match="for a record of 4 bytes"):
        writer.append(3, pieces, size=4)
    with pytest.raises(PackageError, match="cannot be completed"):
        writer.close()
    writer.close()


def test_failing_source_breaks_the_file(tmp_path: Path) -> None:
    def pieces():
        yield b"abc"
        raise RuntimeError("the source failed")

    writer = BlobWriter(tmp_path / "w.bin")
    with pytest.raises(RuntimeError, match="the source failed"):
        writer.append(3, pieces())
    with pytest.raises(PackageError, match="cannot be completed"):
        writer.close()


def test_left_by_an_exception_there_is_no_valid_count(tmp_path: Path) -> None:
    def interrupted() -> None:
        with BlobWriter(tmp_path / "w.bin") as writer:
            writer.append(3, bytes(2 * disk.BUFFER_BYTES))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "w.bin").read_bytes()[:4].strip(b"\0")


def test_full_disk_names_the_file_and_the_bytes(tmp_path: Path) -> None:
    """A limit on the file size makes a write short and the next one fail, as a full disk does."""
    path = tmp_path / "w.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = BlobWriter(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
    try:
        with pytest.raises(PackageError, match=rf"cannot write 2000128 bytes at byte 3000000 of {path}"):
            writer.append(3, bytes(5_000_000))
        with pytest.raises(PackageError, match="cannot be completed"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("make", ["missing", "folder", "fifo", "empty", "short", "version"])
def test_what_is_no_weight_file(tmp_path: Path, make: str) -> None:
    path = tmp_path / "w.bin"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make != "missing":
        path.write_bytes({"empty": b"", "short": bytes(63), "version": blob_file(version=1)}[make])
    opened = len(os.listdir("/dev/fd"))
    with pytest.raises(BlobError, match=r"w\.bin") as caught:
        BlobReader(path)
    assert "\n" not in str(caught.value)
    assert len(os.listdir("/dev/fd")) == opened


def test_closed_reader(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(b"ab"))
    with BlobReader(tmp_path / "w.bin") as reader:
        record = reader.record(64, used_by="w")
    reader.close()
    with pytest.raises(BlobError, match="cannot read"):
        reader.read(record)


def test_types_are_those_of_the_program() -> None:
    assert {code: bits for code, bits in BLOB_TYPES.values() if bits < 8} == SUB_BYTE_BITS


def test_memory_and_imports_stay_small(tmp_path: Path) -> None:
    """In a fresh process: copying 192 MB takes little memory, and coremltools is never loaded."""
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from mil_palettize.package.blob import BlobReader, BlobWriter
        from mil_palettize.package import mlpackage, replacement
        assert not [name for name in sys.modules if name.startswith("coremltools")]
        folder = Path(sys.argv[1])
        window = bytes(range(256)) * 16384
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        with BlobWriter(folder / "in.bin") as writer:
            writer.append(3, (window for _ in range(48)))
        with BlobReader(folder / "in.bin") as reader, BlobWriter(folder / "out.bin") as writer:
            record = reader.record(64, used_by="w")
            writer.copy(reader, record)
            total = sum(len(w) for w in reader.windows(record))
        assert total == 48 * len(window)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 << 20
