"""Constants of the evaluator: their values, when they are decoded, their names as parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from packages import constants, read_spec, spec_file

torch = pytest.importorskip("torch")

from evaluator import mb, opened, program_of, saved  # noqa: E402

from mil_palettize.torch import MILModule  # noqa: E402

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# Constants


FIXTURES = sorted(p.name for p in (Path(__file__).resolve().parents[2] / "fixtures").glob("*.mlpackage"))


@pytest.mark.parametrize("name", [n for n in FIXTURES if not n.startswith(("pipeline", "detector", "future"))])
def test_constants_are_those_of_an_independent_reader(name: str, fixtures: Path) -> None:
    """Every constant an op reads as a tensor, whatever form it is stored in."""
    spec = read_spec(fixtures / name)
    for function in spec.mlProgram.functions:
        module = MILModule.from_package(fixtures / name, function)
        expected: dict[str, list[np.ndarray]] = {}
        for key, (_, decode) in constants(fixtures / name).items():
            if key[1] == function:
                expected.setdefault(key[3], []).append(decode())
        found = {c.name: c.decode() for c in module.function.constants.values() if c.name}
        assert found
        for constant, array in found.items():
            assert any(np.array_equal(array, other, equal_nan=array.dtype.kind == "f") for other in expected[constant])


def test_weights_are_what_acts_as_weights(fixtures: Path) -> None:
    module = MILModule.from_package(fixtures / "non_weights_ios18.mlpackage")
    report = ct.models.MLModel(str(fixtures / "non_weights_ios18.mlpackage"), skip_model_load=True)
    assert report is not None
    assert module.weights
    assert not any("mask" in name for name in module.weights)
    assert all(isinstance(w, torch.nn.Parameter) and w.dim() > 1 for w in module.weights.values())


def test_nothing_is_decoded_before_it_is_needed(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(MILModule, "_put", lambda self, slot, constant: decoded.append(slot))
    module = MILModule.from_package(fixtures / "palettized_ios16.mlpackage")
    assert module.features.inputs
    assert module.shapes
    assert not decoded


def test_a_palette_is_decoded_once(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = MILModule.from_package(fixtures / "palettized_ios16.mlpackage")
    weights = module.weights
    monkeypatch.setattr(MILModule, "_put", lambda *arguments: pytest.fail("decoded again"))
    assert all(weights[name] is module.weights[name] for name in weights)


def test_weights_are_trainable_and_changes_count(tmp_path: Path) -> None:
    weight = floats(3, 4)
    module = opened(lambda x: mb.linear(x=x, weight=weight, name="y"), [((2, 4), np.float32)], tmp_path)
    x = torch.from_numpy(floats(2, 4))
    (parameter,) = module.weights.values()
    module(x0=x)["y"].sum().backward()
    assert torch.allclose(parameter.grad, x.sum(0).expand(3, 4))
    with torch.no_grad():
        parameter.mul_(2)
    assert torch.allclose(module(x0=x)["y"], x @ torch.from_numpy(2 * weight).T, atol=1e-5)
    swapped = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    assert torch.func.functional_call(module, swapped, kwargs={"x0": x})["y"].abs().max() == 0


def test_module_can_be_moved(tmp_path: Path) -> None:
    module = opened(lambda x: mb.linear(x=x, weight=floats(3, 4), name="y"), [((2, 4), np.float32)], tmp_path).double()
    assert {p.dtype for p in module.parameters()} == {torch.float64}


def test_another_module_sees_its_parameters(tmp_path: Path) -> None:
    def module() -> MILModule:
        return opened(lambda x: mb.linear(x=x, weight=floats(3, 4), name="y"), [((2, 4), np.float32)], tmp_path)

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module()

    assert [p.shape for p in Outer().parameters()] == [(3, 4)]
    one, two = module(), module()
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert list(module().buffers())


@pytest.mark.parametrize("name", ["weights", "forward", "training", "function", "features", "a.b", "x_1"])
def test_any_name_of_a_constant(name: str, tmp_path: Path) -> None:
    weight = floats(3, 4)

    def build(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.const(val=weight, name=name), name="y")

    module = opened(build, [((2, 4), np.float32)], tmp_path)
    x = floats(2, 4)
    np.testing.assert_allclose(module.predict({"x0": x})["y"], x @ weight.T, rtol=1e-5, atol=1e-6)
    assert len(module.weights) == 1


def test_names_that_torch_would_take_for_one_another(tmp_path: Path) -> None:
    weights = [floats(4, 4) for _ in range(3)]
    names = ["a_b", "a.b", "a.b_"]
    path = saved(program_of(lambda x: _linears(x, weights), [((2, 4), np.float32)]), tmp_path)
    spec = read_spec(path)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    for op in block.operations:
        for number, name in enumerate(names):
            for item in op.outputs:
                item.name = name if item.name == f"w{number}" else item.name
            for argument in op.inputs.values():
                for binding in argument.arguments:
                    if binding.name == f"w{number}":
                        binding.name = name
    spec_file(path).write_bytes(spec.SerializeToString())
    module, x = MILModule.from_package(path), floats(2, 4)
    wanted = x
    for weight in weights:
        wanted = wanted @ weight.T
    np.testing.assert_allclose(next(iter(module.predict({"x0": x}).values())), wanted, rtol=1e-4, atol=1e-5)
    assert set(module.weights) == set(names)


def _linears(x: Any, weights: Sequence[np.ndarray]) -> Any:
    for number, weight in enumerate(weights):
        x = mb.linear(x=x, weight=mb.const(val=weight, name=f"w{number}"))
    return x


def test_sibling_blocks_may_use_a_name_twice(fixtures: Path) -> None:
    """``branches_ios16`` has a constant of the same name in both branches of a ``cond``."""
    module = MILModule.from_package(fixtures / "branches_ios16.mlpackage")
    twice = [name for name in module.weights if name.endswith(" (2)")]
    assert twice
    for name in twice:
        first = name.removesuffix(" (2)")
        own, other = module.weight_ids[name], module.weight_ids[first]
        assert (own.function, own.name) == (other.function, other.name) == ("main", first)
        assert own.block != other.block
        assert module.stored_bytes(own) == module.stored_bytes(other) > 0
        assert module.weights_by_id[own] is module.weights[name]
        assert not torch.equal(module.weights[name], module.weights[first])
