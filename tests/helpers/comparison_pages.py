"""Comparisons of many kinds, and their pages read back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np

from mil_palettize.reports.attribution import Attribution, WeightLoss
from mil_palettize.reports.compared_parts import Distance, OpComparison, OutputComparison, WeightComparison
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.page.document import page
from mil_palettize.reports.pictures import Box, Detections, OutputPicture

VOID = {"meta", "br", "hr", "img", "input", "link"}
EQUAL = Distance(elements=10, snr_db=math.inf, psnr_db=math.inf, cosine=1.0, max_abs=0.0)
LOST = Distance(elements=10, snr_db=math.nan, psnr_db=-math.inf, cosine=math.nan, max_abs=math.inf, non_finite=3)
HOSTILE = [
    "<script>alert(1)</script>",
    "a\"b&c'd",
    '"><img src=x onerror=alert(1)>',
    "]]></style></svg><script>",
    "wörter_in_größe",
    "משקל_ראשון",
    "\u202egnp.exe",
    "🦜🧱_weight",
    "bell\x07and\x00null",
    "lone\udc80surrogate",
    "x" * 400,
    "model.decoder.layers.11.self_attention.output_projection.weight." * 8,
]


class Page(HTMLParser):
    """Parses strictly: every tag must close in its order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def parsed(comparison: ModelComparison) -> Page:
    return Page(page(comparison))


def figures(snr_db: float) -> Distance:
    return Distance(elements=1000, snr_db=snr_db, psnr_db=snr_db + 8, cosine=0.9991, max_abs=0.0123)


def weight(name: str, snr_db: float, palette: bool = False) -> WeightComparison:
    plain = WeightComparison(name, (64, 32, 3, 3), 36864, 9300, snr_db)
    if not palette:
        return plain
    bell = [round(1000 * math.exp(-(((i - 30) / 12) ** 2))) for i in range(64)]
    edges = tuple(-0.31 + 0.01 * i for i in range(65))
    return WeightComparison(
        name, plain.shape, 36864, 9300, snr_db, edges, tuple(bell), tuple(0.3 * math.sin(i / 5) for i in range(-7, 9))
    )


def several(wanted: int | list[Any], make: Callable[[int], Any]) -> list[Any]:
    return wanted if isinstance(wanted, list) else [make(i) for i in range(wanted)]


def comparison(
    outputs: int | list[OutputComparison] = 2,
    weights: int | list[WeightComparison] = 60,
    ops: int | list[OpComparison] = 400,
    **changes: Any,
) -> ModelComparison:
    """One as a real run gives it: errors grow along the network. Numbers ask for as many plain ones."""
    draw = random.Random(0)

    def op(i: int) -> OpComparison:
        loss = 25 + 45 * math.exp(-i / 100) + draw.gauss(0, 3) if i > 40 else math.inf
        return OpComparison(f"layers_{i}_output_cast_fp16", "conv" if i % 3 else "relu", figures(loss))

    values: dict[str, Any] = {
        "original": "models/MobileNet.mlpackage",
        "palettized": "models/MobileNet_4bit.mlpackage",
        "inputs": "images of the folder validation",
        "samples": 64,
        "bytes_before": 14_200_000,
        "bytes_after": 3_720_000,
        "unmatched": 12,
    }
    return ModelComparison(
        **(values | changes),
        outputs=several(
            outputs, lambda i: OutputComparison(f"output_{i}", (1, 1000), figures(31.4 - 12 * i), 24.2 - 12 * i, 0.9844)
        ),
        weights=several(
            weights, lambda i: weight(f"layers.{i}.attention.query.weight", 12 + 40 * draw.random(), palette=i < 5)
        ),
        ops=several(ops, op),
    )


def hostile() -> ModelComparison:
    """Every text that a package or a caller chooses is an attack, or too long."""
    return comparison(
        original=f"models/{HOSTILE[0].replace('/', '')}",
        palettized=HOSTILE[10],
        inputs=HOSTILE[2],
        precision=HOSTILE[1],
        runtime=HOSTILE[3],
        notes=[*HOSTILE],
        outputs=[OutputComparison(name, (1, 10), figures(3.0 * i), 1.0) for i, name in enumerate(HOSTILE)],
        weights=[weight(name, 2.0 * i, palette=True) for i, name in enumerate(HOSTILE)],
        ops=[OpComparison(name, HOSTILE[-1 - i], figures(5.0 * i)) for i, name in enumerate(HOSTILE)],
    )


EMPTY = ModelComparison("a.mlpackage", "b.mlpackage", "given", 0, 0, 0, [])
SAME = ModelComparison(
    "a.mlpackage",
    "a.mlpackage",
    "given",
    1,
    100,
    100,
    [OutputComparison("y", (), EQUAL, math.inf)],
    [WeightComparison("w", (10,), 40, 40, math.inf)],
    [OpComparison("x", "add", EQUAL)],
)
BROKEN = comparison(
    outputs=[OutputComparison("y", (2,), LOST, -math.inf, math.nan), OutputComparison("z", (), figures(-7.0))],
    weights=[
        weight("lost", -math.inf),
        weight("unknown", math.nan),
        WeightComparison("masked", (4,), 16, 8, 3.0, (-math.inf, 0.0, 1.0), (2, 2), (0.5, math.inf)),
        WeightComparison("constant", (4,), 16, 8, 3.0, (0.5, 0.5), (4,), (0.5, math.nan)),
    ],
    ops=[OpComparison(f"op{i}", "add", f) for i, f in enumerate([LOST, EQUAL, figures(-math.inf), figures(400.0)])],
)
CLASSIFIER = comparison(
    outputs=[OutputComparison("classLabel", (), None, None, 0.9844), OutputComparison("probs", (), None)],
    weights=0,
    ops=0,
)
ATTRIBUTED = comparison(
    attributions=[
        Attribution(
            tuple(
                WeightLoss(name, 0.1**i, f"layers_{41 + 9 * i}_output_cast_fp16", 0.05**i)
                for i, name in enumerate(HOSTILE)
            ),
            0.2,
            4,
        ),
        Attribution((WeightLoss("lost", math.inf, "unknown"), WeightLoss("fine", 0.0)), math.inf, 1, "decode"),
    ]
)
GRAY, COLOURS = np.arange(600, dtype=np.uint8).reshape(20, 30), np.full((900, 500, 3), 200, np.uint8)
PICTURED = comparison(
    pictures=[
        OutputPicture(HOSTILE[0], 3, GRAY, GRAY, GRAY, 2.5),
        OutputPicture("same", 0, COLOURS, COLOURS, np.zeros_like(COLOURS), 1.0),
    ],
    detections=[
        Detections(1, (Box(0.1, 0.2, 0.3, 0.1, HOSTILE[2]), Box(math.nan, 0, 1, 1, "nowhere")), (), COLOURS),
        Detections(0, (), (Box(-0.5, 0.2, 3.0, 0.1, "class 3, 40%"),)),
    ],
)
STEPS = tuple(OutputComparison("y", (), figures(30.0 - i)) for i in range(9))
SEQUENCE = comparison(
    outputs=[
        OutputComparison("y", (1, 8), figures(24.0), 20.0, steps=(*STEPS, OutputComparison("y", (), EQUAL))),
        OutputComparison("z", (1, 8), figures(24.0), 20.0, steps=STEPS[:1]),
    ]
)
ALL = {
    "plain": comparison(),
    "one output": comparison(outputs=1, weights=3, ops=12, notes=["Inputs are random: fixed seed 0."]),
    "no ops": comparison(ops=0),
    "no weights": comparison(weights=0),
    "no outputs": comparison(outputs=0),
    "hostile": hostile(),
    "attributed": ATTRIBUTED,
    "sequence": SEQUENCE,
    "pictured": PICTURED,
    "empty": EMPTY,
    "same": SAME,
    "broken": BROKEN,
    "classifier": CLASSIFIER,
}
