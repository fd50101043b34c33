"""Outputs that can be seen: images before and after, and boxes drawn on what they were found in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.page.frame import name_shown, section
from mil_palettize.reports.pictures import Box, Detections, OutputPicture, data_uri
from mil_palettize.text import format_count

PICTURE_STYLE = """
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr));gap:.75rem;margin-top:.5rem}
.pictures img,.scene{width:100%;border:1px solid var(--line);border-radius:.375rem;display:block}
.pictures figcaption{color:var(--muted);font-size:.875rem}.pictures+h3{margin-top:1.25rem}
.scene{position:relative;max-width:34rem;background:#222}.scene img{border:0}
.scene svg{position:absolute;inset:0;height:100%}
.scene rect{fill:transparent;stroke:#ffd400;stroke-width:2px;vector-effect:non-scaling-stroke;
filter:drop-shadow(0 0 1px #000)}
.scene .after{stroke:#ff4fd8;stroke-dasharray:6 4}
"""


def pictured(pictures: Sequence[OutputPicture], detections: Sequence[Detections]) -> str:
    """A section, "" without any."""
    content = "".join([*map(_images, pictures), *map(_scene, detections)])
    return section("What can be seen", content) if content else ""


def _images(picture: OutputPicture) -> str:
    changed = picture.difference.any()
    shown = [("before", picture.before), ("after", picture.after)]
    shown += [(f"difference × {picture.gain:.3g}", picture.difference)] if changed else []
    figures = "".join(
        f"<figure>{_image(what, pixels)}<figcaption>{what}</figcaption></figure>" for what, pixels in shown
    )
    told = "the one that differs most" if changed else "all are the same"
    return (
        f'<h3>{name_shown(picture.name)} <span class="muted">sample {picture.sample + 1}, {told}</span></h3>'
        f'<div class="pictures">{figures}</div>'
    )


def _image(what: str, pixels: np.ndarray) -> str:
    return f'<img src="{data_uri(pixels)}" alt="{what}">'


def _scene(found: Detections) -> str:
    counts = f"{format_count(len(found.before), 'box')} before (solid), {len(found.after)} after (dashed)"
    counts = counts.replace("boxs", "boxes")
    ratio = 1.0 if found.picture is None else found.picture.shape[1] / found.picture.shape[0]
    background = "" if found.picture is None else _image("what the boxes were found in", found.picture)
    boxes = "".join([*_rects(found.before, "before"), *_rects(found.after, "after")])
    svg = (
        f'<svg class="boxes" role="img" aria-label="{counts}" width="100%" height="100%" viewBox="0 0 1000 1000" '
        f'preserveAspectRatio="none">{boxes}</svg>'
    )
    return (
        f'<h3>Boxes <span class="muted">sample {found.sample + 1}, that has least in common: {counts}</span></h3>'
        f'<div class="pictures"><div class="scene" style="aspect-ratio:{ratio:.4f}">{background}{svg}</div></div>'
    )


def _rects(boxes: Sequence[Box], kind: str) -> Iterator[str]:
    for box in boxes:
        if all(map(math.isfinite, (box.left, box.top, box.width, box.height))):
            yield (
                f'<rect class="{kind}" x="{1000 * box.left:.0f}" y="{1000 * box.top:.0f}" '
                f'width="{max(0, 1000 * box.width):.0f}" height="{max(0, 1000 * box.height):.0f}">'
                f"<title>{kind}: {escaped(box.text)}</title></rect>"
            )
