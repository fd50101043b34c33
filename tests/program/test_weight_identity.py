"""What tells a weight from every other one: function, path of its block, name; the same at every hop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from mil_messages import block, const, function, op, program, stored, surveyed, value, write_package
from packages import constants

from mil_palettize import Report, VerifyError, decompress_package, diff_packages
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.program.scopes import build_scope
from mil_palettize.program.stages import stages
from mil_palettize.program.survey import survey
from mil_palettize.program.weight import WeightId
from mil_palettize.rewriting.verification import verify_package

W = (64, 48)
RNG = np.random.default_rng(7)
Palettize = Callable[..., tuple[Path, Report]]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float16)


def linear(name: str, weight: str) -> MIL.Operation:
    return op("linear", name, {"x": "x", "weight": weight}, shape=(1, 64))


def branch(array: np.ndarray, name: str = "w") -> MIL.Block:
    """A constant and the op that reads it, which have the same names in every branch."""
    return block(const(name, array), linear("l", name), outputs=["l"])


def cond(name: str, *blocks: MIL.Block) -> MIL.Operation:
    return op("cond", name, {"pred": "p"}, shape=(1, 64), blocks=blocks)


def ids(made: MIL.Program, label: str = "") -> list[WeightId]:
    return [site.weight.id for site in surveyed(made, label).sites]


def pipeline(*named: tuple[str, MIL.Program]) -> Model_pb2.Model:
    model = Model_pb2.Model(specificationVersion=9)
    for name, made in named:
        model.pipeline.models.add(specificationVersion=9, mlProgram=made)
        model.pipeline.names.append(name)
    return model


def package(folder: Path, model: Model_pb2.Model) -> Path:
    path = write_package(folder, program())
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(model.SerializeToString())
    return path


# What it is


def test_sibling_and_nested_blocks() -> None:
    inner = cond("inner", branch(floats(*W)), branch(floats(*W)))
    made = program(
        const("w", shape=W),
        linear("before", "w"),
        cond("outer", branch(floats(*W)), block(const("w", shape=W), inner, linear("m", "w"), outputs=["m"])),
        linear("after", "w"),
    )
    paths = ["", "outer[0]", "outer[1]", "outer[1]/inner[0]", "outer[1]/inner[1]"]
    assert ids(made) == [("main", path, "w") for path in paths]


def test_loops() -> None:
    """By their first result, which no other op of the block has: ops may be called the same, and here are."""
    inputs = [("state", (1, 64))]
    loops = []
    for number in range(2):
        again = block(
            const("w", shape=W), op("less", "again", {"x": "state", "y": "w"}), inputs=inputs, outputs=["again"]
        )
        body = block(const("w", shape=W), linear("step", "w"), inputs=inputs, outputs=["step"])
        one = op(
            "while_loop", "loop", {"loop_vars": ["x"]}, outputs=[(f"found_{number}", (1, 64))], blocks=[again, body]
        )
        loops.append(one)
    assert [id.block for id in ids(program(*loops))] == ["found_0[0]", "found_0[1]", "found_1[0]", "found_1[1]"]


def test_functions() -> None:
    body = {"CoreML8": branch(floats(*W))}
    made = MIL.Program(version=1, functions={"a": function(body), "b": function(body)})
    assert ids(made) == [("a", "", "w"), ("b", "", "w")]


def specialized() -> MIL.Program:
    """A function of opset CoreML6 that also has a block for CoreML8."""
    blocks = {opset: block(const("w", floats(*W)), cond("c", branch(floats(*W))), outputs=["c"]) for opset in OPSETS}
    made = function(blocks)
    made.opset = "CoreML6"
    return MIL.Program(version=1, functions={"main": made})


OPSETS = ("CoreML6", "CoreML8")


def test_specializations() -> None:
    """The function's own block has no opset in front: it may get another one."""
    paths = ["", "c[0]", "CoreML8", "CoreML8/c[0]"]
    assert ids(specialized()) == [("main", path, "w") for path in paths]


def test_a_move_changes_no_identity(tmp_path: Path) -> None:
    with Model.open(write_package(tmp_path / "m.mlpackage", specialized())) as model:
        before = [site.weight.id for site in model.survey().sites]
        model.move(parse_target("CoreML7"))
        after = [site.weight for site in model.survey().sites]
    assert {weight.opset for weight in after} == {"CoreML7", "CoreML8"}
    assert [weight.id for weight in after] == before


def test_stages_of_pipelines() -> None:
    made = program(const("w", shape=W), linear("l", "w"))
    inner = pipeline(("first", made))
    model = pipeline(("first", made), ("", made), ("first", made))
    model.pipeline.models.append(inner)
    model.pipeline.names.append("deep")
    found = [site.weight.id for stage in stages(model) for site in survey(stage).sites]
    functions = ["first/main", "1/main", "first (2)/main", "deep/first/main"]
    assert found == [(name, "", "w") for name in functions]
    assert [id.stage for id in found] == ["first", "1", "first (2)", "deep/first"]
    assert ids(made)[0].stage == ""


def test_numbers_for_stages_are_names_of_no_other() -> None:
    made = program(const("w", shape=W))
    assert [s.label for s in stages(pipeline(*((name, made) for name in ("a (2)", "a", "a"))))] == [
        "a (2)",
        "a",
        "a (3)",
    ]


def test_values_in_place() -> None:
    """Those of one input have the same name, and are told apart by where they stand."""
    joined = op("concat", "joined", {"values": "x", "axis": value(0)}, shape=W)
    joined.inputs["values"].Clear()
    for offset in (64, 128):
        joined.inputs["values"].arguments.add().value.CopyFrom(stored((32, 48), offset=offset))
    found = ids(program(joined, cond("c", block(linear("l", "x")))))
    assert found == [
        ("main", "joined.axis[0]", "joined.axis"),
        ("main", "joined.values[0]", "joined.values"),
        ("main", "joined.values[1]", "joined.values"),
    ]


@pytest.mark.parametrize("name", [path.name for path in sorted(Path(__file__).parents[2].glob("fixtures/*.mlpackage"))])
def test_no_two_constants_of_a_package_share_one(name: str, fixtures: Path) -> None:
    with Model.open(fixtures / name) as model:
        found = [site.weight.id for site in model.survey().sites]
    assert found
    assert len(set(found)) == len(found)


def test_what_an_op_reads_is_resolved_where_it_stands() -> None:
    """A name means the inner constant in one block, and the outer one beside it."""
    hiding = block(const("w", shape=(32, 80)), linear("inside", "w"), outputs=["inside"])
    made = program(
        const("w", shape=W),
        cond("c", hiding, block(linear("beside", "w"), outputs=["beside"])),
        linear("lost", "nobody"),
    ).functions["main"]
    scope = build_scope(made, made.block_specializations["CoreML8"])
    read = {scoped.op.outputs[0].name: scope.reads(scoped.op, "weight") for scoped in scope.ops}
    assert [(r.name, r.node and r.node.shape, r.node and r.node.block) for r in read["inside"]] == [
        ("w", (32, 80), "c[0]")
    ]
    assert [(r.name, r.node and r.node.shape, r.node and r.node.block) for r in read["beside"]] == [("w", W, "")]
    assert [(r.name, r.node) for r in read["lost"]] == [("nobody", None)]
    assert read["w"] == []


# Where it is used


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """The same names in both branches; only the second constant is above the threshold of 2048 elements."""
    made = program(cond("c", branch(floats(64, 4)), branch(floats(*W))), outputs=["c"])
    return write_package(tmp_path / "twins.mlpackage", made)


def test_reports_name_the_block(twins: Path, palettize: Palettize) -> None:
    written, report = palettize(twins, nbits=4, verify=True)
    (weight,) = report.palettized
    assert weight.id == ("main", "c[1]", "w")
    assert [w["block"] for w in json.loads(report.to_json())["weights"]] == ["c[1]"]
    types = {place: o.type for (_, _, place, name), (o, _) in constants(written).items() if name == "w"}
    assert sorted(types.values()) == ["const", "constexpr_lut_to_dense"]
    (difference,) = diff_packages(twins, written).weights
    assert (difference.name, difference.before, difference.after) == ("w", "const", "4-bit palette")
    dense = decompress_package(written, written.with_name("dense.mlpackage"), verify=True)
    assert [w.id for w in dense.decompressed] == [weight.id]


def test_a_palette_is_verified_against_what_is_said_of_its_own_block(twins: Path, palettize: Palettize) -> None:
    written, report = palettize(twins, nbits=4)
    verify_package(twins, written, report)
    report.weights = [replace(weight, block="c[0]") for weight in report.weights]
    with pytest.raises(VerifyError, match="'main/w' is a palette that was not reported"):
        verify_package(twins, written, report)


def test_twins_that_are_planned_otherwise(tmp_path: Path, palettize: Palettize) -> None:
    """Same names, same shapes: one has few values and gets a palette without loss, the other has too many for any."""
    few = RNG.integers(0, 4, W).astype(np.float16)
    many = np.arange(W[0] * W[1], dtype=np.float16).reshape(W)
    made = program(cond("c", branch(many), branch(few)), outputs=["c"])
    written, report = palettize(write_package(tmp_path / "m.mlpackage", made), mode="unique", verify=True)
    assert [(w.block, w.status) for w in report.weights] == [("c[0]", "skipped"), ("c[1]", "palettized")]
    found = {place: (o.type, read()) for (_, _, place, name), (o, read) in constants(written).items() if name == "w"}
    assert sorted(kind for kind, _ in found.values()) == ["const", "constexpr_lut_to_dense"]
    for kind, values in found.values():
        np.testing.assert_array_equal(values, many if kind == "const" else few)


def test_redo_makes_one_of_two_twins_anew(tmp_path: Path, palettize: Palettize) -> None:
    """The palette in one branch is another constant than the dense one of that name in the other branch."""
    made = program(cond("c", branch(floats(*W)), branch(floats(64, 4))), outputs=["c"])
    four, _ = palettize(write_package(tmp_path / "m.mlpackage", made), nbits=4)
    written, report = palettize(four, nbits=2, weight_threshold=1, redo=True, verify=True)
    told = {w.block: (w.status, w.nbits, any("in place of" in note for note in w.notes)) for w in report.weights}
    assert told == {"c[0]": ("palettized", 2, True), "c[1]": ("palettized", 2, False)}
    assert len([1 for (_, _, _, name), (o, _) in constants(written).items() if name == "w"]) == 2


def test_stages_of_one_name_are_planned_apart(tmp_path: Path, palettize: Palettize) -> None:
    few, many = RNG.integers(0, 4, W).astype(np.float16), np.arange(W[0] * W[1], dtype=np.float16).reshape(W)
    made = pipeline(*(("stage", program(*branch(array).operations, outputs=["l"])) for array in (few, many)))
    _, report = palettize(package(tmp_path / "m.mlpackage", made), mode="unique", verify=True)
    assert [(w.function, w.status) for w in report.weights] == [
        ("stage/main", "palettized"),
        ("stage (2)/main", "skipped"),
    ]
