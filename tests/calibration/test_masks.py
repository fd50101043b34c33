"""Positions that attention hides: found in programs of every kind, and left out of moments and trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, op, write_package

torch = pytest.importorskip("torch")

from mil_palettize.torch.calibration.made_up_samples import natural_samples  # noqa: E402
from mil_palettize.torch.calibration.masks import counted, counted_arguments, kept_positions, mask_of  # noqa: E402
from mil_palettize.torch.calibration.walk import Collected, WalkOptions, walk  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402

TOKENS, SIZE = 6, 8
KEPT = np.array([[1, 1, 1, 1, 0, 0]], np.float32)


def attention(folder: Path, kind: str) -> MILModule:
    """One head over six positions; ``kind``: how its mask comes into the scores."""
    random = np.random.default_rng(0)
    ops = [
        const("w", random.standard_normal((SIZE, SIZE)).astype(np.float32)),
        const("one", np.float32(1.0)), const("far", np.float32(-1e4)), const("axes", np.array([1, 2], np.int32)),
        const("low", np.float32(-1e4)), const("half", np.float32(0.5)), const("axis", np.int32(-1)),
        const("no", np.bool_(False)), const("yes", np.bool_(True)), const("axes1", np.array([1], np.int32)),
        op("linear", "q", {"x": "x", "weight": "w"}),
        op("expand_dims", "q4", {"x": "q", "axes": "axes1"}),
        op("matmul", "scores", {"x": "q4", "y": "q4", "transpose_x": "no", "transpose_y": "yes"}),
        op("expand_dims", "m4", {"x": "mask", "axes": "axes"}),
    ]  # fmt: skip
    if kind == "added":
        ops += [
            op("sub", "off", {"x": "one", "y": "m4"}),
            op("mul", "hidden", {"x": "off", "y": "far"}),
            op("add", "masked", {"x": "scores", "y": "hidden"}),
        ]
    else:
        compare = "less" if kind == "hides" else "greater"
        chosen = ("low", "scores") if kind == "hides" else ("scores", "low")
        ops += [
            op(compare, "cond", {"x": "m4", "y": "half"}),
            op("select", "masked", {"cond": "cond", "a": chosen[0], "b": chosen[1]}),
        ]
    ops += [
        op("softmax", "soft", {"x": "masked", "axis": "axis"}),
        op("matmul", "y", {"x": "soft", "y": "q4", "transpose_x": "no", "transpose_y": "no"}),
    ]
    made = function({"CoreML7": block(*ops, outputs=["y"])}, [("x", (1, TOKENS, SIZE)), ("mask", (1, TOKENS))])
    package = write_package(folder / f"{kind}.mlpackage", MIL.Program(version=1, functions={"main": made}))
    return MILModule.from_package(package)


def sample(seed: int, mask: np.ndarray = KEPT) -> dict[str, Any]:
    x = np.random.default_rng(seed).standard_normal((1, TOKENS, SIZE)).astype(np.float32)
    return {"x": torch.from_numpy(x), "mask": torch.from_numpy(mask)}


@pytest.mark.parametrize("kind", ["added", "hides", "counts"])
def test_what_attention_hides(tmp_path: Path, kind: str) -> None:
    module = attention(tmp_path, kind)
    mask = mask_of(module.function)
    assert mask is not None
    assert (mask.inputs, mask.kind) == (("mask",), kind)
    hidden, all_count, none_counts = kept_positions(
        module, [sample(0), sample(0, np.ones_like(KEPT)), sample(0, np.zeros_like(KEPT))]
    )
    assert hidden is not None
    assert hidden.tolist() == [[True, True, True, True, False, False]]
    assert all_count is None
    assert none_counts is None  # a mask that hides everything says nothing


def test_hidden_positions_change_no_output_of_others_and_no_moments(tmp_path: Path) -> None:
    """Whatever stands in them: what is kept of the output, and what is collected, is the same."""
    module = attention(tmp_path, "added")
    one = [sample(seed) for seed in range(4)]
    two = [{**given, "x": given["x"].clone()} for given in one]
    for number, given in enumerate(two):
        given["x"][:, 4:] = 100.0 * (number + 1)
    found: list[tuple[np.ndarray, int, float]] = []

    def solve(told: Collected) -> None:
        assert told.trial is not None
        (moments,) = told.moments
        found.append((moments.square, moments.count, told.trial(np.zeros((SIZE, SIZE)))))

    for samples in (one, two):
        walk(module, samples, ["w"], solve, WalkOptions(held=frozenset({3})))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == 3 * 4
    assert found[0][2] == found[1][2]
    x = np.concatenate([given["x"].numpy()[0, :4] for given in one[:3]]).astype(np.float64)
    np.testing.assert_allclose(found[0][0][0], x.T @ x, rtol=1e-6)


def test_positions_along_any_axis() -> None:
    kept = torch.tensor([[True, False, True]])
    assert counted(torch.zeros(1, 3, 5), kept).shape == (2, 5)
    assert counted(torch.zeros(3, 5), kept).shape == (2, 5)
    assert counted(torch.zeros(1, 7, 1, 3), kept).shape == (1, 7, 1, 2)
    assert counted(torch.zeros(1, 4, 5), kept).shape == (1, 4, 5)
    assert counted(torch.zeros(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)).shape == (6, 5)


@pytest.mark.parametrize(("kernel", "left"), [(1, 2), (3, 3)])
def test_kernels_that_see_several_positions_keep_them_all(kernel: int, left: int) -> None:
    kept = torch.tensor([[True, False, True]])
    arguments = {"x": torch.zeros(1, 4, 1, 3), "weight": torch.zeros(2, 4, 1, kernel)}
    assert counted_arguments("conv", "weight", arguments, kept)["x"].shape[-1] == left


def test_networks_without_a_mask(fixtures: Path) -> None:
    for name in ("conv_fp16_ios18", "embedding_linear_ios16"):
        assert mask_of(MILModule.from_package(fixtures / f"{name}.mlpackage").function) is None


def test_made_up_masks_hide_what_comes_last(tmp_path: Path) -> None:
    made = np.concatenate([given["mask"] for given in natural_samples(attention(tmp_path, "added"), 40, 0)])
    assert set(np.unique(made)) == {0, 1}
    counts = made.sum(1).astype(int)
    np.testing.assert_array_equal(made, np.arange(TOKENS) < counts[:, None])
    assert (counts.min(), counts.max()) == (1, TOKENS)
