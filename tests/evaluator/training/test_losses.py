"""The loss of a fine tuning, from its definition."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from mil_palettize.errors import ConfigError, EvaluationError  # noqa: E402
from mil_palettize.torch.training.losses import distance  # noqa: E402

WANTED, FOUND = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 0.0, 0.7]])
RELATIVE = ((FOUND - WANTED).square().sum() / WANTED.square().sum()).double()


def divergence(found, wanted, temperature):
    return F.kl_div(found, wanted, log_target=True, reduction="sum").double() * temperature**2


def close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_classes(temperature) -> None:
    found, wanted = (F.log_softmax(x / temperature, -1) for x in (FOUND, WANTED))
    expected = RELATIVE + divergence(found, wanted, temperature)
    close(distance({"y": FOUND}, {"y": WANTED}, None, temperature), expected)
    told = distance({"y": FOUND}, {"y": WANTED}, 2, temperature)
    close(told, expected + F.cross_entropy(FOUND, torch.tensor([2])).double())


def test_probabilities_are_no_scores() -> None:
    found, wanted = FOUND.softmax(-1), WANTED.softmax(-1)
    relative = ((found - wanted).square().sum() / wanted.square().sum()).double()
    close(distance({"y": found}, {"y": wanted}, None, 1.0), relative + divergence(found.log(), wanted.log(), 1.0))


def test_several_outputs_count_alike_whatever_their_power() -> None:
    wanted = {"a": torch.ones(4, 4), "b": torch.full((2, 2), 100.0), "label": 3}
    found = {"a": torch.ones(4, 4) * 1.1, "b": torch.full((2, 2), 120.0), "label": 4}
    close(distance(found, wanted, None, 4.0), torch.tensor((0.01 + 0.04) / 2).double())


def test_what_is_infinite_counts_nowhere() -> None:
    wanted = {"a": torch.tensor([[1.0, float("-inf")], [1.0, 1.0]])}
    close(distance({"a": torch.ones(2, 2)}, wanted, None, 4.0), torch.tensor(0.0).double())


def test_no_classes() -> None:
    with pytest.raises(ConfigError, match="labels need a network with one output of classes"):
        distance({"a": torch.ones(2, 2)}, {"a": torch.ones(2, 2)}, 0, 1.0)
    with pytest.raises(ConfigError, match="label 3 is none of the 3 classes"):
        distance({"y": FOUND}, {"y": WANTED}, 3, 1.0)
    with pytest.raises(EvaluationError, match="has no output of floats"):
        distance({"a": torch.ones(2, 2).int()}, {"a": torch.ones(2, 2).int()}, None, 1.0)
