"""Files of kept palettes that are not as they were written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import contents
from kept_palettes import PLAIN, PLAN, WEIGHT, WEIGHTS, Counts, files, key, palette, same

from mil_palettize.algorithms.making import ArraySource, describe
from mil_palettize.encoding import palette_cache as clustered
from mil_palettize.encoding.kept_files import packed_file, read_kept
from mil_palettize.encoding.palette_cache import Clustered


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def rewritten(data: bytes, path: Path, **changes: object) -> None:
    """The file with other entries in its header."""
    path.write_bytes(data)
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("header").tobytes()) | changes
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def damages(data: bytes, path: Path, other: bytes) -> Iterator[str]:
    """Put something else at ``path``, again and again; yields what."""
    for length in (0, 1, 21, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        yield f"cut to {length}"
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        yield f"byte {place}"
    path.write_bytes(other)
    yield "of another palette"
    for version in (clustered.VERSION + 1, None, "1"):
        rewritten(data, path, version=version)
        yield f"version {version}"
    rewritten(data, path, expr={"kind": "Lut", "fields": {}})
    yield "incomplete"
    rewritten(data, path, expr={"kind": "system", "fields": {"command": {"value": "true"}}})
    yield "of an unknown kind"
    path.write_bytes(b"not an archive" * 100)
    yield "text"
    with path.open("wb") as file:
        np.save(file, np.arange(5))
    yield "an array"
    trap = path.parent / "trap"
    path.write_bytes(pickle.dumps(Malicious(trap)))
    yield "a pickle"
    for name in ("header", "a0"):
        np.savez(path, **{name: np.array([Malicious(trap)], object)})
        yield f"an object as {name}"
    path.unlink()
    path.symlink_to(path.name)
    yield "a link to itself"
    path.unlink()
    os.mkfifo(path)
    yield "a pipe"
    path.unlink()
    assert not trap.exists()


def test_damaged_palettes_are_as_good_as_none(tmp_path: Path) -> None:
    """Or, where the damage is to nothing that counts, as good as they were. The next run mends them."""
    folder, kept = Clustered(str(tmp_path)), palette()
    folder.keep_palette(key("other"), palette(1))
    other = files(tmp_path)[0].read_bytes()
    shutil.rmtree(files(tmp_path)[0].parent)
    folder.keep_palette(key("content"), kept)
    (path,) = files(tmp_path)
    data, refused = path.read_bytes(), 0
    for what in damages(data, path, other):
        found = folder.palette(key("content"), PLAN, WEIGHT)
        assert found is None or (what.startswith("byte") and same(found, kept)), what
        refused += found is None
    assert refused > 50
    folder.keep_palette(key("content"), kept)
    assert same(folder.palette(key("content"), PLAN, WEIGHT), kept)


def test_damaged_distinct_values_are_as_good_as_none(tmp_path: Path) -> None:
    folder = Clustered(str(tmp_path))
    found, another = (describe(ArraySource("w", np.arange(n, dtype=np.float16))) for n in (50, 60))
    folder.keep_distribution("other", another)
    other = files(tmp_path)[0].read_bytes()
    shutil.rmtree(files(tmp_path)[0].parent)
    folder.keep_distribution("content", found)
    (path,) = files(tmp_path)
    for what in damages(path.read_bytes(), path, other):
        again = folder.distribution("content", ArraySource("w", np.arange(50, dtype=np.float16)))
        assert again is None or not what.startswith("cut"), what
        if again is not None:
            assert again.values.tolist() == found.values.tolist()
            assert (again.weights.tolist(), again.size, again.signal) == (found.weights.tolist(), 50, found.signal)


def test_run_over_damaged_files(counts: Counts, tmp_path: Path) -> None:
    PLAIN.palettize(tmp_path / "a.mlpackage", workers=1, resume=tmp_path / "kept")
    for number, path in enumerate(files(tmp_path / "kept")):
        path.write_bytes(path.read_bytes()[: 100 * number])
    for made in (WEIGHTS, 0):
        before = dict(counts)
        PLAIN.palettize(tmp_path / "b.mlpackage", workers=1, resume=tmp_path / "kept", overwrite=True)
        assert counts.since(before) == (made, made)
        assert contents(tmp_path / "a.mlpackage") == contents(tmp_path / "b.mlpackage")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("expr", "fields", "indices", "fields", "nbits", "value"), 4.0),
        (("expr", "fields", "indices", "fields", "signed", "value"), 0),
        (("expr", "fields", "indices", "fields", "shape", "shape"), [6.0, 8]),
        (("expr", "fields", "vector_axis", "value"), False),
        (("made", "axis"), 0.0),
        (("made", "group_size"), True),
    ],
)
def test_numbers_of_another_type_are_damage(path: tuple[str, ...], value: object, tmp_path: Path) -> None:
    """With a digest that fits: 1, 1.0 and true are equal, and what is written of them is not."""
    folder = Clustered(str(tmp_path))
    folder.keep_palette(key("content"), palette())
    (file,) = files(tmp_path)
    kept = read_kept(file)
    assert kept is not None
    header, arrays = kept
    file.write_bytes(packed_file(header, arrays))
    assert same(folder.palette(key("content"), PLAN, WEIGHT), palette())
    *parents, last = path
    inner = header
    for name in parents:
        inner = inner[name]
    assert last in inner
    inner[last] = value
    file.write_bytes(packed_file(header, arrays))
    assert folder.palette(key("content"), PLAN, WEIGHT) is None
