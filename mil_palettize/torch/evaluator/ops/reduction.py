"""Reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mil_palettize.torch.evaluator.ops.registry import DTYPES, Flag, Int, Ints, Tensor, Text, op

Reduce = Callable[[torch.Tensor, list[int], bool], torch.Tensor]


def reduction(name: str) -> Callable[[Reduce], Reduce]:
    """Register a function of a tensor, its axes (at least one) and whether to keep them. The result is cast to the type
    of the input, as MIL has it: the mean of integers is cut off towards zero."""

    def register(reduce: Reduce) -> Reduce:
        @op(name)
        def reduced(x: Tensor, axes: Ints | None = None, keep_dims: Flag = False) -> Tensor:
            axes = list(range(x.ndim)) if axes is None else list(axes)
            if not axes:  # torch takes no axes to mean all of them; MIL to mean none
                return reduce(x.unsqueeze(-1), [-1], False).to(x.dtype)
            return reduce(x, axes, keep_dims).to(x.dtype)

        return reduce

    return register


def _real(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.double()


@reduction("reduce_sum")
def _sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.sum(axes, keep)


@reduction("reduce_mean")
def _mean(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _real(x).mean(axes, keep)


@reduction("reduce_prod")
def _prod(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):  # torch multiplies along one axis at a time
        x = x.prod(axis, keep)
    return x


@reduction("reduce_max")
def _max(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.amax(axes, keep)


@reduction("reduce_min")
def _min(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.amin(axes, keep)


@reduction("reduce_l1_norm")
def _l1_norm(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.abs().sum(axes, keep)


@reduction("reduce_l2_norm")
def _l2_norm(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return torch.linalg.vector_norm(_real(x), 2, axes, keep)


@reduction("reduce_sum_square")
def _sum_square(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.square().sum(axes, keep)


@reduction("reduce_log_sum")
def _log_sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _real(x).sum(axes, keep).log()


@reduction("reduce_log_sum_exp")
def _log_sum_exp(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _real(x).logsumexp(axes, keep)


@op("reduce_argmax")
def reduce_argmax(x: Tensor, axis: Int = -1, keep_dims: Flag = False, output_dtype: Text = "int32") -> Tensor:
    return x.argmax(axis, keep_dims).to(DTYPES[output_dtype.lower()])


@op("reduce_argmin")
def reduce_argmin(x: Tensor, axis: Int = -1, keep_dims: Flag = False, output_dtype: Text = "int32") -> Tensor:
    return x.argmin(axis, keep_dims).to(DTYPES[output_dtype.lower()])
