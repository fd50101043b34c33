"""Parts of large weights stand for the whole."""

from __future__ import annotations

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.budget.samples import part_of

BITS = (1, 2, 3, 4, 6, 8)


def test_a_small_weight_stays_whole() -> None:
    weight = np.zeros((64, 64, 3, 3), np.float16)
    assert part_of(weight, 0, 2) is weight


@pytest.mark.parametrize(
    ("shape", "axis", "kernel"), [((512, 256, 3, 3), 0, 2), ((256, 512, 4, 4), 1, 2), ((4096, 1024), 0, 0)]
)
def test_groups_and_windows_stay_together(shape: tuple[int, ...], axis: int, kernel: int) -> None:
    numbers = np.arange(np.prod(shape)).reshape(shape)
    part = part_of(numbers, axis, kernel)
    assert part.size <= 1 << 16
    assert part.ndim == numbers.ndim
    places = np.unravel_index(part, shape)
    channels = np.moveaxis(places[axis], axis, 0).reshape(part.shape[axis], -1)
    assert (channels == channels[:, :1]).all()
    runs = channels[:, 0].reshape(-1, 32)
    assert (runs == runs[:, :1] + np.arange(32)).all()
    assert (runs[:, 0] % 32 == 0).all()
    assert runs[0, 0] == 0
    assert runs[-1, 0] >= shape[axis] // 2 or len(runs) == 1
    for inner in range(len(shape) - kernel, len(shape)):
        assert part.shape[inner] == shape[inner]


@pytest.mark.parametrize("nbits", [1, 3, 4])
@pytest.mark.parametrize("group", [None, 32, 4])
@pytest.mark.parametrize("channels", [512, 1024])
def test_its_error_is_that_of_the_whole(nbits: int, group: int | None, channels: int) -> None:
    weight = np.random.default_rng(0).standard_t(6, (channels, 1024)).astype(np.float32)
    specification = PaletteSpecification("kmeans", nbits, BITS, None if group is None else 0, group)

    def relative(array: np.ndarray) -> float:
        made = make_palette(ArraySource("w", np.ascontiguousarray(array)), specification)
        return made.sse / made.signal

    assert relative(part_of(weight, 0, 0)) == pytest.approx(relative(weight), rel=0.15)
