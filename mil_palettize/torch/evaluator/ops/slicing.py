"""Slices with strides and masks, read and written."""

from __future__ import annotations

from collections.abc import Sequence

from mil_palettize.torch.evaluator.ops.registry import Ints, Tensor, op


@op("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Ints | None = None,
    end_mask: Ints | None = None,
    squeeze_mask: Ints | None = None,
) -> Tensor:
    index, flipped = _index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    return x[index].flip(flipped) if flipped else x[index]


@op("slice_update")
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Ints | None = None,
    end_mask: Ints | None = None,
    squeeze_mask: Ints | None = None,
) -> Tensor:
    index, flipped = _index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    updated = x.clone()
    place = updated[index]
    place.copy_(update.reshape(place.shape).flip(flipped))
    return updated


def _index(
    shape: Sequence[int],
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Ints | None,
    end_mask: Ints | None,
    squeeze_mask: Ints | None,
) -> tuple[tuple[slice | int, ...], list[int]]:
    """What to index ``x`` with, and the axes of the result to flip afterwards, as torch has no negative steps. Bounds
    mean what they do in Python, negative ones counted from the end; where its mask is set, a bound is left out."""
    nothing = [0] * len(shape)
    index: list[slice | int] = []
    flipped: list[int] = []
    kept = 0
    for axis, size in enumerate(shape):
        first = None if (begin_mask or nothing)[axis] else begin[axis]
        if (squeeze_mask or nothing)[axis]:
            index.append(first or 0)
            continue
        last = None if (end_mask or nothing)[axis] else end[axis]
        step = stride[axis] if stride else 1
        chosen = range(*slice(first, last, step).indices(size))
        if step < 0:
            chosen = chosen[::-1]
            flipped.append(kept)
        index.append(slice(chosen[0], chosen[-1] + 1, abs(step)) if chosen else slice(0, 0))
        kept += 1
    return tuple(index), flipped
