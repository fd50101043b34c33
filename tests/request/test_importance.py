"""What a user may give as importance: every fault is told before anything is read."""

from __future__ import annotations

import numpy as np
import pytest

from mil_palettize.errors import ConfigError
from mil_palettize.request.importance import checked_importance

ONES = np.ones((4, 6))


def with_one(value: float) -> np.ndarray:
    array = ONES.copy()
    array[2, 3] = value
    return array


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([ONES], "importance must be a mapping of names of constants to arrays, or None, got list"),
        ({3: ONES}, "importance has the key 3; keys are names of constants, or 'function/name'"),
        ({"w": ONES.astype(int)}, r"importance\['w'\] is int64; give positive floats"),
        ({"w": "much"}, r"importance\['w'\] is <U4; give positive floats"),
        ({"w": [[1.0], [1.0, 2.0]]}, r"importance\['w'\] is no array: .*; give positive floats of the weight's shape"),
        ({"w": np.ones((0, 4))}, r"importance\['w'\] has shape \[0, 4\], and no element; give positive floats"),
        ({"v": ONES, "w": with_one(np.nan)}, r"importance\['w'\] has an element nan; all have to be positive"),
        ({"w": with_one(np.inf)}, r"importance\['w'\] has an element inf"),
        ({"w": with_one(0.0)}, r"importance\['w'\] has an element 0.0"),
        ({"w": with_one(-1.5)}, r"importance\['w'\] has an element -1.5"),
    ],
)
def test_faults(given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        checked_importance(given)


def test_nothing_given() -> None:
    assert checked_importance(None) == checked_importance({}) == {}


def test_digest_is_of_values_shape_and_type() -> None:
    others = [with_one(2.0), ONES.reshape(6, 4), ONES.astype(np.float32), np.ones((1, 6))]
    made = [checked_importance({"w": array})["w"] for array in (ONES, *others)]
    assert len(set(made)) == len(made)
    again = checked_importance({"another name": np.asfortranarray(ONES)})["another name"]
    assert again == made[0]
    assert hash(again) == hash(made[0])


def test_the_array_is_a_copy_nobody_can_change() -> None:
    given = ONES.copy()
    made = checked_importance({"w": given})["w"]
    given[0, 0] = -1.0
    assert np.array_equal(made.array, ONES)
    with pytest.raises(ValueError, match="read-only"):
        made.array[0, 0] = -1.0


@pytest.mark.parametrize("shape", [(4, 6), (1, 6), (2, 3), (1, 1)])
def test_a_number_holds_for_a_block(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).uniform(1, 2, shape)
    made = checked_importance({"w": array})["w"]
    assert made.fits((4, 6))
    spread = made.spread((4, 6))
    for row in range(4):
        for column in range(6):
            assert spread[row, column] == array[row // (4 // shape[0]), column // (6 // shape[1])]


@pytest.mark.parametrize("shape", [(4,), (4, 6, 1), (3, 6), (4, 12), (8, 6)])
def test_other_shapes_do_not_fit(shape: tuple[int, ...]) -> None:
    assert not checked_importance({"w": np.ones(shape)})["w"].fits((4, 6))
