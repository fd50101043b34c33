"""What the table of device rules asks about, of a whole model: its palettes, ops, states and files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from mil_palettize.planning.device_facts import CONVOLUTIONS, Facts, ModelFacts, OpFacts, PaletteFacts, StateFacts
from mil_palettize.program.block_paths import specializations
from mil_palettize.program.described_sizes import has_range
from mil_palettize.program.expression_reader import parameter_type
from mil_palettize.program.look_ups import LOOK_UPS
from mil_palettize.program.messages import MIL
from mil_palettize.program.model import Model
from mil_palettize.program.op_names import op_name
from mil_palettize.program.scopes import Node, ScopedOp, build_scope, constant_params, is_constant_op
from mil_palettize.program.sites import Site
from mil_palettize.program.stages import Stage
from mil_palettize.program.values import scalar, static_shape, type_name

_TABLES = ("constexpr_lut_to_dense", "constexpr_lut_to_sparse")
_QUANTIZED = ("quantize", "dequantize")
_WEIGHTS = "weights"  # folder of a package's data


def facts_of(model: Model) -> Iterator[tuple[str, Facts]]:
    """Each with what it is of: a constant, an op, a state, or the package."""
    yield str(model.package.path), _of_files(model)
    survey = model.survey()
    quantized = any(kind in survey.op_counts for kind in _QUANTIZED)
    for site in survey.sites:
        found = _stored_palette(site, quantized)
        if found is not None:
            yield site.weight.key, found
    for stage in model.stages:
        yield from _states(stage)
        for name, function in sorted(stage.program.functions.items()):
            label = stage.function_label(name)
            yield from ((f"{label}/{told}", facts) for told, facts in _ops(function))


def _of_files(model: Model) -> ModelFacts:
    root = model.package.path
    sizes = [os.path.getsize(root / file) for file in model.package.files() if file.parent.name == _WEIGHTS]
    inputs = [feature for stage in model.stages for feature in stage.model.description.input]
    inputs += [f for stage in model.stages for one in stage.model.description.functions for f in one.input]
    return ModelFacts(max(sizes, default=0), any(has_range(feature.type) for feature in inputs))


def _stored_palette(site: Site, quantized: bool) -> PaletteFacts | None:
    """Of a constant that other ops than constants read, and that is a palette, or a scaled one."""
    node = site.node
    if node is None or any(use.op.type.startswith("constexpr_") for use in node.uses):
        return None
    scaled = site.op.type == "constexpr_blockwise_shift_scale"
    table = node.sources.get("data") if scaled else node
    if table is None or table.op is None or table.op.type not in _TABLES:
        return None
    shape = static_shape(parameter_type(table.op, table.sources, "lut")) or ()
    if len(shape) < 2:  # of iOS16: one table
        return PaletteFacts((shape[0] - 1).bit_length() if shape else 0, scaled=scaled, quantized_model=quantized)
    *groups, entries, dim = shape
    return PaletteFacts(
        nbits=(entries - 1).bit_length(),
        group_size=_group_size(groups, site.weight.shape),
        cluster_dim=dim,
        scaled=scaled,
        across=_across(site, groups, _vector_axis(table.op, dim)),
        quantized_model=quantized,
    )


def _group_size(groups: list[int], shape: tuple[int, ...]) -> int:
    sizes = [size // count for count, size in zip(groups, shape, strict=False) if count > 1]
    return min(sizes, default=0)


def _across(site: Site, groups: list[int], vector_axis: int | None) -> bool:
    """Whether tables or vectors lie along another axis than all readers' output channels."""
    along = {axis for axis, count in enumerate(groups) if count > 1}
    along |= set() if vector_axis is None else {vector_axis % max(1, len(groups))}
    readers = {consumer.channel_axis for consumer in site.weight.consumers} - {None}
    return bool(along) and bool(readers) and along.isdisjoint(readers)


def _vector_axis(op: MIL.Operation, dim: int) -> int | None:
    if dim == 1 or "vector_axis" not in op.inputs:
        return None
    bound = op.inputs["vector_axis"].arguments
    found = scalar(bound[0].value) if len(bound) == 1 else None
    return found if isinstance(found, int) else None


def _states(stage: Stage) -> Iterator[tuple[str, Facts]]:
    description = stage.model.description
    for feature in [*description.state, *(f for one in description.functions for f in one.state)]:
        shape = tuple(int(size) for size in feature.type.stateType.arrayType.shape)
        if shape:
            yield feature.name, StateFacts(shape)


def _ops(function: MIL.Function) -> Iterator[tuple[str, OpFacts]]:
    for _, path, block in specializations(function):
        for scoped in build_scope(function, block, path).ops:
            if not is_constant_op(scoped.op.type):
                yield op_name(scoped.op), _op(scoped)


def _op(scoped: ScopedOp) -> OpFacts:
    op = scoped.op
    params = constant_params(scoped.reads)
    given = op.outputs[0].type if op.outputs else MIL.ValueType()
    shape = static_shape(given) or ()
    groups = params.get("groups")
    kernel = _kernel(scoped)
    return OpFacts(
        op_type=op.type,
        dtype=type_name(given.tensorType.dataType) if given.WhichOneof("type") == "tensorType" else "",
        strides=_whole(params.get("strides")),
        dilations=_whole(params.get("dilations")),
        groups=int(groups.reshape(-1)[0]) if groups is not None and groups.size else 1,
        channels=shape[1] if len(shape) > 1 else 0,
        kernel=() if kernel is None else (kernel.shape or ())[2:],
        palettized=kernel is not None and _is_palette(kernel),
        table_rows=_table_rows(scoped),
    )


def _whole(array: np.ndarray | None) -> tuple[int, ...]:
    return () if array is None else tuple(int(number) for number in array.reshape(-1))


def _kernel(scoped: ScopedOp) -> Node | None:
    """Of a convolution, where it is a constant."""
    if scoped.op.type not in CONVOLUTIONS:
        return None
    found = (read.node for read in scoped.reads if read.input_name == "weight" and read.node is not None)
    return next((node for node in found if node.constant), None)


def _is_palette(node: Node) -> bool:
    """Also a scaled one."""
    table = node.sources.get("data", node)
    return table.op is not None and table.op.type in _TABLES


def _table_rows(scoped: ScopedOp) -> int:
    name = LOOK_UPS.get(scoped.op.type)
    tables = [read.node for read in scoped.reads if read.input_name == name and read.node is not None]
    return max((table.shape[0] for table in tables if table.constant and table.shape), default=0)
