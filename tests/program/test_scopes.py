"""Names and what reads them, in programs written by hand: nested blocks, loops, branches, chains, inline values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import (
    block,
    const,
    decisions,
    function,
    kind,
    op,
    planned,
    program,
    stored,
    surveyed,
    value,
    weights,
    write_package,
)
from packages import constants, differences

from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.model import Model
from mil_palettize.program.sites import Site
from mil_palettize.program.weight import Weight

W = (64, 48)
Palettize = Callable[..., tuple[Path, Report]]


def linear(name: str, weight: str, x: str = "x") -> MIL.Operation:
    return op("linear", name, {"x": x, "weight": weight}, shape=(1, 64))


def cond(name: str, *blocks: MIL.Block, outputs: int = 1) -> MIL.Operation:
    results = [(f"{name}_{i}" if i else name, (1, 64)) for i in range(outputs)]
    return op("cond", name, {"pred": "p"}, outputs=results, blocks=blocks)


def loop(name: str, variables: list[str], again: MIL.Block, body: MIL.Block, shape: tuple = W) -> MIL.Operation:
    """A ``while_loop`` with results ``name_0``, ``name_1``, ..."""
    results = [(f"{name}_{i}", shape) for i in range(len(variables))]
    return op("while_loop", name, {"loop_vars": variables}, outputs=results, blocks=[again, body])


def readers(weight: Weight) -> list[tuple[str, str]]:
    """(op name, input) of what uses a weight."""
    return [(c.op_name, c.input_name) for c in weight.consumers]


def path(weight: Weight) -> list[str]:
    """Op names between a weight and its only consumer."""
    (consumer,) = weight.consumers
    return [name for _, name in consumer.path]


def named(sites: list[Site], name: str) -> list[Weight]:
    return [site.weight for site in sites if site.weight.name == name]


# Blocks


def test_sibling_blocks_may_use_a_name_twice() -> None:
    then = block(const("w", shape=(64, 48)), linear("then", "w"), outputs=["then"])
    other = block(const("w", shape=(32, 80)), op("conv", "other", {"x": "x", "weight": "w"}), outputs=["other"])
    first, second = named(surveyed(program(cond("c", then, other))).sites, "w")
    assert (first.shape, readers(first)) == ((64, 48), [("then", "weight")])
    assert (second.shape, readers(second)) == ((32, 80), [("other", "weight")])
    assert (first.id, second.id) == (("main", "c[0]", "w"), ("main", "c[1]", "w"))


def test_inner_name_hides_the_outer_one_only_inside() -> None:
    inner = block(const("w", shape=(32, 80)), linear("inside", "w"), outputs=["inside"])
    untouched = block(linear("beside", "w"), outputs=["beside"])
    made = program(const("w", shape=(64, 48)), linear("before", "w"), cond("c", inner, untouched), linear("after", "w"))
    outer, hidden = named(surveyed(made).sites, "w")
    assert (outer.shape, readers(outer)) == (
        (64, 48),
        [("before", "weight"), ("beside", "weight"), ("after", "weight")],
    )
    assert (hidden.shape, readers(hidden)) == ((32, 80), [("inside", "weight")])


def test_constant_is_read_two_blocks_further_in() -> None:
    innermost = block(linear("deep", "w"), outputs=["deep"])
    middle = block(cond("inner", innermost, block(outputs=["x"])), outputs=["inner"])
    made = program(const("w", shape=W), cond("outer", middle, block(outputs=["x"])))
    assert readers(weights(made)["w"]) == [("deep", "weight")]


def test_name_is_unknown_after_its_block() -> None:
    """A block's name does not leak: a reader outside reads whatever had the name before, here nothing."""
    inner = block(const("w", shape=W), linear("inside", "w"), outputs=["inside"])
    made = program(cond("c", inner, block(outputs=["x"])), linear("outside", "w"))
    assert readers(weights(made)["w"]) == [("inside", "weight")]


@pytest.mark.parametrize("where", ["main", "own branch", "from outside"])
def test_block_outputs_are_left_alone(where: str) -> None:
    w = const("w", shape=W)
    made = {
        "main": program(w, linear("l", "w"), outputs=["l", "w"]),
        "own branch": program(cond("c", block(w, linear("l", "w"), outputs=["l", "w"]), block(outputs=["x", "x"]))),
        "from outside": program(w, linear("l", "w"), cond("c", block(outputs=["w"]), block(outputs=["x"]))),
    }[where]
    assert weights(made)["w"].obstacle == "is an output of its block, which a compressed constant cannot be"
    assert decisions(planned(made, nbits=4, select="all"))["w"].specification is None


# Loops


def test_invariant_loop_variable_leads_to_its_readers() -> None:
    """In the condition, in the body and after the loop."""
    inputs = [("i", (1, 64)), ("kept", W)]
    again = block(op("less", "again", {"x": "i", "y": "kept"}), inputs=inputs, outputs=["again"])
    body = block(linear("step", "kept", x="i"), inputs=inputs, outputs=["step", "kept"])
    made = program(const("w", shape=W), loop("loop", ["x", "w"], again, body), linear("after", "loop_1"))
    weight = weights(made)["w"]
    assert readers(weight) == [("again", "y"), ("step", "weight"), ("after", "weight")]
    assert all(c.path == (("while_loop", "loop"),) for c in weight.consumers)
    assert weight.obstacle == ""


def test_changing_loop_variable_is_used_by_the_loop() -> None:
    """Even where the body reads it as a weight: from the second round on it is another value."""
    inputs = [("memory", W)]
    body = block(
        linear("step", "memory"),
        op("mul", "next", {"x": "memory", "y": "memory"}, shape=W),
        inputs=inputs,
        outputs=["next"],
    )
    made = program(const("w", shape=W), loop("loop", ["w"], block(inputs=inputs, outputs=["memory"]), body))
    assert readers(weights(made)["w"]) == [("loop", "loop_vars")]
    reason = decisions(planned(made, nbits=4))["w"].reason
    assert reason.startswith("does not act as a weight (read by while_loop 'loop_vars')")


def test_swapped_loop_variables_change() -> None:
    inputs = [("a", W), ("b", W)]
    body = block(linear("step", "a"), inputs=inputs, outputs=["b", "a"])
    made = program(
        const("w", shape=W), const("v", shape=W), loop("loop", ["w", "v"], block(inputs=inputs, outputs=["a"]), body)
    )
    assert [readers(weights(made)[name]) for name in "wv"] == [[("loop", "loop_vars")]] * 2


def test_same_names_in_condition_and_body_are_different_variables() -> None:
    """Loop variables are matched by position: the body calls the second what the condition calls the first."""
    again = block(op("less", "again", {"x": "a", "y": "a"}), inputs=[("a", (1, 64)), ("b", W)], outputs=["again"])
    body = block(linear("step", "a", x="b"), inputs=[("b", (1, 64)), ("a", W)], outputs=["step", "a"])
    made = program(const("w", shape=W), loop("loop", ["x", "w"], again, body))
    assert readers(weights(made)["w"]) == [("step", "weight")]


def test_nested_loops() -> None:
    inner_inputs, outer_inputs = [("inner_kept", W)], [("outer_kept", W)]
    inner_body = block(linear("deep", "inner_kept"), inputs=inner_inputs, outputs=["inner_kept"])
    inner = loop("inner", ["outer_kept"], block(inputs=inner_inputs, outputs=["p"]), inner_body)
    outer_body = block(inner, inputs=outer_inputs, outputs=["outer_kept"])
    outer = loop("outer", ["w"], block(inputs=outer_inputs, outputs=["p"]), outer_body)
    weight = weights(program(const("w", shape=W), outer))["w"]
    assert readers(weight) == [("deep", "weight")]
    assert path(weight) == ["outer", "inner"]
    assert weight.consumers[0].channel_axis == 0


def test_constant_returned_by_the_body_is_a_block_output() -> None:
    body = block(const("w", shape=W), linear("step", "w"), inputs=[("a", W)], outputs=["w"])
    made = program(loop("loop", ["x"], block(inputs=[("a", W)], outputs=["p"]), body))
    assert weights(made)["w"].obstacle.startswith("is an output of its block")


def test_shape_ops_inside_a_loop_on_an_invariant_variable() -> None:
    """A loop argument is as constant as what it came from: the linear is the real consumer."""
    inputs = [("kept", (48, 64))]
    body = block(
        const("perm", np.array([1, 0])),
        op("transpose", "turned", {"x": "kept", "perm": "perm"}, shape=W),
        linear("step", "turned"),
        inputs=inputs,
        outputs=["kept"],
    )
    loop_op = loop("loop", ["w"], block(inputs=inputs, outputs=["p"]), body, shape=(48, 64))
    weight = weights(program(const("w", shape=(48, 64)), loop_op))["w"]
    assert readers(weight) == [("step", "weight")]
    assert path(weight) == ["loop", "turned"]
    assert weight.consumers[0].channel_axis == 1


# Chains of constants


def test_chain_of_constants() -> None:
    made = program(
        const("w", shape=(48, 64)),
        op("cast", "half", {"x": "w", "dtype": value("fp16")}, shape=(48, 64)),
        op("transpose", "turned", {"x": "half", "perm": value(np.array([1, 0]))}, shape=W),
        linear("a", "turned"),
        linear("b", "turned"),
        op("add", "c", {"x": "half", "y": "x"}),
    )
    weight = weights(made)["w"]
    assert readers(weight) == [("a", "weight"), ("b", "weight"), ("c", "x")]
    assert [[name for _, name in c.path] for c in weight.consumers] == [
        ["half", "turned"],
        ["half", "turned"],
        ["half"],
    ]
    assert [c.channel_axis for c in weight.consumers] == [1, 1, 0]


@pytest.mark.parametrize("runtime", ["shape", "value"])
def test_chain_ends_where_a_runtime_value_enters(runtime: str) -> None:
    """The op that mixes is what reads the constant."""
    mixing = {
        "shape": op("reshape", "mixed", {"x": "w", "shape": "x"}, shape=W),
        "value": op("concat", "mixed", {"values": ["w", "x"], "axis": value(0)}, shape=W),
    }[runtime]
    made = program(const("w", shape=W), mixing, linear("l", "mixed"))
    assert readers(weights(made)["w"]) == [("mixed", "x" if runtime == "shape" else "values")]


def test_small_inputs_of_shape_ops_lead_nowhere() -> None:
    """The permutation does not become a weight because what it permutes is one."""
    made = program(
        const("w", shape=(48, 64)),
        const("perm", np.array([1, 0])),
        op("transpose", "turned", {"x": "w", "perm": "perm"}, shape=W),
        linear("l", "turned"),
    )
    assert readers(weights(made)["perm"]) == [("turned", "perm")]


def test_several_outputs_and_inputs() -> None:
    """split leads to all its outputs, concat takes each of its values on."""
    made = program(
        const("w", shape=(128, 48)),
        const("v", shape=W),
        op("split", "split", {"x": "w", "axis": value(0)}, outputs=[("upper", W), ("lower", W)]),
        op("concat", "joined", {"values": ["lower", "v"], "axis": value(0)}, shape=(128, 48)),
        linear("a", "upper"),
        linear("b", "joined"),
    )
    assert readers(weights(made)["w"]) == [("a", "weight"), ("b", "weight")]
    assert readers(weights(made)["v"]) == [("b", "weight")]
    assert path(weights(made)["v"]) == ["joined"]


def test_weight_read_twice_by_one_op() -> None:
    made = program(const("w", shape=W), op("matmul", "square", {"x": "w", "y": "w", "transpose_y": value(True)}))
    weight = weights(made)["w"]
    assert [(c.input_name, c.channel_axis) for c in weight.consumers] == [("x", 0), ("y", 0)]


def test_chain_that_is_an_output_is_read_by_its_last_op() -> None:
    made = program(
        const("w", shape=W), op("cast", "single", {"x": "w", "dtype": value("fp32")}, shape=W), outputs=["single"]
    )
    assert readers(weights(made)["w"]) == [("single", "x")]


def test_constant_read_nowhere() -> None:
    made = program(const("w", shape=W), linear("l", "x"))
    assert weights(made)["w"].consumers == ()
    assert decisions(planned(made, nbits=4, select="all"))["w"].reason == "nothing reads it"


def test_chain_read_nowhere() -> None:
    made = program(const("w", shape=W), op("cast", "unread", {"x": "w", "dtype": value("fp32")}, shape=W))
    assert weights(made)["w"].consumers == ()


# Values without const ops


def test_inline_values_are_reported_and_never_taken() -> None:
    made = program(op("linear", "l", {"x": "x", "weight": stored(W), "bias": value(np.zeros(64))}, shape=(1, 64)))
    weight = weights(made)["l.weight"]
    assert (weight.form, weight.shape, weight.nbytes) == ("inline", W, 64 * 48 * 2)
    assert readers(weight) == [("l", "weight")]
    plan = planned(made, nbits=4, select="all")
    assert decisions(plan)["l.weight"].reason == "is bound to its op in place, not by a const op"
    assert plan.small == 1


def test_inline_parameters_of_a_named_op_are_not_what_was_named() -> None:
    """Naming an op asks for its weights; its flags in place are small constants like any other."""
    made = program(
        const("w", shape=W),
        op("matmul", "m", {"x": "x", "y": "w", "transpose_x": value(False), "transpose_y": value(True)}),
    )
    config = OptimizationConfig(op_name_configs={"m": OpPalettizerConfig(nbits=4)})
    plan = planned(made, config, strict=True)
    assert set(decisions(plan)) == {"w"}
    assert decisions(plan)["w"].specification is not None
    assert plan.small == 2


def test_values_in_weight_files_are_found_wherever_they_stand() -> None:
    """In attributes, lists, tuples, dictionaries, nested blocks, block and program attributes."""
    nested = MIL.Value()
    nested.immediateValue.list.values.add().CopyFrom(stored(W, offset=128))
    nested.immediateValue.list.values.add().immediateValue.tuple.values.add().CopyFrom(stored(W, offset=192))
    pair = nested.immediateValue.list.values.add().immediateValue.dictionary.values.add()
    pair.key.CopyFrom(stored(W, offset=256))
    pair.value.CopyFrom(stored(W, offset=320))
    inner = block(const("inside", shape=W, offset=384), outputs=["inside"])
    inner.attributes["note"].CopyFrom(stored(W, offset=448))
    made = program(
        const("w", shape=W, offset=64),
        op("future_op", "f", {"x": stored(W, offset=512)}, attributes={"tables": nested}, blocks=[inner]),
    )
    made.attributes["buildInfo"].CopyFrom(stored(W, offset=576))
    made.functions["main"].attributes["note"].CopyFrom(stored(W, offset=640))
    assert sorted(use.offset for use in blob_uses(made)) == list(range(64, 704, 64))


# Functions and specializations


def test_specializations_are_two_blocks_of_one_function() -> None:
    """Each with its own constants, names and opset."""
    old = block(const("w", shape=W), linear("l", "w"), outputs=["l"])
    new = block(const("w", shape=(96, 48)), op("conv", "c", {"x": "x", "weight": "w"}), outputs=["c"])
    made = MIL.Program(version=1, functions={"main": function({"CoreML6": old, "CoreML8": new})})
    first, second = named(surveyed(made).sites, "w")
    assert [(w.opset, w.shape, readers(w)) for w in (first, second)] == [
        ("CoreML6", (64, 48), [("l", "weight")]),
        ("CoreML8", (96, 48), [("c", "weight")]),
    ]
    assert first.key == second.key == "main/w"


def test_palettes_of_two_specializations_have_two_forms(tmp_path: Path, palettize: Palettize) -> None:
    array = np.random.default_rng(0).standard_normal(W).astype(np.float16)
    blocks = {
        opset: block(const("w", array), op("linear", "l", {"x": "x", "weight": "w"}), outputs=["l"])
        for opset in ("CoreML6", "CoreML8")
    }
    made = MIL.Program(version=1, functions={"main": function(blocks)})
    source = write_package(tmp_path / "source.mlpackage", made)
    written, report = palettize(source, nbits=4, verify=True)
    assert [w.status for w in report.weights] == ["palettized"] * 2
    ops = {place: o for (_, _, place, name), (o, _) in constants(written).items() if name == "w"}
    assert {place: ("indices" in o.attributes, "indices" in o.inputs) for place, o in ops.items()} == {
        "": (False, True),
        "CoreML6:": (True, False),
    }
    assert [line.partition(":")[0] for line in differences(source, written)] == ["op main//w", "op main/CoreML6"]


def test_functions_do_not_see_each_other() -> None:
    first = block(const("w", shape=W), linear("l", "w"), outputs=["l"])
    second = block(linear("m", "w"), outputs=["m"])
    made = MIL.Program(version=1, functions={"a": function({"CoreML8": first}), "b": function({"CoreML8": second})})
    assert readers(weights(made)["w"]) == [("l", "weight")]
    assert {("a", "l"), ("b", "m")} < surveyed(made).op_names
    assert {label for label, _ in surveyed(made, "stage").op_names} == {"stage/a", "stage/b"}


def test_function_inputs_hide_nothing_and_unknown_names_are_passed_over() -> None:
    made = program(const("w", shape=W), linear("l", "w", x="nobody"), op("print", "p", {"x": "l"}, outputs=[]))
    assert readers(weights(made)["w"]) == [("l", "weight")]


def test_shapes_that_are_not_fixed_are_no_weights() -> None:
    odd = const("odd", shape=W)
    odd.outputs[0].type.CopyFrom(kind((-1, 48)))
    assert weights(program(odd, linear("l", "odd"))) == {}


def test_nodes_can_be_shown(fixtures: Path) -> None:
    """A network is a graph in which each value leads to many others: shown whole, it would fill all memory."""
    with Model.open(fixtures / "recurrent_fp32_ios16.mlpackage") as model:
        assert len(repr(model.survey())) < 1 << 24
