"""The text of a report: in which order, how much of it, what is folded into a line, and what to run next."""

from __future__ import annotations

from dataclasses import replace

from mil_palettize import Report, WeightReport

PLAIN = WeightReport(
    name="w", function="main", shape=(64, 48), dtype="fp16", consumers=[("linear", "weight")], status="palettized",
    reason="", mode="kmeans", nbits=4, granularity="per_tensor", group_size=None, channel_axis=None,
    bytes_before=6144, bytes_after=1568, snr_db=20.0, squared_error=1.0, seconds=0.0, cluster_dim=1,
)  # fmt: skip


def of(*weights: WeightReport, **fields: object) -> Report:
    return Report("a b.mlpackage", "out.mlpackage", 10_000, 4_000, list(weights), **fields)  # type: ignore[arg-type]


def named(count: int) -> list[WeightReport]:
    """The larger, the better the SNR."""
    return [replace(PLAIN, name=f"w{i:02}", bytes_before=1000 + i, snr_db=float(i)) for i in range(count)]


def shown(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.startswith("w") and line[1].isdigit()]


def test_order_and_length() -> None:
    report = of(*named(12))
    assert shown(report.to_text()) == [f"w{i:02}" for i in range(11, 1, -1)]
    assert "… and 2 more (--all lists them)" in report.to_text()
    assert shown(report.to_text(sort="snr")) == [f"w{i:02}" for i in range(10)]
    assert shown(report.to_text(sort="name", every=True)) == [f"w{i:02}" for i in range(12)]
    assert "more" not in report.to_text(every=True)
    assert str(report) == report.to_text()


def test_mean_and_worst() -> None:
    lossless = replace(PLAIN, name="exact", snr_db=float("inf"), squared_error=0.0)
    text = of(*named(3), lossless).to_text()
    assert "SNR of weights: 1.0 dB on average, 0.0 the worst (w00)" in text
    assert "SNR of weights" not in of(lossless).to_text()


def test_reasons_that_differ_in_numbers_are_one_line() -> None:
    left = replace(PLAIN, status="skipped", snr_db=None)
    report = of(
        replace(left, name="a", reason="its palette would take 1,024 bytes, the weight takes 64"),
        replace(left, name="b", reason="its palette would take 64 bytes, the weight takes 32"),
        replace(left, name="c", reason="rank 1; palettes are made of weights of rank 2 and more"),
        replace(left, name="d", reason="left alone by op_name_configs['w_2']"),
        replace(left, name="e", reason="left alone by op_name_configs['w_3']"),
    )
    lines = report.to_text().splitlines()
    assert "    2  its palette would take 64 or 1,024 bytes, the weight takes 32 or 64: a, b" in lines
    assert "    1  rank 1; palettes are made of weights of rank 2 and more: c" in lines
    assert "    1  left alone by op_name_configs['w_3']: e" in lines


def test_many_numbers_are_told_by_their_range() -> None:
    reasons = [f"rank 1; {n:,} of 7 elements lose 2.5 dB, or {n / 4:.2f}" for n in (900, 9, 30, 1000)]
    left = replace(PLAIN, status="skipped", snr_db=None)
    text = of(*(replace(left, name=f"w{i}", reason=reason) for i, reason in enumerate(reasons))).to_text()
    assert "    4  rank 1; 9 to 1,000 of 7 elements lose 2.5 dB, or 2.25 to 250.00: w0" in text
    assert "…" not in text.replace(", …", "")


def test_strides_and_strings_are_not_counted_as_weights_left_alone() -> None:
    left = replace(PLAIN, status="skipped", snr_db=None, reason="so")
    text = of(PLAIN, left, replace(left, dtype="int32"), replace(left, dtype="string"), small=3).to_text()
    counted = "1 constant palettized, 1 left alone, 2 of other types than fp16 and fp32, 3 at or below the threshold"
    assert counted in text.splitlines()
    assert "    3  so: " in text
    compressed = replace(left, dtype="int8")
    assert "0 constants decompressed, 1 left alone" in of(compressed, action="decompressed").to_text().splitlines()


def test_small_weights_are_told_of_where_they_are_much() -> None:
    line = "at or below it are 1 kB of weights, 10 % of the package: --weight-threshold 0"
    assert line in of(PLAIN, small=3, small_nbytes=1001).to_text()
    assert line in of(PLAIN, small=3, small_nbytes=1001).to_html()
    assert "--weight-threshold" not in of(PLAIN, small=3, small_nbytes=1000).to_text()


def test_what_to_run_next() -> None:
    next_line = "next: mil-palettize compare 'a b.mlpackage' out.mlpackage"
    hint = "      (with --inputs X: on samples of yours)"
    assert of(PLAIN).to_text().splitlines()[-2:] == [next_line, hint]
    both = of(PLAIN, replace(PLAIN, function="decode")).to_text().splitlines()[-2:]
    assert both == [f"{next_line} --function all", hint]
    assert next_line not in of(PLAIN, dry_run=True).to_text()
    assert next_line not in of(replace(PLAIN, status="skipped", reason="small")).to_text()
