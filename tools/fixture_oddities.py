"""Fixtures that hold what makes real models hard: nesting, sharing, chains, odd values, odd messages."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from coremltools.proto import Model_pb2
from fixture_writing import (
    FP16,
    FP32,
    Draw,
    Recipe,
    constant,
    constant_op,
    convert,
    entry,
    main_block,
    program,
    result,
    save,
    tensor,
)


def shared(package: Path) -> None:
    """A const read by two ops; consts ``twin_a`` and ``twin_b`` whose values are one blob record."""
    target = ct.target.iOS16

    def body(x: Var) -> Var:
        draw = Draw("shared")
        twice, twin = constant(draw.normal(48, 48), "twice_weight"), draw.normal(48, 48)
        y = mb.linear(x=entry(x, FP16), weight=twice, name="first")
        y = mb.linear(x=mb.relu(x=y, name="between"), weight=twice, name="second")
        a = mb.linear(x=y, weight=constant(twin, "twin_a"), name="a")
        b = mb.matmul(x=y, y=constant(twin.copy(), "twin_b"), name="b")
        return result(mb.concat(values=[a, b], axis=1, name="both"), "y")

    def edit(spec: Model_pb2.Model) -> None:
        block = main_block(spec)
        record = constant_op(block, "twin_a").attributes["val"]
        constant_op(block, "twin_b").attributes["val"].CopyFrom(record)

    save(convert(program(target, body, tensor(1, 48)), target), package, edit)


def loop(package: Path) -> None:
    """A ``while_loop``: consts outside and inside the body, a loop-invariant and a changing loop variable."""
    target = ct.target.iOS16

    def main(x: Var) -> Var:
        draw = Draw("loop")
        outer = constant(draw.normal(48, 48), "outer_weight")
        inner = draw.normal(48, 48)

        def step(i: Var, y: Var, invariant: Var, memory: Var) -> tuple[Var, Var, Var, Var]:
            y = mb.linear(x=y, weight=outer, name="outer_linear")
            y = mb.linear(x=y, weight=constant(inner, "inner_weight"), name="inner_linear")
            y = mb.matmul(x=y, y=invariant, name="invariant_matmul")
            y = mb.matmul(x=y, y=memory, name="memory_matmul")
            memory = mb.mul(x=memory, y=np.float16(0.5), name="memory_next")
            return mb.add(x=i, y=np.int32(1), name="i_next"), y, invariant, memory

        outputs = mb.while_loop(
            _cond=lambda i, y, invariant, memory: mb.less(x=i, y=np.int32(3), name="again"),
            _body=step,
            loop_vars=(
                constant(np.int32(0), "i_0"),
                entry(x, FP16),
                constant(draw.normal(48, 48), "invariant_weight"),
                constant(draw.normal(48, 48), "memory_0"),
            ),
            name="loop",
        )
        return result(outputs[1], "y")

    save(convert(program(target, main, tensor(1, 48)), target), package)


def branches(package: Path) -> None:
    """A ``cond``: a const of one name in each branch, and one from outside read in both."""
    target = ct.target.iOS16

    def body(x: Var) -> Var:
        draw = Draw("branches")
        both = constant(draw.normal(48, 48), "both_weight")
        values = {"then": draw.normal(48, 48), "else": draw.normal(48, 48)}
        x = entry(x, FP16)

        def branch(name: str) -> Var:
            y = mb.linear(x=x, weight=constant(values[name], f"{name}_weight"), name=f"{name}_own")
            return mb.linear(x=y, weight=both, name=f"{name}_both")

        total = mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False, name="total")
        positive = mb.greater(x=total, y=np.float16(0), name="positive")
        y = mb.cond(pred=positive, _true_fn=lambda: branch("then"), _false_fn=lambda: branch("else"), name="chosen")
        return result(y, "y")

    def edit(spec: Model_pb2.Model) -> None:
        """Sibling blocks may use a name twice; PyMIL's builder would not."""
        cond = constant_op(main_block(spec), "chosen")
        for block, name in zip(cond.blocks, ("then", "else"), strict=True):
            constant_op(block, f"{name}_weight").outputs[0].name = "branch_weight"
            linear = constant_op(block, f"{name}_own")
            linear.inputs["weight"].arguments[0].name = "branch_weight"

    save(convert(program(target, body, tensor(1, 48)), target), package, edit)


def non_weights(target: ct.target) -> Recipe:
    """Constants above any threshold that nobody should palettize, and a large bias."""

    def body(x: Var, ids: Var) -> tuple[Var, ...]:
        draw = Draw("non_weights")
        x = entry(x, FP16)
        x = mb.add(x=x, y=constant(draw.normal(1, 50, 48, scale=1), "positions"), name="placed")
        x = mb.matmul(x=_masked_attention(x), y=x, name="attended")
        x = mb.mul(x=x, y=constant(draw.near_one(1, 50, 48), "gain_3d"), name="gained")
        anchors = constant(draw.normal(50, 48, scale=100), "anchors")
        strides = constant(np.repeat(np.array([8, 16], np.float16), 25 * 48).reshape(50, 48), "strides")
        x = mb.mul(x=mb.add(x=x, y=anchors, name="anchored"), y=strides, name="strided")
        x = mb.linear(x=x, weight=constant(draw.normal(8, 48), "narrow_weight"), name="narrow")
        weight, bias = constant(draw.normal(2304, 8), "wide_weight"), constant(draw.normal(2304), "wide_bias")
        wide = mb.linear(x=x, weight=weight, bias=bias, name="wide")
        table = constant(draw.generator.integers(0, 50, 2400).astype(np.int32), "int_table")
        looked_up = mb.gather(x=table, indices=ids, axis=0, name="looked_up")
        return result(wide, "y"), looked_up, constant(draw.normal(48, 48).astype(np.float32), "output_const")

    def make(package: Path) -> None:
        specs = tensor(1, 50, 48), tensor(4, dtype=types.int32)
        save(convert(program(target, body, *specs), target), package)

    return make


def _masked_attention(x: Var) -> Var:
    scores = mb.matmul(x=x, y=x, transpose_y=True, name="scores")
    mask = constant(np.triu(np.full((1, 50, 50), -np.inf, np.float16), 1), "mask")
    return mb.softmax(x=mb.add(x=scores, y=mask, name="masked"), axis=-1, name="attention")


def _odd_weights(draw: Draw) -> dict[str, np.ndarray]:
    nan = draw.normal(64, 48)
    nan[3, 5] = np.nan
    levels = np.linspace(-0.1, 0.1, 16).astype(np.float16)
    groups = [np.resize(levels * np.float16(group + 1), (16, 48)) for group in range(4)]
    many = np.resize(np.linspace(-0.5, 0.5, 200).astype(np.float16), 64 * 48)
    huge = np.where(draw.generator.random((64, 48)) < 0.5, -6e4, 6e4) + draw.normal(64, 48, scale=1000)
    return {
        "nan": nan,
        "equal": np.full((64, 48), 0.0123, np.float16),
        "grouped16": np.concatenate(groups),
        "values200": draw.generator.permutation(many).reshape(64, 48),
        "huge": np.clip(huge, -65504, 65504).astype(np.float16),
        "indivisible": draw.normal(63, 48),
    }


def odd_values(package: Path) -> None:
    """Weights of linears whose values are what clustering stumbles over."""
    target = ct.target.iOS18

    def body(x: Var) -> Var:
        x = entry(x, FP16)
        outputs = [
            mb.linear(x=x, weight=constant(array, f"{name}_weight"), name=name)
            for name, array in _odd_weights(Draw("odd_values")).items()
        ]
        return result(mb.concat(values=outputs, axis=1, name="all"), "y")

    save(convert(program(target, body, tensor(1, 48)), target), package)


def const_chains(package: Path) -> None:
    """Weights that reach their consumer through ops of constants only, which graph passes would fold."""
    target = ct.target.iOS16

    def body(x: Var, image: Var) -> tuple[Var, Var, Var]:
        draw = Draw("const_chains")
        half = entry(x, FP16)
        weights = [
            mb.transpose(x=constant(draw.normal(48, 64), "transposed"), perm=[1, 0], name="transpose"),
            mb.squeeze(x=constant(draw.normal(1, 64, 48), "squeezed"), axes=[0], name="squeeze"),
            mb.slice_by_index(x=constant(draw.normal(96, 48), "sliced"), begin=[32, 0], end=[96, 48], name="slice"),
            *mb.split(x=constant(draw.normal(96, 48), "split_weight"), num_splits=2, axis=0, name="split"),
            mb.concat(
                values=[constant(draw.normal(48, 48), "joined_a"), constant(draw.normal(48, 48), "joined_b")],
                axis=0,
                name="join",
            ),
        ]
        outputs = [mb.linear(x=half, weight=w, name=f"linear_{i}") for i, w in enumerate(weights)]
        flat = mb.expand_dims(x=constant(draw.normal(24, 144), "reshaped"), axes=[0], name="expand")
        kernel = mb.reshape(x=flat, shape=[24, 16, 3, 3], name="reshape")
        feature = mb.conv(x=entry(image, FP16), weight=kernel, name="conv")
        widened = mb.cast(x=constant(draw.normal(48, 48), "stored_half"), dtype=FP32, name="widened")
        return (
            result(mb.concat(values=outputs, axis=1, name="all"), "y"),
            result(feature, "feature"),
            mb.matmul(x=x, y=widened, name="product"),
        )

    specs = tensor(1, 48), tensor(1, 16, 6, 6)
    save(convert(program(target, body, *specs), target), package)


def _two_linears(target: ct.target, seed: str) -> ct.models.MLModel:
    def body(x: Var) -> Var:
        draw = Draw(seed)
        y = mb.linear(x=entry(x, FP16), weight=constant(draw.normal(64, 48), "in_weight"), name="in")
        weight = constant(draw.normal(48, 64), "out_weight")
        return result(mb.linear(x=mb.relu(x=y, name="hidden"), weight=weight, name="out"), "y")

    return convert(program(target, body, tensor(1, 48)), target)


def future_op(package: Path) -> None:
    """``relu`` renamed to an op no registry knows."""

    def edit(spec: Model_pb2.Model) -> None:
        constant_op(main_block(spec), "hidden").type = "future_op"

    save(_two_linears(ct.target.iOS17, "future_op"), package, edit)


def extras(package: Path) -> None:
    """A manifest item of another author, and all metadata a model can have."""
    model = _two_linears(ct.target.iOS16, "extras")
    model.author, model.license, model.version = "A. Author", "CC0-1.0", "1.2.3"
    model.short_description = "Two linears; ünïcode on purpose."
    model.input_description["x"], model.output_description["y"] = "forty-eight features", "as many again"
    model.user_defined_metadata.update({"com.example.key": "value", "empty": ""})
    notes = b"Kept as it is.\n"
    save(model, package, extra={"com.example/notes.txt": ("Notes of another tool", notes)})
