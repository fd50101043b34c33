"""The report: every promised field, numbers that are those of the files, text a person can read at 80 columns."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from comparison_pages import Page
from packages import blob_users, read_record, weights_dir

from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report, WeightReport
from mil_palettize.reports.tables import format_table, grouped_lines
from mil_palettize.reports.weight_report import Moved
from mil_palettize.reports.weight_rows import LARGEST
from mil_palettize.text import columns, format_bytes, printable, shorten

Palettize = Callable[..., tuple[Path, Report]]
LONG = "model_decoder_layers_{:02d}_self_attention_output_projection_weight"
PALETTIZED = WeightReport(
    name="w",
    function="main",
    shape=(64, 48),
    dtype="fp16",
    consumers=[("linear", "weight")],
    status="palettized",
    reason="",
    mode="kmeans",
    nbits=4,
    granularity="per_tensor",
    group_size=None,
    channel_axis=None,
    bytes_before=6144,
    bytes_after=1568,
    snr_db=20.5,
    squared_error=1.5,
    seconds=0.1,
)
SKIPPED = dataclasses.replace(
    PALETTIZED,
    status="skipped",
    reason="rank 1",
    mode=None,
    nbits=None,
    granularity=None,
    bytes_after=6144,
    snr_db=None,
    squared_error=None,
)


def report_of(*weights: WeightReport, **changes: object) -> Report:
    kept = {"source": "a.mlpackage", "destination": "b.mlpackage", "bytes_before": 10_000, "bytes_after": 4_000}
    return Report(weights=list(weights), **(kept | changes))


# Numbers


@pytest.mark.parametrize("name", ["conv_fp16_ios16", "multifunction_ios18", "pipeline_ios17", "odd_values_ios18"])
@pytest.mark.parametrize("keywords", [{"nbits": 4}, {"mode": "unique", "weight_threshold": 16, "select": "all"}])
def test_bytes_are_those_of_the_files(name: str, keywords: dict, fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / f"{name}.mlpackage"
    written, report = palettize(source, workers=1, **keywords)
    for folder, said in ((source, report.bytes_before), (written, report.bytes_after)):
        assert said == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    stages = {f"{stage}": stage for stage in range(2)}
    for (file, offset), users in blob_users(written).items():
        data = read_record(weights_dir(written) / file, offset)[1]
        for model, function, _, constant in users:
            label = f"{stages.get(model, '')}/{function}".lstrip("/")
            records = [
                len(read_record(weights_dir(written) / f, o)[1])
                for (f, o), others in blob_users(written).items()
                if (model, function, constant) in {(k[0], k[1], k[3]) for k in others}
            ]
            claims = [w for w in report.weights if (w.function, w.name) == (label, constant)]
            assert len(data) in records
            for claim in claims:
                # Tables of fewer than ten entries stay inside the program.
                inside = 2**claim.nbits * 2 if claim.nbits and claim.nbits <= 3 else 0
                assert claim.bytes_after == sum(records) + inside


def test_promised_fields(fixtures: Path, palettize: Palettize) -> None:
    _, report = palettize(
        fixtures / "conv_fp16_ios18.mlpackage", nbits=3, granularity="per_grouped_channel", group_size=16, select="all"
    )
    weights = {w.name: w for w in report.weights}
    stem = weights["stem_weight"]
    assert (stem.function, stem.shape, stem.dtype, stem.status) == ("main", (24, 16, 3, 3), "fp16", "palettized")
    assert stem.consumers == [("conv", "weight")]
    assert (stem.mode, stem.nbits, stem.granularity) == ("kmeans", 3, "per_grouped_channel")
    assert (stem.group_size, stem.channel_axis) == (12, 0)
    assert (stem.bytes_before, stem.bytes_after) == (24 * 16 * 9 * 2, 24 * 16 * 9 * 3 // 8 + 2 * 8 * 2)
    assert stem.bits_per_weight == stem.bytes_after * 8 / (24 * 16 * 9)
    assert stem.snr_db > 10
    assert stem.seconds > 0
    assert "groups of 12 instead" in stem.notes[0]
    assert weights["up_weight"].channel_axis == 1
    assert report.moved == []


def test_dry_run_says_what_a_run_will_do(fixtures: Path, palettize: Palettize) -> None:
    told = ("name", "function", "shape", "dtype", "consumers", "status", "reason", "nbits", "group_size", "bytes_after")
    for name, target in (
        ("conv_fp16_ios16", None),
        ("image_classifier_ios15", None),
        ("recurrent_fp16_ios17", "iOS18"),
    ):
        source = fixtures / f"{name}.mlpackage"
        _, dry = palettize(source, nbits=4, target=target, dry_run=True)
        _, real = palettize(source, nbits=4, target=target)
        assert [[getattr(w, f) for f in told] for w in dry.weights] == [
            [getattr(w, f) for f in told] for w in real.weights
        ]
        assert dry.moved == real.moved
        assert dry.dry_run
        assert all(w.snr_db is None for w in dry.weights)
        # Metadata records and ops are not counted: "about".
        assert abs(dry.bytes_after - real.bytes_after) <= 400 * len(real.palettized)


# JSON


@pytest.mark.parametrize(
    ("snr_db", "error"), [(math.inf, 0.0), (-math.inf, 1.0), (math.nan, 1.0), (None, None), (5.0, 1.0)]
)
def test_json_is_valid_whatever_the_error(snr_db: float | None, error: float | None) -> None:
    weight = dataclasses.replace(PALETTIZED, snr_db=snr_db, squared_error=error)
    (got,) = json.loads(report_of(weight).to_json(), parse_constant=pytest.fail)["weights"]
    assert got["snr_db"] == (5.0 if snr_db == 5.0 else None)
    assert got["lossless"] == (snr_db == math.inf)


def test_json_has_everything(fixtures: Path, palettize: Palettize) -> None:
    _, report = palettize(fixtures / "odd_values_ios18.mlpackage", nbits=4, target="iOS26", verify=True)
    got = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert {f.name for f in dataclasses.fields(Report)} == got.keys()
    fields = {f.name for f in dataclasses.fields(WeightReport)} | {"bits_per_weight", "lossless"}
    assert [w.keys() for w in got["weights"]] == [fields] * len(report.weights)
    by_name = {w["name"]: w for w in got["weights"]}
    assert by_name["equal_weight"]["lossless"] is True
    assert by_name["nan_weight"]["lossless"] is None
    assert by_name["nan_weight"]["reason"].startswith("has 1 NaN and 0 infinite values")
    assert by_name["equal_weight"]["consumers"] == [["linear", "weight"]]
    assert got["verified"] is True


def test_constant_without_elements(fixtures: Path) -> None:
    report = report_of(dataclasses.replace(SKIPPED, shape=(0, 4), bytes_before=0, bytes_after=0))
    assert json.loads(report.to_json())["weights"][0]["bits_per_weight"] is None


def test_digests_tell_palettes_apart(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "shared_ios16.mlpackage"
    four, again, two = (palettize(source, nbits=n)[1] for n in (4, 4, 2))
    assert [w.digest for w in four.weights] == [w.digest for w in again.weights]
    digests = {w.name: w.digest for w in four.weights}
    assert digests["twin_a"] == digests["twin_b"] != digests["twice_weight"]
    assert not set(digests.values()) & {w.digest for w in two.weights}


# Text


@pytest.mark.parametrize("width", [40, 60, 80, 110, 1000])
@pytest.mark.parametrize("function", ["main", "stage_of_a_pipeline/main"])
def test_text_is_no_wider_than_asked(width: int, function: str) -> None:
    grouped = {"granularity": "per_grouped_channel", "group_size": 32, "channel_axis": 1}
    weights = [
        dataclasses.replace(PALETTIZED, name=LONG.format(i), function=function, shape=(4096, 1024, 3, 3), **grouped)
        for i in range(12)
    ]
    weights += [dataclasses.replace(SKIPPED, name=LONG.format(i), reason="a long reason " * 9) for i in range(9)]
    weights += [dataclasses.replace(SKIPPED, name=LONG.format(i), notes=("a long note " * 9,)) for i in range(9)]
    moved = [
        Moved("main", "", "", "CoreML6 to CoreML8"),
        *(Moved("main", f"op{i}", "gather", "x " * 60) for i in range(9)),
    ]
    text = report_of(*weights, moved=moved, notes=["about the package " * 9]).to_text(width)
    longest = max(len(line) for line in text.splitlines()[3:])
    assert longest <= max(width, 74)
    if width >= 80:
        assert longest <= width
        assert all(w.label in text or columns(w.label) > width for w in weights[:LARGEST])  # whole names
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_ten_largest_come_first() -> None:
    weights = [dataclasses.replace(PALETTIZED, name=f"w{i}", bytes_before=1000 * i) for i in range(1, 15)]
    lines = report_of(*weights).to_text().splitlines()
    rows = [line.split()[0] for line in lines if line.startswith("w") and "kmeans" in line]
    assert rows == [f"w{i}" for i in range(14, 4, -1)]
    assert "… and 4 more (--all lists them)" in lines
    assert "… and" not in report_of(*weights[:10]).to_text()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (10_000, 4_000, "10 kB → 4 kB, 2.50 times smaller, in"),
        (4_000, 10_000, "4 kB → 10 kB, 2.50 times larger, in"),
        (10_000, 10_000, "10 kB → 10 kB, about the same, in"),
        (10_000, 9_999, "10 kB → 10 kB, about the same, in"),
        (10_000, 0, "10 kB → 0 B, in"),
    ],
)
def test_totals(before: int, after: int, said: str) -> None:
    assert said in report_of(PALETTIZED, bytes_before=before, bytes_after=after).to_text()
    dry = report_of(PALETTIZED, bytes_before=before, bytes_after=after, dry_run=True).to_text()
    assert "→ about " in dry
    assert " s\n" not in dry


def test_what_was_left_alone_is_grouped_by_reason() -> None:
    weights = [dataclasses.replace(SKIPPED, name=f"b{i}") for i in range(5)]
    weights += [dataclasses.replace(SKIPPED, name="m", function="decode", reason="has 1 NaN")]
    text = report_of(*weights).to_text()
    assert "left alone:\n    5  rank 1: b0, b1, b2, …\n    1  has 1 NaN: decode/m\n" in text
    assert "SNR" not in text


def test_lossless_and_unknown_figures() -> None:
    lossless = dataclasses.replace(PALETTIZED, name="same", snr_db=math.inf, squared_error=0.0)
    unknown = dataclasses.replace(PALETTIZED, name="later", mode="unique", nbits=None, bytes_after=None, snr_db=None)
    text = report_of(lossless, unknown).to_text()
    assert any(line.startswith("same ") and line.endswith(" lossless") for line in text.splitlines())
    assert any(line.startswith("later ") and line.split()[-2:] == ["?", "-"] for line in text.splitlines())


def test_moves_and_notes_are_told(fixtures: Path, palettize: Palettize) -> None:
    _, report = palettize(fixtures / "palettized_ios16.mlpackage", nbits=3, target="iOS18")
    text = report.to_text(1000)
    assert "moved to a later opset:\n  main: CoreML6 (iOS16) to CoreML8 (iOS18)\n" in text
    assert "main/a_weight_palettized" in text
    assert [m.op_type for m in report.moved if m.op_name] == ["constexpr_lut_to_dense"] * 2
    typo = OptimizationConfig(op_name_configs={"kept_wieght": OpPalettizerConfig(nbits=4)})
    _, report = palettize(fixtures / "palettized_ios16.mlpackage", typo)
    assert "did you mean 'kept_weight'?" in report.to_text(1000).partition("notes:\n")[2]


def test_control_characters_are_escaped() -> None:
    name = "a\x1b[31m\nb\x07\u202e"
    weights = [dataclasses.replace(kind, name=name, reason="r" * (kind is SKIPPED)) for kind in (PALETTIZED, SKIPPED)]
    text = report_of(*weights, source="s\x1b.mlpackage", notes=["n\x07"]).to_text()
    assert not any(c in text for c in "\x1b\x07\u202e")
    assert r"a\x1b[31m" in text
    assert r"s\x1b.mlpackage" in text


# Tables


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_499, "999 kB"),
        (999_500, "1 MB"), (12_345_678, "12.3 MB"), (2_000_000_000, "2 GB"), (10**13, "10 TB"), (10**16, "1e+04 TB"),
    ],
)  # fmt: skip
def test_bytes_in_words(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    "text", ["short", "a_name_that_is_far_too_long_for_it", "模型的权重名称很长很长", "模a型b的c权d重e"]
)
@pytest.mark.parametrize("width", [5, 6, 7, 12, 13])
def test_shortening_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert columns(short) <= width
    if short != text:
        head, tail = short.split("…")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert columns(short) >= width - 2


def test_columns_line_up_with_wide_characters() -> None:
    text = format_table(("a", "b"), [("模型", "1"), ("xx", "22")], 80, right=1)
    assert text.splitlines() == ["a      b", "────  ──", "模型   1", "xx    22"]


def test_table_that_does_not_fit() -> None:
    rows = [("name" * 10, "1", "2", "why " * 10), ("n", "11", "22", "short")]
    stacked = format_table(("weight", "b", "c", "reason"), rows, 60).splitlines()
    assert stacked[:3] == ["weight", "  b   c   reason", "─" * 49]
    assert stacked[3:] == ["name" * 10, "  1   2   " + " ".join(["why"] * 10), "n", "  11  22  short"]
    narrow = format_table(("weight", "b", "c", "reason"), rows, 42).splitlines()
    assert narrow[:4] == ["weight", "  b   c", "    reason", "─" * 40]
    assert narrow[4:7] == ["name" * 10, "  1   2", "    " + " ".join(["why"] * 9)]
    assert narrow[7:] == ["    why", "n", "  11  22", "    short"]


def test_groups_beyond_the_first_are_counted() -> None:
    items = [(f"reason {i:02d}", f"w{i}") for i in range(30)] + [("common", f"c{i}") for i in range(4)]
    lines = grouped_lines(items, 80)
    assert lines[0] == "    4  common: c0, c1, c2, …"
    assert len(lines) == 11
    assert lines[-1] == "   21  in 21 other groups; the JSON report has them all"
    assert len(grouped_lines(items[:11], 80)) == 11
    assert grouped_lines([], 80) == []


def test_printable_text_stays() -> None:
    assert printable("模型 é\n→ ─") == "模型 é\n→ ─"
    assert printable("\udcff\x00\u202e") == r"\udcff\x00\u202e"


def test_weights_of_one_name_are_told_apart() -> None:
    def weight(function: str, block: str = "", name: str = "w") -> WeightReport:
        return dataclasses.replace(PALETTIZED, function=function, block=block, name=name)

    two = report_of(weight("main"), weight("other"), weight("main", name="v"))
    assert list(two.labels().values()) == ["main/w", "other/w", "v"]
    nested = report_of(weight("main", "cond[0]"), weight("main", "cond[1]"), weight("main", "cond[1]", "v"))
    assert list(nested.labels().values()) == ["w in cond[0]", "w in cond[1]", "v"]
    skipped = report_of(*(dataclasses.replace(w, status="skipped", reason="so") for w in two.weights))
    for report in (two, nested, skipped):
        assert all(label in report.to_text() for label in report.labels().values())


def test_decompressing_what_is_not_compressed_says_so() -> None:
    nothing = "Nothing is compressed in it: the new package holds what the old one does.\n"
    assert nothing in report_of(action="decompressed").to_text()
    assert (
        nothing
        not in report_of(dataclasses.replace(PALETTIZED, status="decompressed"), action="decompressed").to_text()
    )
    assert nothing not in report_of().to_text()


def test_the_page_has_every_weight_and_why_others_were_left_alone(fixtures: Path, palettize: Palettize) -> None:
    for name, nbits in (("conv_fp16_ios18", 4), ("palettized_ios16", 6)):
        _, report = palettize(fixtures / f"{name}.mlpackage", nbits=nbits, weight_threshold=100)
        shown = Page(report.to_html())
        for weight in report.weights:
            assert weight.name in shown.words
            assert weight.reason in shown.words
        assert "http" not in report.to_html()
        assert report.notes == [note for note in report.notes if note in shown.words]
        ((tag, attributes),) = Page(report._repr_html_()).tags
        assert tag == "iframe"
        assert (attributes["srcdoc"] or "").startswith("<!DOCTYPE html>")
