"""Arrays of samples that are larger than what is kept in memory: read from their file, a sample at a time."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import mb, opened  # noqa: E402

from mil_palettize import EvaluationError, PackageError  # noqa: E402
from mil_palettize.package.stored_arrays import StoredArray  # noqa: E402
from mil_palettize.torch import array_files  # noqa: E402
from mil_palettize.torch.comparison import compare_models  # noqa: E402
from mil_palettize.torch.comparison_options import Options  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402
from mil_palettize.torch.sequences import read_sequences  # noqa: E402

ROWS = np.random.default_rng(0).standard_normal((6, 1, 4)).astype(np.float32)
KINDS = ["savez", "savez_compressed", "npy", "first axis", "float64", "columns"]


@pytest.fixture
def module(tmp_path: Path) -> Any:
    return opened(lambda x: mb.relu(x=x), [((1, 4), np.float32)], tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each piece that is read, where files of 64 bytes are large."""
    monkeypatch.setattr(array_files, "LARGE", 64)
    found: list[int] = []
    original = StoredArray._read

    def counted(array: StoredArray, start: int, nbytes: int) -> np.ndarray:
        found.append(nbytes)
        return original(array, start, nbytes)

    monkeypatch.setattr(StoredArray, "_read", counted)
    return found


def written(folder: Path, kind: str) -> Path:
    path = folder / ("x.npy" if kind == "npy" else "x.npz")
    if kind == "npy":
        np.save(path, ROWS)
    elif kind == "savez_compressed":
        np.savez_compressed(path, x0=ROWS)
    else:
        changed = {"first axis": ROWS[:, 0], "float64": ROWS.astype(np.float64), "columns": np.asfortranarray(ROWS)}
        np.savez(path, x0=changed.get(kind, ROWS))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_read_when_their_turn_comes(kind: str, module: Any, reads: list[int], tmp_path: Path) -> None:
    samples = read_samples(written(tmp_path, kind), module)
    assert not reads
    assert len(samples) == 6
    for found, wanted in zip(samples, ROWS, strict=True):
        assert found["x0"].shape == (1, 4)
        assert np.array_equal(found["x0"], wanted)
    assert np.array_equal(samples[2:][1]["x0"], ROWS[3])
    sample = 32 if kind == "float64" else 16
    assert reads == ([] if kind == "columns" else [sample] * len(reads))  # which does not lie row after row
    assert len(reads) in ((0,) if kind == "columns" else (7, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_commands_take_them(kind: str, module: Any, reads: list[int], tmp_path: Path) -> None:
    path, package = written(tmp_path, kind), module.package.path
    (found,) = run_package(package, path).outputs.values()
    assert np.array_equal(found, np.maximum(ROWS, 0))
    comparison = compare_models(package, package, path, Options())
    assert comparison.samples == 6
    assert comparison.outputs[0].figures is not None
    assert comparison.outputs[0].figures.elements == 24


def test_a_large_array_that_is_one_sample(module: Any, reads: list[int], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x0=ROWS[0])
    (sample,) = read_samples(tmp_path / "x.npz", module)
    assert np.array_equal(sample["x0"], ROWS[0])


def test_sequences_of_a_large_file(module: Any, reads: list[int], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x0=np.stack([ROWS, -ROWS]))
    one, two = read_sequences(tmp_path / "x.npz", module)
    assert [call["x0"].tolist() for call in one] == ROWS.tolist()
    assert [call["x0"].tolist() for call in two] == (-ROWS).tolist()
    np.savez(tmp_path / "x.npz", x0=ROWS)
    (calls,) = read_sequences(tmp_path / "x.npz", module)
    assert [call["x0"].tolist() for call in calls] == ROWS.tolist()


@pytest.mark.parametrize("kind", ["savez", "savez_compressed"])
def test_damaged_files_are_told_before_anything_is_run(
    kind: str, module: Any, reads: list[int], tmp_path: Path
) -> None:
    path = written(tmp_path, kind)
    data = bytearray(path.read_bytes())
    data[220 if kind == "savez" else 120] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackageError, match=r"cannot read .*x\.npz: .*; it must be a \.npz or \.npy file"):
        read_samples(path, module)


@pytest.mark.parametrize("change", ["shorter", "in its place"])
def test_files_that_change(change: str, module: Any, reads: list[int], tmp_path: Path) -> None:
    path, many = tmp_path / "x.npy", np.tile(ROWS, (10_000, 1, 1))
    np.save(path, many)
    os.utime(path, (0, 0))
    samples = read_samples(path, module)
    assert np.array_equal(samples[0]["x0"], ROWS[0])
    if change == "shorter":
        os.truncate(path, 150)
    else:
        np.save(path, -many)
    with pytest.raises(PackageError, match=r"cannot read .*x\.npy: it has changed; run again with files that stay"):
        samples[50_000]


def test_names_that_are_wrong(module: Any, reads: list[int], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", other=ROWS)
    with pytest.raises(EvaluationError, match="no input 'other'"):
        read_samples(tmp_path / "x.npz", module)


def test_arrays_that_end_as_zip_files_do(reads: list[int], tmp_path: Path) -> None:
    packed = io.BytesIO()
    np.savez(packed, x0=ROWS)
    np.save(tmp_path / "x.npy", np.frombuffer(packed.getvalue(), np.uint8))
    found = array_files.open_arrays(tmp_path / "x.npy")
    assert isinstance(found, StoredArray)
    assert found.whole().tobytes() == packed.getvalue()
