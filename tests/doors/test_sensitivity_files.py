"""Files of importance and of labels: what is damaged, hostile or another thing is one PackageError."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mil_palettize import ConfigError, PackageError, fisher_importance
from mil_palettize.doors.sensitivity import read_importance, read_labels, write_importance

NAME = "conv_fp32_ios18.mlpackage"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def damaged_deflate(path: Path) -> None:
    np.savez_compressed(path, a=np.arange(4000))
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xff" * 300
    path.write_bytes(data)


def flagged(path: Path, offset: int, number: int) -> None:
    """A 16-bit field set in the local header (from ``offset``) and in that of the directory, two bytes later."""
    np.savez(path, a=np.arange(4))
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, offset, number)
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + offset + 2, number)
    path.write_bytes(data)


def without_end(path: Path) -> None:
    np.savez(path, a=np.arange(4))
    path.write_bytes(path.read_bytes()[:-30])


def huge(path: Path) -> None:
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({10**30},), }}"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deflate": damaged_deflate,
    "encrypted": lambda path: flagged(path, 6, 1),
    "compression": lambda path: flagged(path, 8, 77),
    "end": without_end,
    "huge": huge,
    "pointer": lambda path: path.write_text(POINTER),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("1 2 3"),
    "objects": lambda path: np.savez(path, a=np.array([{}], object)),
    "none": lambda path: path.unlink(missing_ok=True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(damage: str, fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    DAMAGES[damage](path)
    for read in (lambda: read_importance(path, fixtures / NAME), lambda: read_labels(path)):
        with pytest.raises(PackageError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ("git-lfs pointer" in str(caught.value)) == (damage == "pointer")


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "",
        "null",
        json.dumps({"main/w": 1}),
        json.dumps({"main/w": {"shape": [1]}}),
        json.dumps({"main/w": {"shape": 1, "sha256": ""}}),
        json.dumps({"main/w": {"shape": ["1"], "sha256": ""}}),
        json.dumps({"main/w": {"shape": [1], "sha256": 1}}),
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_facts_that_nobody_wrote(text: str, fixtures: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("weights.json", text)
    with pytest.raises(PackageError, match=r"its weights\.json is damaged; run sensitivity again"):
        read_importance(tmp_path / "s.npz", fixtures / NAME)


def test_members_that_are_no_arrays(fixtures: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.ones(3))
    with pytest.raises(PackageError, match=r"is a single array; it must be a \.npz file"):
        read_importance(tmp_path / "s.npy", fixtures / NAME)
    np.savez(tmp_path / "s.npz", **{"weights.json": np.ones(3)})
    with pytest.raises(PackageError, match=r"its weights\.json is damaged"):
        read_importance(tmp_path / "s.npz", fixtures / NAME)
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(PackageError, match=r"has a member 'notes\.txt' that is no array"):
        read_importance(tmp_path / "s.npz", fixtures / NAME)
    with pytest.raises(PackageError, match="is no list of whole numbers"):
        read_labels(tmp_path / "s.npz")


def test_an_old_file_stays_until_the_new_one_is_whole(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.npz"
    write_importance(path, {"a": np.ones(3, np.float32)}, fixtures / NAME)
    before = path.read_bytes()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(PackageError, match=r"cannot write .*s\.npz: No space left on device"):
            write_importance(path, {"b": np.zeros(3, np.float32)}, fixtures / NAME)
    assert [item.name for item in tmp_path.iterdir()] == ["s.npz"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_damping_is_finite_and_positive(damping: float, fixtures: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="give a finite number above 0"):
        fisher_importance(fixtures / NAME, 4, damping=damping)


@pytest.mark.parametrize("samples", [0, -1, False])
def test_at_least_one_sample_is_made_up(samples: int, fixtures: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=f"samples is {samples}; give samples, or how many are to be made up"):
        fisher_importance(fixtures / NAME, samples)
