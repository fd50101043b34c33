"""The loss of a fine tuning, from its definition."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from mil_palettize.errors import ConfigError, EvaluationError  # noqa: E402
from mil_palettize.torch.training.losses import Distance  # noqa: E402

WANTED, FOUND = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 0.0, 0.7]])
RELATIVE = ((FOUND - WANTED).square().sum() / WANTED.square().sum()).double()


def divergence(found, wanted, temperature):
    return F.kl_div(found, wanted, log_target=True, reduction="sum").double() * temperature**2


def distance(found, wanted, label=None, temperature=4.0):
    """Of one sample."""
    return Distance.of([wanted], temperature)([found], [wanted], None if label is None else [label])


def close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_classes(temperature) -> None:
    found, wanted = (F.log_softmax(x / temperature, -1) for x in (FOUND, WANTED))
    expected = RELATIVE + divergence(found, wanted, temperature)
    close(distance({"y": FOUND}, {"y": WANTED}, temperature=temperature), expected)
    told = distance({"y": FOUND}, {"y": WANTED}, 2, temperature)
    close(told, expected + F.cross_entropy(FOUND, torch.tensor([2])).double())


def test_probabilities_are_no_scores() -> None:
    found, wanted = FOUND.softmax(-1), WANTED.softmax(-1)
    relative = ((found - wanted).square().sum() / wanted.square().sum()).double()
    close(distance({"y": found}, {"y": wanted}, temperature=1.0), relative + divergence(found.log(), wanted.log(), 1.0))


def test_several_outputs_count_alike_whatever_their_power() -> None:
    wanted = {"a": torch.ones(4, 4), "b": torch.full((2, 2), 100.0), "label": 3}
    found = {"a": torch.ones(4, 4) * 1.1, "b": torch.full((2, 2), 120.0), "label": 4}
    close(distance(found, wanted), torch.tensor((0.01 + 0.04) / 2).double())


def test_what_is_infinite_counts_nowhere() -> None:
    wanted = {"a": torch.tensor([[1.0, float("-inf")], [1.0, 1.0]])}
    close(distance({"a": torch.ones(2, 2)}, wanted), torch.tensor(0.0).double())


def test_samples_count_alike() -> None:
    """The mean of those of single samples, also where shapes differ."""
    wanted = [{"y": torch.rand(2, 3, generator=torch.Generator().manual_seed(n))} for n in range(3)]
    found = [{"y": one["y"] + 0.1 * n} for n, one in enumerate(wanted)]
    expected = torch.stack([distance(one, two) for one, two in zip(found, wanted, strict=True)]).mean()
    close(Distance.of(wanted, 4.0)(found, wanted, None), expected)
    wanted[1], found[1] = {"y": torch.ones(1, 4)}, {"y": torch.full((1, 4), 2.0)}
    expected = torch.stack([distance(one, two) for one, two in zip(found, wanted, strict=True)]).mean()
    close(Distance.of(wanted[:1], 4.0)(found, wanted, None), expected)


def test_no_classes() -> None:
    plain, classes = {"a": torch.ones(2, 2)}, {"y": WANTED}
    with pytest.raises(ConfigError, match="labels need a network with one output of classes"):
        Distance.of([plain], 1.0).check_labels([0], plain)
    with pytest.raises(ConfigError, match="label 1 is 3, which is none of the 3 classes"):
        Distance.of([classes], 1.0).check_labels([0, 3], classes)
    with pytest.raises(EvaluationError, match="has no output of floats"):
        Distance.of([{"a": torch.ones(2, 2).int()}], 1.0)
