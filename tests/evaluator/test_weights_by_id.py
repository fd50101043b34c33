"""The evaluator's weights by what plans and reports know them by: function, block, name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, op, write_package

torch = pytest.importorskip("torch")

from mil_palettize import compare, palettize_package  # noqa: E402
from mil_palettize.program.model import Model  # noqa: E402
from mil_palettize.request.config import OpPalettizerConfig, OptimizationConfig  # noqa: E402
from mil_palettize.torch import MILModule, open_model  # noqa: E402

FIXTURES = sorted(p.name for p in (Path(__file__).resolve().parents[2] / "fixtures").glob("*.mlpackage"))
CONFIG = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4, weight_threshold=0))


@pytest.mark.parametrize("name", [name for name in FIXTURES if not name.startswith("future")])
def test_they_are_those_of_the_program(name: str, fixtures: Path) -> None:
    """Of every function of every stage; of each shape, one parameter by its name and by its identity."""
    with Model.open(fixtures / name) as model:
        sites = {site.weight.id: site.weight for site in model.survey().sites}
        functions = [] if model.stages[0].label else sorted(model.stages[0].program.functions)
    for function_name in functions or [None]:
        module = open_model(fixtures / name, function_name)
        by_name, by_id = module.weights, module.weights_by_id
        assert list(module.weight_ids) == list(by_name)
        assert len(by_id) == len(by_name) > 0
        for weight, parameter in by_id.items():
            assert tuple(parameter.shape) == sites[weight].shape
            assert module.stored_bytes(weight) > 0
        assert all(by_id[module.weight_ids[slot]] is parameter for slot, parameter in by_name.items())


def test_every_weight_that_gets_a_palette_is_among_them(fixtures: Path, tmp_path: Path) -> None:
    written = tmp_path / "written.mlpackage"
    report = palettize_package(fixtures / "branches_ios16.mlpackage", written, CONFIG)
    module = MILModule.from_package(written)
    assert max(Counter(weight.name for weight in report.palettized).values()) == 2
    assert {weight.id for weight in report.palettized} <= set(module.weights_by_id)
    for weight in report.palettized:
        assert torch.unique(module.weights_by_id[weight.id]).numel() <= 16
        assert module.stored_bytes(weight.id) == weight.bytes_after


def linear(weight: str) -> MIL.Operation:
    return op("linear", "l", {"x": "x", "weight": weight}, shape=(1, 64))


def test_of_a_function_that_has_blocks_for_several_opsets(tmp_path: Path) -> None:
    """The block that is run is the function's own, which has no opset in front of its path."""
    arrays = {opset: np.full((64, 48), float(opset[-1]), np.float16) for opset in ("CoreML6", "CoreML8")}
    blocks = {opset: block(const("w", array), linear("w"), outputs=["l"]) for opset, array in arrays.items()}
    for own in arrays:
        made = function(blocks, inputs=[("x", (1, 48))])
        made.opset = own
        path = write_package(tmp_path / f"{own}.mlpackage", MIL.Program(version=1, functions={"main": made}))
        ((weight, parameter),) = MILModule.from_package(path).weights_by_id.items()
        assert weight == ("main", "", "w")
        assert parameter.unique().tolist() == [float(own[-1])]


def test_twins_are_compared_each_with_its_own(tmp_path: Path) -> None:
    """The same name in both branches: in the copy, the one in the second branch is compressed and called otherwise."""
    random = np.random.default_rng(3)
    arrays = [random.standard_normal((64, 48)).astype(np.float16) for _ in range(2)]

    def package(name: str, second: str, change: float) -> Path:
        branches = [
            block(const(weight, array), linear(weight), outputs=["l"])
            for weight, array in (("w", arrays[0]), (second, arrays[1] + np.float16(change)))
        ]
        cond = op("cond", "c", {"pred": "p"}, shape=(1, 64), blocks=branches)
        made = function({"CoreML8": block(cond, outputs=["c"])}, inputs=[("x", (1, 48)), ("p", (1,))])
        return write_package(tmp_path / name, MIL.Program(version=1, functions={"main": made}))

    original, changed = package("a.mlpackage", "w", 0.0), package("b.mlpackage", "w_palettized", 1.0)
    random_inputs = {"x": random.standard_normal((1, 48)).astype(np.float32), "p": np.ones(1, np.float32)}
    found = {w.name: w.snr_db for w in compare(original, changed, random_inputs).weights}
    assert found["w"] == np.inf
    assert -3 < found["w (2)"] < 3
