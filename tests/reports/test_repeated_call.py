"""The call on a comparison's page makes the same comparison."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import ModelComparison, compare  # noqa: E402
from mil_palettize.torch import compare_with  # noqa: E402


def call_on(found: ModelComparison) -> str:
    told = re.search(r"<footer.*<code>(.*)</code></footer>", found.to_html())
    assert told is not None
    return html.unescape(told[1])


def test_the_call_makes_the_same_comparison(fixtures: Path) -> None:
    pair = fixtures / "conv_fp16_ios16.mlpackage", str(fixtures / "conv_fp32_ios16.mlpackage")
    found = compare(*pair, random=2, seed=3, logits=["scores"], progress=False)
    call = call_on(found)
    assert call == f"compare({str(pair[0])!r}, {pair[1]!r}, random=2, seed=3, logits=['scores'])"
    assert eval(call, {"compare": compare}).outputs == found.outputs
    assert call_on(compare(pair[0], pair[0], random=8)) == f"compare({str(pair[0])!r}, {str(pair[0])!r})"
    assert "<code>mil-palettize" in found.to_html("mil-palettize compare a b")


def test_what_no_line_holds_goes_by_its_name(fixtures: Path) -> None:
    path = str(fixtures / "multifunction_ios18.mlpackage")
    x, module = [{"x": np.ones((1, 1, 48), np.float32)}], torch.nn.Linear(48, 48).eval()
    found = compare_with(module, path, x, function="decode")
    assert call_on(found) == f"compare_with(module, {path!r}, samples, function='decode')"
    names = {"compare_with": compare_with, "module": module, "samples": x}
    assert eval(call_on(found), names).outputs == found.outputs
    conv = str(fixtures / "conv_fp16_ios16.mlpackage")
    labels = np.zeros(8, int)
    told = call_on(compare(conv, conv, logits=["scores"], labels=labels))
    assert told == f"compare({conv!r}, {conv!r}, logits=['scores'], labels=labels)"
