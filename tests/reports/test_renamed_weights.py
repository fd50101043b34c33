"""Weights that are called otherwise in the second package: coremltools' suffixes, names of torch, other readers."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from packages import constants

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, diff_packages, palettize_weights
from mil_palettize.program.counterparts import counterparts, sampled
from mil_palettize.program.weight import Consumer, Weight, WeightId

RNG = np.random.default_rng(4)


# In a list of weights


def weight(
    name: str, reader: str = "", shape: tuple[int, ...] = (8, 4), block: str = "", function: str = "main"
) -> Weight:
    readers = (Consumer("linear", reader, "weight", 0),) if reader else ()
    return Weight(name, name, function, shape, "fp16", 64, "CoreML7", readers, None, block=block)


def names(one: list[Weight], two: list[Weight], values: dict[str, np.ndarray] | None = None) -> dict[str, str]:
    look = lambda id: None if values is None or id.name not in values else sampled(values[id.name])  # noqa: E731
    return {a.name: b.name for a, b in counterparts(one, two, look, look).items()}


def test_the_name_comes_first_then_the_reader() -> None:
    one = [weight("a", "linear_0"), weight("b", "linear_1")]
    assert names(one, [weight("b", "linear_0"), weight("a", "linear_1")]) == {"a": "a", "b": "b"}
    assert names(one, [weight("x", "linear_1"), weight("y", "linear_0")]) == {"a": "y", "b": "x"}
    assert names(one, [weight("x", "linear_1", shape=(4, 8))]) == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("fc_weight", "fc_weight_palettized"),
        ("fc_weight", "fc_weight_quantized_palettized_2"),
        ("fc_weight_to_fp16", "fc_weight"),
        ("0.weight", "op_0_weight_palettized_pcs"),
        ("var_0_weight_to_fp16", "op_0_weight_to_fp16_sparsified"),
    ],
)
def test_names_as_coremltools_changes_them(before: str, after: str) -> None:
    other = [weight(before, "first"), weight("other", "second")]
    assert names(other, [weight("else", "third"), weight(after, "fourth")]) == {before: after}


def test_no_guess_is_made_between_several() -> None:
    one = [weight("a", "linear_0"), weight("b", "linear_0")]
    assert names(one, [weight("x", "linear_0"), weight("y", "linear_1")]) == {}
    in_blocks = [weight("w", block=f"cond[{i}]") for i in range(2)]
    found = counterparts(in_blocks, in_blocks[::-1], lambda id: None, lambda id: None)
    assert found == {one.id: one.id for one in in_blocks}
    assert counterparts([weight("w", function="f")], [weight("w", function="g")], lambda id: None, lambda id: None) == {
        WeightId("f", "", "w"): WeightId("g", "", "w")
    }


def test_values_tell_what_neither_name_nor_reader_does() -> None:
    arrays = {name: RNG.standard_normal((8, 4)) for name in "abc"}
    moved = {"x": np.sign(arrays["b"]), "y": arrays["a"] * 1.1, "z": RNG.standard_normal((8, 4))}
    one, two = [weight(name) for name in "abc"], [weight(name) for name in "xyz"]
    assert names(one, two, arrays | moved) == {"a": "y", "b": "x"}
    assert names([weight("a")], [weight("q")], {"a": np.zeros((8, 4)), "q": np.zeros((8, 4))}) == {}


def test_names_that_values_contradict_come_last() -> None:
    """Numbers of ops are shifted by a layer: what is called input_1 reads another weight."""
    arrays = {name: RNG.standard_normal((8, 4)) for name in ("a", "b", "lost")}
    moved = {"x": arrays["b"] + 0.1, "y": arrays["a"] - 0.1, "z": RNG.standard_normal((8, 4))}
    one = [weight("a", "input_1"), weight("b", "input_2"), weight("lost", "input_9")]
    two = [weight("x", "input_1"), weight("y", "input_3"), weight("z", "input_9")]
    assert names(one, two, arrays | moved) == {"a": "y", "b": "x", "lost": "z"}
    assert names(one, two) == {"a": "x", "lost": "z"}
    plain = {"b_palettized": arrays["lost"], "c": arrays["b"]}
    assert names([weight("b"), weight("q", "r")], [weight("b_palettized"), weight("c")], arrays | plain) == {"b": "c"}


def test_samples_are_spread() -> None:
    array = np.arange(1_000_000.0)
    found = sampled(array.reshape(1000, 1000))
    assert len(found) == 4096
    assert found[-1] > 990_000
    assert np.array_equal(sampled(array[:10]), array[:10])


# In packages


@pytest.fixture(scope="module", params=[("fc1", "act", "fc2"), ("0", "1", "2")], ids=["letters", "digits"])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16)
    net = torch.nn.Sequential(collections.OrderedDict(zip(request.param, layers, strict=True))).eval()
    model = ct.convert(
        torch.jit.trace(net, torch.zeros(1, 16)), inputs=[ct.TensorType("x", shape=(1, 16))],
        minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("net") / "net.mlpackage"
    model.save(str(path))
    return model, path


MAKERS: dict[str, Callable[[Any], Any]] = {
    "our door for models": lambda model: palettize_weights(
        model, OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=100))
    ),
    "palettes of coremltools": lambda model: cto.palettize_weights(
        model, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=100))
    ),
    "int8 of coremltools": lambda model: cto.linear_quantize_weights(
        model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=100))
    ),
}


@pytest.mark.parametrize("maker", list(MAKERS))
def test_every_weight_is_found_again(maker: str, converted: tuple[Any, Path], tmp_path: Path) -> None:
    """The figures are those of what an independent reader decodes."""
    model, path = converted
    MAKERS[maker](model).save(str(tmp_path / "small.mlpackage"))
    wanted = []
    for one in decoded(path):
        other = max(decoded(tmp_path / "small.mlpackage"), key=lambda two: similarity(one, two))
        wanted.append(10 * np.log10((one**2).sum() / ((one - other) ** 2).sum()))
    found = diff_packages(path, tmp_path / "small.mlpackage")
    assert sorted(w.snr_db for w in found.weights if w.snr_db is not None) == pytest.approx(sorted(wanted), abs=1e-6)
    assert len(wanted) == 2
    assert not found.ops
    assert all(w.renamed for w in found.weights)
    assert f"(now {found.weights[0].renamed})" in found.to_text(300)
    compared = compare(path, tmp_path / "small.mlpackage", random=1)
    assert sorted(w.snr_db for w in compared.weights) == pytest.approx(sorted(wanted), abs=1e-3)


def test_layers_whose_ops_are_numbered_otherwise(tmp_path: Path) -> None:
    """The same convolutions inside another module: coremltools calls what reads the second now as the first was."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn.Conv1d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv1d(16, 16, 3), torch.nn.Conv1d(16, 16, 3)
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(416, 8)).eval()

    class Around(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.other = net

        def forward(self, x: Any) -> Any:
            return self.other(x)

    for name, module in (("one", net), ("two", Around().eval())):
        ct.convert(
            torch.jit.trace(module, torch.zeros(1, 8, 32)), inputs=[ct.TensorType("x", shape=(1, 8, 32))],
            outputs=[ct.TensorType("y")], minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
        ).save(str(tmp_path / f"{name}.mlpackage"))  # fmt: skip
    found = compare(tmp_path / "one.mlpackage", tmp_path / "two.mlpackage", random=1).weights
    assert len(found) == 4
    assert all(weight.snr_db == math.inf for weight in found)


def decoded(path: Path) -> list[np.ndarray]:
    arrays = [array() for _, array in constants(path).values()]
    return [np.asarray(a, np.float64) for a in arrays if np.ndim(a) == 2 and np.size(a) == 512]


def similarity(one: np.ndarray, two: np.ndarray) -> float:
    if one.shape != two.shape:
        return -math.inf
    return float((one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum()))
