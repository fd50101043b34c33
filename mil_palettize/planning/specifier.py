"""A weight and what is asked of it to the specification of its palette, and what of the request cannot be had."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.planning.device_rules import rule_named, sentence
from mil_palettize.program.forms import Form
from mil_palettize.program.roles import is_weight_input
from mil_palettize.program.weight import Weight
from mil_palettize.request.palette_request import PaletteRequest

SCALE_WARNING = f"{sentence(rule_named('scale-after-table'))}; scale='fold' writes a table for each channel instead"


@dataclass(frozen=True)
class Specified:
    """``specification``: None where no palette can be made of the kind that was asked for. ``unmet``: what is not as
    asked, "" when everything is. ``notes``: what a person should know besides."""

    specification: PaletteSpecification | None
    unmet: str = ""
    notes: tuple[str, ...] = ()


def specify(weight: Weight, request: PaletteRequest, form: Form) -> Specified:
    """The palette that ``request`` means for ``weight``, as near as its shape and its readers allow.

    ``form``: what the opset can hold, which includes what is asked for.
    """
    made, unmet = _of_scalars(weight, request, form)
    notes: tuple[str, ...] = ()
    if request.cluster_dim > 1:
        made, why = _with_vectors(weight, request, made)
        if why and ALGORITHMS[request.mode].needs_function:  # which makes vectors
            return Specified(None, why)
        unmet = _joined(unmet, f"{why}: a palette of scalars instead" if why else "")
    if request.scale == "fold" and request.grouped and request.group_size != 1:
        notes = (f"groups of {request.group_size} are not made: scale='fold' writes a table for each channel",)
    if request.scale == "op":
        made, why = _with_scale(weight, made)
        unmet = _joined(unmet, why)
        notes = (*notes, SCALE_WARNING) if made.scale_axis is not None else notes
    return Specified(made, unmet, notes)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _of_scalars(weight: Weight, request: PaletteRequest, form: Form) -> tuple[PaletteSpecification, str]:
    """The specification but for vectors and scales, and where it is not what was asked for, a note."""
    lut_dtype = None if weight.joint == "scaled" else request.lut_dtype  # its table holds integers anyway
    per_tensor = PaletteSpecification(
        request.mode, request.nbits, form.nbits, None, None, request.lut_function, lut_dtype=lut_dtype
    )
    if request.scale == "fold" and weight.joint != "scaled":
        axis, note = _output_axis(weight)
        if axis is None:
            return per_tensor, f"{note}: no scales"
        return replace(per_tensor, axis=axis, group_size=1), ""
    if ALGORITHMS[request.mode].lossless and form.grouped and request.cluster_dim == 1 and not weight.joint:
        per_tensor = replace(per_tensor, spread_axis=_output_axis(weight)[0])
    if not request.grouped:
        return per_tensor, ""
    axis, note = _channel_axis(weight, request)
    if axis is None:
        return per_tensor, f"{note}: one palette per tensor instead of groups of {request.group_size}"
    channels = weight.shape[axis]
    size = request.group_size or channels
    group_size = nearest_divisor(channels, size)
    note = f"group_size {size} does not divide the {channels} channels of axis {axis}"
    if group_size is None:
        return per_tensor, f"{note} and no divisor lies in {size / 2:g} to {2 * size}: one palette per tensor"
    grouped = replace(per_tensor, axis=axis, group_size=group_size)
    return grouped, "" if group_size == size else f"{note}: groups of {group_size} instead"


def _with_vectors(
    weight: Weight, request: PaletteRequest, made: PaletteSpecification
) -> tuple[PaletteSpecification, str]:
    """``made`` by vectors along the channel axis; where that cannot be, ``made`` itself and why."""
    dim = request.cluster_dim
    if weight.joint == "scaled":
        return made, f"no vectors of {dim} of values that are {weight.joint}"
    if request.scale == "fold":
        return made, (
            f"no vectors of {dim}: scale='fold' writes a table for each channel, and a vector lies across {dim} (use "
            "scale='op')"
        )
    axis, why = (made.axis, "") if made.axis is not None else _channel_axis(weight, request)
    if axis is None:
        return made, f"no vectors of {dim}: {why}"
    size = made.group_size or weight.shape[axis]
    if size % dim:
        return made, f"cluster_dim {dim} does not divide the {size} channels of axis {axis} in one look-up table"
    for consumer in weight.consumers:
        channels = consumer.channels_of_group(axis, weight.shape[axis])
        if channels % dim:
            return made, f"cluster_dim {dim} does not divide the {channels} channels of a group of {consumer}"
    return replace(made, axis=axis, cluster_dim=dim), ""


def _with_scale(weight: Weight, made: PaletteSpecification) -> tuple[PaletteSpecification, str]:
    """``made`` with a scale for each output channel; where that cannot be, ``made`` itself and why."""
    if weight.joint:
        return made, f"no scales for values that are {weight.joint}"
    axis, why = _output_axis(weight)
    return (made, f"no scales: {why}") if axis is None else (replace(made, scale_axis=axis), "")


def _channel_axis(weight: Weight, request: PaletteRequest) -> tuple[int | None, str]:
    """The axis of the groups and vectors, None and why where it is not known."""
    rank = len(weight.shape)
    if request.channel_axis is not None:
        if -rank <= request.channel_axis < rank:
            return request.channel_axis % rank, ""
        return None, f"channel_axis {request.channel_axis} is outside its {rank} axes"
    return _output_axis(weight)


def _output_axis(weight: Weight) -> tuple[int | None, str]:
    """The axis of the output channels of the ops that read the weight."""
    readers = [c for c in weight.consumers if is_weight_input(c.op_type, c.input_name)] or weight.consumers
    axes = {c.channel_axis for c in readers}
    if len(axes) == 1 and None not in axes:
        return axes.pop(), ""
    if None in axes:
        return None, "its channel axis cannot be followed back from the op that reads it (give channel_axis)"
    wanted = ", ".join(dict.fromkeys(f"{c.op_type} axis {c.channel_axis}" for c in readers))
    return None, f"the ops that read it want different channel axes ({wanted}; give channel_axis)"


def nearest_divisor(channels: int, size: int) -> int | None:
    """``size`` if it divides ``channels``, else the nearest divisor within [size/2, 2*size], the smaller of two."""
    near = [d for d in range(max(1, -(-size // 2)), min(channels, 2 * size) + 1) if channels % d == 0]
    return min(near, key=lambda d: (abs(d - size), d), default=None)
