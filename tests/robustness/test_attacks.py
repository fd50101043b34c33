"""Damaged and hostile packages: an error of this library or correct data, never a crash, an escape from the
package, a silent short read, or memory for sizes that are only claimed."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import ROOT_ID, blob_file, entry, manifest, metadata, write_package
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mil_palettize.errors import BlobError, PackageError, PalettizeError
from mil_palettize.package.blob import BlobReader, BlobWriter
from mil_palettize.package.mlpackage import Package

BLOBS = (bytes(range(100)), bytes(range(200, 256)), b"")
USED = {64: "a", 256: "b", 384: "c"}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Sizes that are only claimed must not be allocated."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def read_all(path: Path) -> dict[int, bytes]:
    """Everything a program that uses :data:`USED` reads."""
    with BlobReader(path) as reader:
        reader.check_overlaps(USED)
        records = {offset: reader.record(offset, used_by=name) for offset, name in USED.items()}
        return {offset: bytes(reader.read(record)) for offset, record in records.items()}


def read_one(path: Path, offset: int) -> bytes:
    with BlobReader(path) as reader:
        return bytes(reader.read(reader.record(offset, used_by="w")))


def test_what_is_attacked_is_sound(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(*BLOBS))
    assert read_all(tmp_path / "w.bin") == dict(zip(USED, BLOBS, strict=True))


def test_every_truncation(tmp_path: Path) -> None:
    whole = blob_file(*BLOBS)
    path = tmp_path / "w.bin"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(BlobError):
            read_all(path)
        for offset, blob in zip(USED, BLOBS, strict=True):
            if size >= offset + 64 + len(blob):
                assert read_one(path, offset) == blob
            else:
                with pytest.raises(BlobError, match=str(path)):
                    read_one(path, offset)


HUGE = (2**63, 2**64 - 1, 2**64 - 64, 2**62, 2**32, 1 << 20)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (metadata(128, 100, sentinel=0), "begins with 0x00000000, not 0xdeadbeef"),
        (metadata(128, 100, sentinel=0xEFBEADDE), "begins with 0xefbeadde"),
        *((metadata(128, size), "past the end of the file") for size in (385, *HUGE)),
        *((metadata(offset, 1), "past the end|not at a later multiple") for offset in (512, *HUGE)),
        *((metadata(offset, 1), "not at a later multiple of 64") for offset in (0, 64, 127, 129, 136)),
        (metadata(2**64 - 64, 128), "past the end"),
        *((metadata(128, 5, data_type=t, padding=8), "8 padding bits") for t in (8, 9, 10, 11, 12, 13)),
        (metadata(128, 5, data_type=9, padding=2**64 - 1), "padding bits, at most 7"),
    ],
)
def test_damaged_metadata(tmp_path: Path, stored: bytes, said: str) -> None:
    damaged = bytearray(blob_file(*BLOBS))
    damaged[64:128] = stored
    (tmp_path / "w.bin").write_bytes(damaged)
    with BlobReader(tmp_path / "w.bin") as reader:
        with pytest.raises(BlobError, match=said) as caught:
            reader.record(64, used_by="conv_w")
        assert "'conv_w'" in str(caught.value)
        assert str(tmp_path / "w.bin") in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(BlobError, match="record 1 of 3"):
            reader.all_records()


@pytest.mark.parametrize("offset", [0, 1, 63, 65, 100, -64, 448, 512, 2**63, 2**64 - 64, 2**70])
def test_program_points_elsewhere(tmp_path: Path, offset: int) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(*BLOBS))
    with BlobReader(tmp_path / "w.bin") as reader:
        with pytest.raises(BlobError, match="'conv_w'"):
            reader.record(offset, used_by="conv_w")
        with pytest.raises(BlobError, match="'conv_w'"):
            reader.check_overlaps({64: "a", offset: "conv_w"})


def test_misaligned_but_complete_record(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(bytes(32) + metadata(256, 64) + bytes(32) + b"x" * 64))
    with BlobReader(tmp_path / "w.bin") as reader, pytest.raises(BlobError, match="not at a multiple of 64"):
        reader.record(160, used_by="w")


@pytest.mark.usefixtures("little_memory")
def test_claimed_count(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(blob_file(*BLOBS, count=2**32 - 1))
    with BlobReader(tmp_path / "w.bin") as reader, pytest.raises(BlobError, match="record 4 of 4294967295"):
        reader.all_records()


def test_data_inside_a_record_in_use(tmp_path: Path) -> None:
    """A record hidden in the data of another: sound alone, refused together."""
    hidden = metadata(256, 64) + bytes(64)
    path = tmp_path / "w.bin"
    path.write_bytes(blob_file(bytes(64) + hidden, bytes(10)))
    with BlobReader(path) as reader:
        assert reader.record(192, used_by="b").size == 64
        with pytest.raises(BlobError, match="'a' and 'b' overlap"):
            reader.check_overlaps({64: "a", 192: "b"})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from([0, 4, *(m + f for m in USED for f in (0, 4, 8, 16, 24))]),
            st.one_of(
                st.integers(0, 2**64 - 1),
                st.sampled_from([0, 1, 64, 128, 192, 2**31, 2**63, 0xDEADBEEF, 2]),
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    cut=st.none() | st.integers(0, 448),
)
def test_fuzzed_fields(tmp_path: Path, edits: list[tuple[int, int]], cut: int | None) -> None:
    damaged = bytearray(blob_file(*BLOBS))
    for position, value in edits:
        struct.pack_into("<Q", damaged, position, value)
    path, copied = tmp_path / "w.bin", tmp_path / "copy.bin"
    path.write_bytes(damaged[:cut])
    copied.unlink(missing_ok=True)
    try:
        data = read_all(path)
    except BlobError:
        pass
    else:
        # What was accepted is what the fields say, and is copied as such.
        for offset, blob in data.items():
            size, start = struct.unpack_from("<QQ", damaged, offset + 8)
            assert blob == damaged[:cut][start : start + size]
            assert len(blob) == size
        with BlobReader(path) as reader, BlobWriter(copied) as writer:
            copies = [writer.copy(reader, reader.record(offset, used_by="w")) for offset in data]
        with BlobReader(copied) as reader:
            found = [bytes(reader.read(reader.record(offset, used_by="w"))) for offset in copies]
        assert found == list(data.values())
    try:
        with BlobReader(path) as reader:
            reader.all_records()
    except BlobError:
        pass


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.binary(max_size=200), at=st.integers(0, 448))
def test_fuzzed_bytes(tmp_path: Path, damage: bytes, at: int) -> None:
    stored = bytearray(blob_file(*BLOBS))
    stored[at : at + len(damage)] = damage
    (tmp_path / "w.bin").write_bytes(stored)
    try:
        data = read_all(tmp_path / "w.bin")
    except PalettizeError:
        return
    assert all(len(blob) == struct.unpack_from("<Q", stored, o + 8)[0] for o, blob in data.items())


def put_outside(tmp_path: Path) -> Path:
    """A file that no package of these tests may reach."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.bin").write_bytes(b"secret")
    return outside


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret.bin", "../../outside/secret.bin", "/etc/hosts", "//etc/hosts", "..",
        "a/../../Manifest.json", "com.apple.CoreML/../com.apple.CoreML/model.mlmodel", "", ".", "a\0b", "\ud800",
        "x" * 300, "a/" * 3000,
    ],
)  # fmt: skip
def test_item_path_that_leads_out(tmp_path: Path, path: str) -> None:
    put_outside(tmp_path)
    folder = write_package(tmp_path / "m.mlpackage")
    stored = manifest(itemInfoEntries={ROOT_ID: entry(path, "model.mlmodel")})
    (folder / "Manifest.json").write_text(json.dumps(stored))
    with pytest.raises(PackageError, match=r"Manifest\.json is damaged"):
        Package.open(folder)


@pytest.mark.parametrize("what", ["model.mlmodel", "weights", "", "Data"])
def test_item_that_is_a_link_out(tmp_path: Path, what: str) -> None:
    folder = write_package(tmp_path / "m.mlpackage")
    moved = folder / "Data" / ("" if what == "Data" else Path("com.apple.CoreML", what))
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="a link that leads out of the package"):
        Package.open(folder)


@pytest.mark.parametrize(
    "name",
    ["@model_path/../../../outside/secret.bin", "@model_path/weights/../../model.mlmodel", "/etc/hosts",
     "@model_path//etc/hosts", "@model_path", "@model_path/", "weights/weight.bin", "", "../secret.bin",
     "@model_path/weights/\0weight.bin", "@model_path/\ud800", "@model_pathological/weight.bin"],
)  # fmt: skip
def test_weight_file_name_that_leads_out(tmp_path: Path, name: str) -> None:
    put_outside(tmp_path)
    package = Package.open(write_package(tmp_path / "m.mlpackage"))
    with pytest.raises(PackageError, match=r"only @model_path/<path without \.\.> is allowed") as caught:
        package.weight_path(name, used_by="conv\nw")
    assert r"'conv\nw'" in str(caught.value)
    assert repr(name) in str(caught.value)


def test_weight_file_name_of_any_length(tmp_path: Path) -> None:
    package = Package.open(write_package(tmp_path / "m.mlpackage"))
    for rest in ("x" * 300, "x/" * 3000):
        with pytest.raises(PackageError, match="there is no file"):
            package.weight_path("@model_path/" + rest, used_by="w")


def test_links_inside_that_lead_out(tmp_path: Path) -> None:
    outside = put_outside(tmp_path)
    folder = write_package(tmp_path / "m.mlpackage")
    package = Package.open(folder)
    weights = folder / "Data" / "com.apple.CoreML" / "weights"
    (weights / "leak.bin").symlink_to(outside / "secret.bin")
    with pytest.raises(PackageError, match="a link that leads out of"):
        package.weight_path("@model_path/weights/leak.bin", used_by="w")
    with pytest.raises(PackageError, match=r"leak\.bin is neither a file nor a link to one inside"):
        package.files()
    (weights / "leak.bin").unlink()
    (weights / "folder").symlink_to(outside)
    with pytest.raises(PackageError, match="a link that leads out of"):
        package.weight_path("@model_path/weights/folder/secret.bin", used_by="w")
    with pytest.raises(PackageError, match="folder is neither a file nor a link to one inside"):
        package.files()
    (weights / "folder").unlink()
    for target in ("nowhere", "loop", ".."):
        (weights / "loop").symlink_to(target)
        with pytest.raises(PackageError, match="loop is neither a file nor a link to one inside"):
            package.files()
        (weights / "loop").unlink()
    os.mkfifo(weights / "pipe")
    with pytest.raises(PackageError, match="pipe is neither a file nor"):
        package.nbytes()


KEYS = st.text(max_size=4) | st.sampled_from(
    ["fileFormatVersion", "itemInfoEntries", "rootModelIdentifier", "path", ROOT_ID]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([ROOT_ID, "1.0.0", "..", "com.apple.CoreML/model.mlmodel"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_manifest(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "m.mlpackage"
    if not folder.exists():
        write_package(folder)
    stored = manifest()
    key = data.draw(st.sampled_from([*stored, "path", "name", "whole", "bytes"]))
    value = data.draw(st.binary(max_size=40) if key == "bytes" else JSON)
    if key in ("path", "name"):
        stored["itemInfoEntries"][ROOT_ID][key] = value
    elif key in stored:
        stored[key] = value
    elif key == "whole":
        stored = value
    text = value if key == "bytes" else json.dumps(stored).encode()
    (folder / "Manifest.json").write_bytes(text)
    line = ""
    try:
        assert Package.open(folder).model_bytes() == b"model"
    except PackageError as error:
        line = str(error)
    assert "\n" not in line
