"""Attention, against coremltools' value inference and torch."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402

rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def attention(query, key, value, *mask):
    return mb.scaled_dot_product_attention(
        query=query, key=key, value=value, **({"attn_mask": mask[0]} if mask else {})
    )


@pytest.mark.parametrize("lead", [(2,), (2, 3), (1, 2, 2)])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("mask_lead", [(), (4,), (1, 4)])
def test_attention(lead, kind, mask_lead):
    inputs = [floats(*lead, 4, 6), floats(*lead, 5, 6), floats(*lead, 5, 3)]
    if kind != "none":
        mask = floats(*mask_lead, 5)
        if kind == "bool":
            mask = mask > -0.5
            mask[..., 0] = True  # attention to nothing at all is nowhere defined
        inputs.append(mask)
    same(evaluated(attention, *inputs), inferred(attention, *inputs))


class Attention(torch.nn.Module):
    def forward(self, query, key, value):
        mask = torch.ones(4, 4, dtype=torch.bool).tril()
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@pytest.mark.parametrize("target", [ct.target.iOS17, ct.target.iOS18])
def test_against_torch(target):
    against_torch(Attention(), floats(2, 2, 4, 8), floats(2, 2, 4, 8), floats(2, 2, 4, 8), target=target)
