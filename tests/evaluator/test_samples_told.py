"""Which sample, call or input an error or a warning is of, and arrays whose axes may mean several things."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from mil_palettize import EvaluationError, compare
from mil_palettize.torch import open_model
from mil_palettize.torch.predictions import run_package

RNG = np.random.default_rng(0)


def test_the_sample_that_is_wrong(fixtures: Path, tmp_path: Path) -> None:
    path = fixtures / "stateful_ios18.mlpackage"
    lines = [json.dumps({"x": [[0.5] * (63 if number == 5 else 64)]}) for number in range(7)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    message = r"^sample 5: .*input 'x' has shape \[1, 63\]; the model takes \[1, 64\]$"
    with pytest.raises(EvaluationError, match=message):
        run_package(path, tmp_path / "x.jsonl")
    with pytest.raises(EvaluationError, match=message):
        compare(path, path, tmp_path / "x.jsonl")
    with pytest.raises(EvaluationError, match=r"^call 5: .*input 'x' has shape \[1, 63\]"):
        compare(path, path, tmp_path / "x.jsonl", sequence=True)
    calls = [{"x": np.zeros((1, 64))}] * 3
    with pytest.raises(EvaluationError, match=r"^sample 1: call 2: .*input 'y'|^sample 1: call 2: .* no input 'y'"):
        compare(path, path, [calls, [*calls[:2], {"y": calls[0]["x"]}]])


def test_inputs_that_are_not_finite_are_told_as_such(fixtures: Path) -> None:
    path, x = fixtures / "stateful_ios18.mlpackage", np.ones((1, 64))
    found = compare(path, path, [{"x": x}, {"x": x * np.nan}])
    (warning,) = found.warnings
    assert "48 of 96 values of the original are not finite, as input 'x' is not; no palette did that" in warning
    warning, *_ = compare(path, path, [[{"x": x * np.inf}, {"x": x}]]).warnings
    assert "96 of 96 values" in warning
    assert "as input 'x' is not" in warning


def test_pictures_with_their_channels_first(fixtures: Path, tmp_path: Path) -> None:
    path = fixtures / "segmentation_ios16.mlpackage"
    pictures = RNG.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    model = open_model(path)
    wanted = np.stack([model.predict({"image": picture})["mask"] for picture in pictures])
    first = pictures.transpose(0, 3, 1, 2)
    for number, array in enumerate((pictures, first, first[:, None])):
        np.savez(tmp_path / f"{number}.npz", image=array)
        assert np.array_equal(run_package(path, tmp_path / f"{number}.npz").outputs["mask"], wanted)
    np.save(tmp_path / "x.npy", first[:1])
    assert np.array_equal(run_package(path, tmp_path / "x.npy").outputs["mask"], wanted[0])
    np.save(tmp_path / "x.npy", first[0])
    with pytest.raises(
        EvaluationError, match=r"\[3, 32, 32\] may be one picture, channels first, or 3 gray ones; give"
    ):
        run_package(path, tmp_path / "x.npy")
    gray = pictures[..., 0]
    np.save(tmp_path / "x.npy", gray)
    wanted = np.stack([model.predict({"image": picture})["mask"] for picture in gray])
    assert np.array_equal(run_package(path, tmp_path / "x.npy").outputs["mask"], wanted)
