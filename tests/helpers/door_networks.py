"""Small models in memory for the tests of ``palettize_weights(mlmodel, …)``, and the names their constants have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, Var, types
from coremltools.proto import MIL_pb2 as MIL
from packages import blocks, named_ops, read_spec, spec_file

from mil_palettize import OpPalettizerConfig, OptimizationConfig

IOS15, IOS16, IOS18 = ct.target.iOS15, ct.target.iOS16, ct.target.iOS18
MLModel = ct.models.MLModel
Build = Callable[[ct.target], Program]


def config(**options: object) -> OptimizationConfig:
    """4-bit k-means of everything above 100 elements, but for ``options``."""
    return OptimizationConfig(OpPalettizerConfig(**{"mode": "kmeans", "nbits": 4, "weight_threshold": 100, **options}))


def weight(name: str, *shape: int) -> Var:
    draw = np.random.default_rng(sum(map(ord, name)))
    return mb.const(val=(draw.standard_normal(shape) * 0.1).astype(np.float32), name=name)


def layers(target: ct.target) -> Program:
    """Two linears."""

    @mb.program(input_specs=[mb.TensorSpec((2, 64))], opset_version=target)
    def program(x):
        y = mb.linear(x=x, weight=weight("first_weight", 48, 64), name="first")
        return mb.linear(x=y, weight=weight("second_weight", 64, 48), name="second")

    return program


def taken(target: ct.target) -> Program:
    """Ops that are called already what the palettes of two weights will be called."""

    @mb.program(input_specs=[mb.TensorSpec((2, 64))], opset_version=target)
    def program(x):
        y = mb.linear(x=x, weight=weight("w", 48, 64), name="w_palettized")
        y = mb.linear(x=y, weight=weight("v", 48, 48), name="v_linear")
        return mb.add(x=mb.relu(x=y, name="w_palettized_1"), y=y, name="v_palettized")

    return program


def branches(target: ct.target) -> Program:
    """A weight in each branch of a ``cond``, and one from outside that both read."""

    @mb.program(input_specs=[mb.TensorSpec((1, 48)), mb.TensorSpec((1,))], opset_version=target)
    def program(x, choice):
        shared = weight("shared", 48, 48)

        def branch(number: int) -> Callable[[], Var]:
            def body() -> Var:
                y = mb.linear(x=x, weight=shared, name=f"shared_{number}")
                return mb.linear(x=y, weight=weight(f"inner{number}", 48, 48), name=f"own_{number}")

            return body

        chosen = mb.cast(x=mb.squeeze(x=choice), dtype="bool")
        return mb.cond(pred=chosen, _true_fn=branch(0), _false_fn=branch(1), name="chosen")

    return program


def loop(target: ct.target) -> Program:
    """A weight in the body of a ``while_loop``, and one that it and an op after it read."""

    @mb.program(input_specs=[mb.TensorSpec((1, 48))], opset_version=target)
    def program(x):
        outer = weight("outer", 48, 48)

        def body(i: Var, y: Var) -> tuple[Var, Var]:
            y = mb.linear(x=y, weight=weight("inner", 48, 48), name="inner_linear")
            return mb.add(x=i, y=np.int32(1)), mb.linear(x=y, weight=outer, name="outer_linear")

        start = mb.const(val=np.int32(0), name="start")
        _, y = mb.while_loop(_cond=lambda i, y: mb.less(x=i, y=np.int32(3)), _body=body, loop_vars=(start, x))
        return mb.linear(x=y, weight=outer, name="after")

    return program


def tied(target: ct.target) -> Program:
    """An embedding that is the head as well."""

    @mb.program(input_specs=[mb.TensorSpec((4,), dtype=types.int32)], opset_version=target)
    def program(ids):
        table = weight("table", 96, 64)
        return mb.linear(x=mb.gather(x=table, indices=ids, axis=0, name="embedding"), weight=table, name="head")

    return program


def converted(build: Build, target: ct.target = IOS18, **options: object) -> MLModel:
    """The model that ``ct.convert`` makes, with its program still in memory."""
    return ct.convert(
        build(target), convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True, **options
    )


def pruned(model: MLModel) -> MLModel:
    options = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=100)
    return cto.prune_weights(model, cto.OptimizationConfig(options))


def quantized(model: MLModel) -> MLModel:
    options = cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_tensor", weight_threshold=100)
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(options))


def renamed(model: MLModel, folder: Path, name: str, new: str, *, ops: bool = True, outputs: bool = True) -> MLModel:
    """``model`` with what is called ``name`` called otherwise: ops, or outputs and what reads them."""
    path = folder / "renamed.mlpackage"
    model.save(str(path))
    spec = read_spec(path)
    for placed in blocks(spec):
        for op, _ in named_ops(placed.block):
            title = op.attributes["name"].immediateValue.tensor.strings.values
            if ops and list(title) == [name]:
                title[0] = new
            bound = [*op.outputs, *(b for a in op.inputs.values() for b in a.arguments)]
            for value in bound if outputs else ():
                value.name = new if value.name == name else value.name
    spec_file(path).write_bytes(spec.SerializeToString())
    return MLModel(str(path), skip_model_load=True)


class Names(NamedTuple):
    """``made``: (function, block, type, name, outputs) of compressed constants. ``read``: (function, block, op, input,
    name) where other ops read them."""

    made: set[tuple[object, ...]]
    read: set[tuple[object, ...]]


def names(model: MLModel) -> Names:
    found = Names(set(), set())
    for _, function, place, block, scope in blocks(model.get_spec()):
        compressed = {o.name for op in scope.values() if op.type.startswith("constexpr_") for o in op.outputs}
        for op, _ in named_ops(block):
            title = _title(op)
            if op.type.startswith("constexpr_"):
                found.made.add((function, place, op.type, title, tuple(o.name for o in op.outputs)))
            elif op.type != "const":
                bound = ((name, b.name) for name, argument in op.inputs.items() for b in argument.arguments)
                found.read.update((function, place, title, *pair) for pair in bound if pair[1] in compressed)
    return found


def _title(op: MIL.Operation) -> str:
    return op.attributes["name"].immediateValue.tensor.strings.values[0]
