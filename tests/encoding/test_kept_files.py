"""Archives that are kept: what is read back, and every way not to be what was written."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mil_palettize.encoding.kept_files import DamagedError, packed_file, read_kept

ARRAYS = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.zeros((0, 4)), "c": np.float32(2.5).reshape(())}
HEADER = {"two": 2, "one": "é", "nested": {"y": [1, None], "x": 1.5}}


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def written(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def sound() -> dict[str, bytes]:
    return members(packed_file(HEADER, ARRAYS))


def test_what_was_kept_comes_back(tmp_path: Path, sound: dict[str, bytes]) -> None:
    path = tmp_path / "kept.npz"
    assert read_kept(path) is None
    path.write_bytes(packed_file(HEADER, ARRAYS))
    second = written(tmp_path / "second.npz", {**sound, "a.npy": npy(ARRAYS["a"], (2, 0))})  # another header of numpy's
    for found in (read_kept(path), read_kept(second)):
        assert found is not None
        header, arrays = found
        assert header == HEADER
        assert arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert arrays[name].dtype == array.dtype
            assert np.array_equal(arrays[name], array)
            assert arrays[name].shape == array.shape
    folder = tmp_path / "folder"
    folder.mkdir()
    assert read_kept(folder) is None


def refused(path: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        read_kept(path)
    return str(caught.value)


def test_compressed_members(tmp_path: Path, sound: dict[str, bytes]) -> None:
    assert refused(written(tmp_path / "a", sound, zipfile.ZIP_DEFLATED)).endswith(".npy is compressed")


def test_digests_are_of_every_part(tmp_path: Path, sound: dict[str, bytes]) -> None:
    """Names, types, shapes and bytes of arrays, and the header, whatever the order of its entries."""
    other = "its content has another digest than it was kept with"
    changed = {
        "a.npy": [ARRAYS["a"] + 1, ARRAYS["a"].reshape(3, 2), ARRAYS["a"].view(np.uint16)],
        "b.npy": [np.zeros((4, 0))],
        "c.npy": [np.float32(2.5).reshape(1)],
    }
    for name, arrays in changed.items():
        for array in arrays:
            assert refused(written(tmp_path / "changed", {**sound, name: npy(array)})) == other
    renamed = {name.replace("a.npy", "d.npy"): content for name, content in sound.items()}
    assert refused(written(tmp_path / "renamed", renamed)) == other
    assert refused(written(tmp_path / "more", {**sound, "d.npy": npy(np.zeros(1))})) == other
    told = json.loads(np.load(io.BytesIO(sound["header.npy"])).tobytes())
    for change in ({"two": 3}, {"three": 3}, {"digest": "0" * 64}):
        sealed = np.frombuffer(json.dumps({**told, **change}).encode(), np.uint8)
        assert refused(written(tmp_path / "told", {**sound, "header.npy": npy(sealed)})) == other
    turned = np.frombuffer(json.dumps(dict(reversed(told.items()))).encode(), np.uint8)
    found = read_kept(written(tmp_path / "turned", {**sound, "header.npy": npy(turned)}))
    assert found is not None
    assert found[0] == HEADER


def test_members_that_are_not_what_their_headers_say(tmp_path: Path, sound: dict[str, bytes]) -> None:
    def told(shape: tuple[int, ...], descr: str = "<i2", fortran: bool = False, size: int = 12) -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": fortran, "descr": descr})
        return file.getvalue() + bytes(size)

    for content in (
        told((2, 4)),
        told((2, 2)),
        told((2, 3), size=13),
        told((2, 3), "<i4"),
        told((-2, -3)),
        told((2, 3), fortran=True),
        told((6,), "|O", size=48),
    ):
        said = refused(written(tmp_path / "told", {**sound, "a.npy": content}))
        assert said.startswith("a.npy is not the ")
        assert said.endswith(" that its header says")


def test_what_cannot_be_read(tmp_path: Path, sound: dict[str, bytes]) -> None:
    without = {name: content for name, content in sound.items() if name != "header.npy"}
    for contents in (without, {**sound, "header.npy": npy(np.zeros(3, np.uint8))}, {**sound, "a.npy": b"no array"}):
        assert refused(written(tmp_path / "odd", contents)).startswith("it cannot be read (")
    (tmp_path / "text").write_text("not an archive")
    assert refused(tmp_path / "text") == "it cannot be read (BadZipFile)"
