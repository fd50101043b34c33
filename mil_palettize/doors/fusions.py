"""Which weights coremltools' fusions are about to multiply, channel by channel.

``fuse_conv_batchnorm`` and ``fuse_conv_scale`` put a factor for each output channel into the weight of a convolution:
of 16 distinct values over 64 channels they make up to 1,024, too many for one look-up table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from coremltools.converters.mil.mil import Operation, Var

from mil_palettize.program.bare_names import is_exported
from mil_palettize.program.weight import Weight
from mil_palettize.request.normalised import Requests
from mil_palettize.request.patterns import is_pattern, matches

# The passes that multiply weights; everything before them moves weights or leaves them alone.
MULTIPLYING = ("common::fuse_conv_scale", "common::fuse_conv_batchnorm")
_CONVOLUTIONS = ("conv", "conv_transpose")


def fused_into(const: Operation) -> list[list[Operation]]:
    """For each convolution that reads ``const`` and that the fusions would multiply by factors which differ between
    channels: the convolution, then the ops fused into it. Equal factors keep the number of distinct values.

    Empty as well where a reader must keep a plain constant: coremltools' ``fuse_conv_bias`` fails on a compressed
    weight when the convolution's output is transposed and then added to."""
    readers = const.outputs[0].child_ops
    if any(_is_transposed_and_added(op) for op in readers):
        return []
    chains = (_scaled(reader, const.outputs[0]) for reader in readers)
    return [chain for chain in chains if chain]


def named_before(key: str) -> str:
    """The name, before ``add_fp16_cast``, of what is called ``key`` in the saved model. Patterns stay: what they would
    mean without their ends is more."""
    if is_pattern(key):
        return key
    return key.removesuffix("_cast_fp16").removesuffix("_to_fp16")


def before_fusions(
    requests: Requests, chains: Mapping[Weight, list[list[Operation]]], names: Collection[tuple[str, str]]
) -> Requests:
    """``requests``, whose entries use names of the saved model, with entries added for the names that the same ops have
    before casts and fusions. A convolution is saved under the name of the last op fused into it: what was asked for by
    that name is asked for the convolution. ``chains``: for each weight what :func:`fused_into` gives; ``names``:
    (function, name) of all there is now: patterns that match none of these speak of what the saved model will have."""
    exported = is_exported(name for _, name in names)
    present = {key for function, name in names for key in (name, f"{function}/{name}")}
    earlier = {
        named_before(key): request
        for key, request in requests.by_name.items()
        if not is_pattern(key) or matches(key, present, exported)
    }
    written_out = {key: request for key, request in requests.by_name.items() if not is_pattern(key)}
    result = replace(requests, by_name={**earlier, **written_out})
    fused = {}
    for weight, of_weight in chains.items():
        for convolution, *others in of_weight:
            keys = result.matching(weight.function, *(op.name for op in reversed(others)), convolution.name)
            if keys:
                fused[f"{weight.function}/{convolution.name}"] = result.by_name[keys[0]]
    return replace(result, by_name={**result.by_name, **fused})


def _is_transposed_and_added(op: Operation) -> bool:
    transpose = _only_reader(op) if op.op_type in _CONVOLUTIONS else None
    if transpose is None or transpose.op_type != "transpose":
        return False
    addition = _only_reader(transpose)
    return addition is not None and addition.op_type in ("add", "sub")


def _scaled(convolution: Operation, weight: Var) -> list[Operation]:
    """``convolution`` and the ops after it, up to one that scales its channels differently; [] if there is none."""
    if convolution.op_type not in _CONVOLUTIONS or convolution.weight is not weight:
        return []
    chain = [convolution]
    while (op := _only_reader(chain[-1])) is not None:
        factors = _factors(op, chain[-1].outputs[0])
        if factors is None:
            return []
        chain.append(op)
        if factors.size > 1 and (factors != factors[0]).any():
            return chain if factors.size == convolution.outputs[0].shape[1] else []
    return []


def _only_reader(op: Operation) -> Operation | None:
    """The one op that reads the output of ``op``; None if there are others, or its block gives the output on."""
    var = op.outputs[0]
    if len(var.child_ops) != 1 or var in op.enclosing_block.outputs:
        return None
    return var.child_ops[0]


def _factors(op: Operation, scaled: Var) -> np.ndarray | None:
    """What ``op`` would multiply the weight of a convolution by, 1-D; None if it is not fused into one."""
    if op.op_type == "batch_norm" and op.x is scaled:
        parameters = (op.gamma, op.beta, op.mean, op.variance)
        if any(var is None or var.val is None for var in parameters):
            return None
        return np.asarray(op.gamma.val / np.sqrt(op.variance.val + op.epsilon.val)).reshape(-1)
    if op.op_type not in ("add", "sub", "mul", "real_div"):
        return None
    other = op.y if op.x is scaled else op.x
    if other.val is None or (op.op_type == "real_div" and op.y is scaled):
        return None
    return np.ones(1) if op.op_type in ("add", "sub") else np.asarray(other.val).reshape(-1)
