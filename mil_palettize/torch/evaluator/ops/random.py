"""Random numbers: the same for the same ``seed`` each time an op is run, from torch's global generator for a negative
one. They have the distributions that devices draw from, not the numbers they draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.registry import Int, Ints, Number, Tensor, Text, op


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """In the block, ops without a seed of their own draw the numbers that follow from ``seed``, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator | None:
    return torch.Generator(device).manual_seed(seed) if seed >= 0 else None


@op("random_bernoulli")
def random_bernoulli(shape: Ints, prob: Number = 0.5, seed: Int = -1) -> Tensor:
    claim(shape)
    return torch.full(tuple(shape), float(prob)).bernoulli(generator=_generator(seed))


@op("random_categorical")
def random_categorical(x: Tensor, mode: Text = "logits", size: Int = 1, seed: Int = -1) -> Tensor:
    weights = torch.softmax(x, -1) if mode == "logits" else x
    rows = weights.reshape(-1, weights.shape[-1])
    claim((*rows.shape[:-1], size), torch.int64)
    drawn = torch.multinomial(rows, size, replacement=True, generator=_generator(seed, x.device))
    return drawn.reshape(*x.shape[:-1], size).to(x.dtype)


@op("random_normal")
def random_normal(shape: Ints, mean: Number = 0.0, stddev: Number = 1.0, seed: Int = -1) -> Tensor:
    claim(shape)
    return torch.randn(tuple(shape), generator=_generator(seed)) * stddev + mean


@op("random_uniform")
def random_uniform(shape: Ints, low: Number = 0.0, high: Number = 1.0, seed: Int = -1) -> Tensor:
    claim(shape)
    return torch.empty(tuple(shape)).uniform_(low, high, generator=_generator(seed))
