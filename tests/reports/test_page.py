"""The page: everything is on it, nothing in a name is obeyed, and it fits a laptop and a phone."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from comparison_pages import (
    ALL,
    BROKEN,
    CLASSIFIER,
    EQUAL,
    HOSTILE,
    LOST,
    SAME,
    SEQUENCE,
    Page,
    comparison,
    figures,
    hostile,
    parsed,
    weight,
)

from mil_palettize import __version__
from mil_palettize.reports.compared_models import MADE_UP
from mil_palettize.reports.compared_parts import OpComparison, OutputComparison, WeightComparison
from mil_palettize.reports.page.charts import _apart
from mil_palettize.reports.page.document import page
from mil_palettize.text import printable


@pytest.mark.parametrize("case", ALL)
def test_it_is_well_formed_and_needs_nothing_else(case: str) -> None:
    source = page(ALL[case])
    found = Page(source)
    source.encode()
    assert source.startswith("<!DOCTYPE html>")
    assert "http" not in source
    sources = [attributes["src"] or "" for tag, attributes in found.tags if tag == "img"]
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", one) for one in sources)
    assert not {"script", "link", "iframe", "object", "image", "use", "foreignobject"} & set(found.names)
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on") or "href" in name]
    assert "url(" not in source
    assert "@import" not in source


@pytest.mark.parametrize("case", ALL)
def test_no_figure_is_infinite_or_nan(case: str) -> None:
    found = parsed(ALL[case])
    shown = [found.words, *(value or "" for _, attributes in found.tags for value in attributes.values())]
    assert not [text for text in shown if re.search(r"(?<![a-z])-?(nan|inf|infinity)(?![a-z])", text, re.IGNORECASE)]


@pytest.mark.parametrize("case", ALL)
def test_what_a_screen_reader_needs_is_there(case: str) -> None:
    found = parsed(ALL[case])
    levels = [int(name[1]) for name in found.names if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert dict(found.tags)["html"]["lang"] == "en"
    assert "title" in found.names
    assert any(attributes.get("name") == "viewport" for tag, attributes in found.tags if tag == "meta")
    charts = [attributes for tag, attributes in found.tags if tag == "svg" and "viewbox" not in attributes]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)


def test_hostile_names_are_text() -> None:
    source = page(hostile())
    text = "".join(Page(source).text)
    for name in HOSTILE:
        assert text.count(printable(name)) >= 4, name  # an output, a weight, its histogram, an op or its type
        assert html.escape(printable(name)) in source
    assert "\u202e" not in source
    assert "\x00" not in source


def test_the_header_says_what_was_compared() -> None:
    words = parsed(comparison(notes=["Two ops were skipped."])).words
    for text in (
        "MobileNet.mlpackage → MobileNet_4bit.mlpackage",
        "3.82× smaller",
        "14.2 MB → 3.72 MB",
        "64 samples",
        "images of the folder validation",
        "Computed infp32by torch",
        "Two ops were skipped.",
    ):
        assert text in words
    assert "models/" not in words
    assert "1.25× larger" in parsed(comparison(bytes_before=400, bytes_after=500)).words


def test_made_up_inputs_are_said_once_and_prominently() -> None:
    source = page(comparison(notes=["Two ops were skipped.", MADE_UP]))
    assert source.count("made up") == 1
    assert f"<strong>{MADE_UP}</strong>" in source
    assert "made up" not in page(comparison(inputs="random_inputs.npz", notes=["Draws random numbers."]))


def test_it_says_when_and_how_it_was_made() -> None:
    words = parsed(comparison()).words
    assert f"Made {datetime.now(UTC):%Y-%m-%d}" in words
    assert words.endswith(f"by mil-palettize {__version__}.")
    command = "mil-palettize compare 'a <b>.mlpackage' c.mlpackage --html page.html"
    assert Page(comparison().to_html(command)).words.endswith(f"{__version__}: {command}")


def test_points_tell_what_they_are() -> None:
    def tips(ops: list[OpComparison]) -> list[str]:
        return re.findall(r"<title>(\d+: [^<]*)</title>", page(comparison(ops=ops)))

    few = [OpComparison("a", "x", EQUAL), OpComparison("b", "conv", figures(31.25)), OpComparison("c", "x", LOST)]
    assert tips(few) == ["1: a (x) equal", "2: b (conv) 31.2 dB", "3: c (x) nothing"]
    many = [OpComparison(f"op{i}", "add", figures(50 - i % 7)) for i in range(1200)]
    found = tips(many)
    assert len(found) == 400
    assert found[1] == "6: op5 (add) 45.0 dB, the lowest of 3"


def test_in_a_notebook_the_page_has_a_frame_of_its_own() -> None:
    shown = Page(comparison()._repr_html_())
    ((tag, attributes),) = shown.tags
    assert tag == "iframe"
    assert (attributes["srcdoc"] or "").startswith("<!DOCTYPE html>")


def test_outputs_show_all_their_figures() -> None:
    words = parsed(comparison(outputs=1)).words
    for text in ("output_0 1×1000", "31.4 dB", "24.2 dB", "39.4 dB", "0.999100", "0.0123", "98.44%"):
        assert text in words


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        (OutputComparison("y", (), EQUAL), "no difference"),
        (OutputComparison("y", (), figures(120.0)), "close: error below 0.01 %"),
        (OutputComparison("y", (), figures(40.0)), "close: error 1 %"),
        (OutputComparison("y", (), figures(39.9)), "noticeable: error 1 %"),
        (OutputComparison("y", (), figures(20.0)), "noticeable: error 10 %"),
        (OutputComparison("y", (), figures(6.0)), "far: error 50 %"),
        (OutputComparison("y", (), figures(0.0)), "far: error 100 %"),
        (OutputComparison("y", (), figures(-1.0)), "error above the signal"),
        (OutputComparison("y", (), figures(-math.inf)), "error above the signal"),
        (OutputComparison("y", (), LOST), "not all finite"),
        (OutputComparison("y", (), LOST), "3 of 13 values"),
        (OutputComparison("y", (), None, None, 1.0), "100.00% agree equal"),
        (OutputComparison("y", (), None, None, 0.95), "95.00% agree noticeable"),
        (OutputComparison("y", (), None), "not compared neither numbers nor labels"),
    ],
)
def test_verdicts_are_in_words(output: OutputComparison, verdict: str) -> None:
    assert verdict in parsed(comparison(outputs=[output])).words


def test_what_counts_as_close_is_said_for_labels_where_there_are_any() -> None:
    assert "Of labels, 99% and 90% must agree." in parsed(CLASSIFIER).words
    assert "Of labels" not in parsed(comparison()).words


def test_weights_come_worst_first_and_fold_after_40() -> None:
    made = comparison(weights=500)
    source = page(made)
    listed = re.findall(r"<li><bdi>(layers[^<]*)</bdi>", source)
    assert listed == [w.name for w in sorted(made.weights, key=lambda w: w.snr_db)]
    assert len(re.findall(r"<li><bdi>layers", source[: source.index("<details>")])) == 40
    assert "460 more" in parsed(made).words
    assert "4.04 bits of 16" in parsed(made).words
    assert "36.9 kB → 9.3 kB" in parsed(made).words


def test_weights_that_did_not_change_are_counted() -> None:
    same = WeightComparison("bias", (8,), 32, 32, math.inf)
    words = parsed(comparison(weights=[weight("kernel", 20.0), same])).words
    assert "1 weight changed" in words
    assert "1 other did not change" in words
    assert "bias" not in words
    assert "All are as they were." in parsed(SAME).words


def test_ops_are_drawn_and_the_worst_ten_listed() -> None:
    made = comparison()
    found = parsed(made)
    worst = sorted(made.ops, key=lambda op: op.figures.snr_db)[:10]
    rows = found.words[found.words.index("Lost most") :]
    places = [rows.index(f"{op.name} {op.kind}") for op in worst]
    assert places == sorted(places)
    assert found.names.count("circle") == 10
    assert "400 ops that both models have, 41 of them equal. 12 that only one of them has are left out." in found.words
    assert "Along the network" not in parsed(comparison(ops=0)).words
    assert "1 op that both models have, all equal." in parsed(SAME).words


def test_marks_of_ops_neither_touch_nor_leave_the_chart() -> None:
    for places in ([0.1, 0.2, 0.3, 50.0, 52.0, 54.0, 99.8, 99.9], [99.0 + i / 10 for i in range(10)], [50.0]):
        points = _apart(places)
        assert all(after - before > 5.7 for before, after in pairwise(points))
        assert 2.8 < points[0] <= points[-1] < 97.2
    assert points == [50.0]


def test_equal_ops_lie_above_all_others() -> None:
    made = comparison(ops=[OpComparison("a", "x", EQUAL), OpComparison("b", "x", figures(30.0))])
    (dots,) = (attributes["d"] for tag, attributes in parsed(made).tags if attributes.get("class") == "dots")
    (equal, other) = re.findall(r"M\d+ (\d+)h", dots or "")
    assert int(equal) < 100 < int(other)


def test_sequences_are_drawn_call_by_call() -> None:
    found = parsed(SEQUENCE)
    (chart,) = (attributes for tag, attributes in found.tags if attributes.get("class") == "steps")
    assert chart["aria-label"] == "SNR in dB of 10 calls of a sequence; the lowest is 22.0."
    (line,) = (
        attributes["d"] or ""
        for tag, attributes in found.tags
        if attributes.get("class") == "course" and "d" in attributes
    )
    points = [tuple(map(int, point.split())) for point in line[1:].split("L")]
    assert [x for x, _ in points] == [50 + 100 * i for i in range(9)]  # the equal call has no place on the line
    assert all(after > before for (_, before), (_, after) in pairwise(points))  # falling: further down
    assert len({after - before for (_, before), (_, after) in pairwise(points)}) <= 2


def test_histograms_are_drawn_for_weights_that_have_counts() -> None:
    found = parsed(comparison())
    charts = [attributes for _, attributes in found.tags if attributes.get("class") == "histogram"]
    assert len(charts) == 5
    assert all("16 palette values below" in (attributes["aria-label"] or "") for attributes in charts)
    ticks = [attributes["d"] or "" for _, attributes in found.tags if attributes.get("class") == "ticks"]
    assert [path.count("M") for path in ticks] == [16] * 5
    assert len([a for _, a in parsed(BROKEN).tags if a.get("class") == "histogram"]) == 1  # not the one to infinity
    assert "Values of weights" not in parsed(comparison(weights=[weight("w", 3.0)])).words


def test_a_large_model_gives_a_small_page() -> None:
    assert len(page(comparison(weights=500, ops=2000)).encode()) < 300_000
    assert len(page(comparison(weights=500, ops=50_000)).encode()) < 1_000_000


WIDTHS = (1280, 390)
# Frames, since a window of Chromium is never narrower than 500 pixels. What scrolls inside its own box may be wider.
MEASURE = """<script>addEventListener("load", () => {
const measured = [...document.querySelectorAll("iframe")].map(frame => {
  const root = frame.contentDocument.documentElement;
  const wide = [...root.querySelectorAll("body *")].filter(e => !e.closest(".scroll *, svg *"))
    .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName + "." + e.className);
  return [frame.title, root.clientWidth, root.scrollWidth, wide];
});
document.body.textContent = JSON.stringify(measured);
});</script>"""


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """``case width`` → the screen's width, the page's width, and what sticks out."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium: install Debian's package chromium to lay the page out")
    folder = tmp_path_factory.mktemp("chromium")
    frames = [
        f'<iframe title="{case} {width}" style="width:{width}px;border:0" srcdoc="{html.escape(page(of))}"></iframe>'
        for case, of in ALL.items()
        for width in WIDTHS
    ]
    file = folder / "frames.html"
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8">{"".join(frames)}{MEASURE}', encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += "--disable-component-update --disable-sync --hide-scrollbars --window-size=1280,800 --dump-dom"
    done = subprocess.run(
        [browser, *options.split(), f"--user-data-dir={folder / 'user'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None, done.stderr
    return {title: measured for title, *measured in json.loads(html.unescape(body[1]))}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", ALL)
def test_nothing_is_wider_than_the_screen(case: str, width: int, laid_out: dict[str, list[Any]]) -> None:
    assert laid_out[f"{case} {width}"] == [width, width, []]
