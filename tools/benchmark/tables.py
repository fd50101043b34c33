"""What the benchmark found, as Markdown. The figures are those of its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
KEPT_PARTS = 0.005  # parts that take less than this share everywhere have no column


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ranged(value: float, values: Sequence[float], form: str = ".0f") -> str:
    """``64 (48–64)``; without the range where there is one value."""
    spread = f" ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else ""
    return f"{value:{form}}{spread}"


def comparisons_text(comparisons: Sequence[Figures]) -> str:
    header = (
        "work", "ours", "coremltools", "times faster (range)", "target", "peak memory", "squared error",
        "share of read + write",
    )  # fmt: skip
    rows = [
        [
            row["case"],
            f"{row['ours_seconds']:.3f} s",
            f"{row['coremltools_seconds']:.1f} s" + (" (once)" if row["coremltools_runs"] < row["runs"] else ""),
            ranged(row["ratio"], row["ratios"]),
            row["target"],
            f"{row['ours_peak_mb']:.0f} / {row['coremltools_peak_mb']:.0f} MB",
            f"{row['error_ratio']:.6f}",
            f"{row['limit_share']:.2f} ({row['limit_share_as_written']:.2f})",
        ]
        for row in comparisons
    ]
    packages = dict.fromkeys(row["package"] for row in comparisons)
    notes = [
        f"Packages: {'; '.join(packages)}.",
        "Share of read + write: the time of one plain read of the weights and one plain write of as many bytes, synced "
        "as ours is, by our time; in brackets, where only as many bytes are written as we write.",
    ]
    notes += [
        f"{row['case']}: the squared error is {row['optimum_gap']:.1e} above the least possible."
        for row in comparisons
        if row["optimum_gap"] is not None
    ]
    if any(row["coremltools_runs"] < row["runs"] for row in comparisons):
        notes.append("(once): coremltools ran once only, ours as often as elsewhere.")
    imports = comparisons[0]["import_seconds"], comparisons[0]["warm_up_seconds"]
    notes.append(f"Left out of our time: {imports[0]:.1f} s of imports, {imports[1]:.1f} s of loading compiled loops.")
    return "\n".join(["Whole calls, from disk to disk:", "", table(header, rows), "", *notes])


def memory_text(memory: Sequence[Figures]) -> str:
    rows = [
        [
            row["package"],
            row["case"],
            f"{row['seconds']:.2f} s",
            f"{row['peak_mb']:.0f} MB",
            f"{row['growth_mb']:.0f} MB",
        ]
        for row in memory
    ]
    header = ("package", "work", "time", "peak memory", "growth over an idle import (target 150 MB)")
    return "\n".join(["Memory; our time with the loading of compiled loops:", "", table(header, rows)])


def start_text(start: Mapping[str, Figures]) -> str:
    rows = [
        [name, *(f"{ranged(run[key], run[key + '_runs'], '.1f')} s" for key in ("imported", "finished"))]
        for name, run in start.items()
    ]
    header = ("compiled loops", "imports done", "first palette done")
    return "\n".join(["A new process, seconds from its start:", "", table(header, rows)])


def workers_text(workers: Figures) -> str:
    return (
        f"Two workers, {workers['case']}: {ranged(workers['speed_up'], workers['speed_ups'], '.2f')} times faster than "
        f"one ({workers['seconds_of_one']:.3f} s and {workers['seconds_of_two']:.3f} s; target 1.7)"
    )


def profile_text(profiles: Sequence[Figures]) -> str:
    totals = [sum(row["seconds"].values()) for row in profiles]
    kept = [
        part
        for part in profiles[0]["seconds"]
        if any(row["seconds"][part] >= KEPT_PARTS * total for row, total in zip(profiles, totals, strict=True))
    ]
    rows = [
        [
            row["case"],
            f"{row['untimed_seconds']:.3f} s",
            f"{total:.3f} s",
            *(f"{row['seconds'][part] / total:.0%}" for part in kept),
        ]
        for row, total in zip(profiles, totals, strict=True)
    ]
    note = (
        "Per tensor, assign packs as well. sync: fsync of the new package. program: constants found, planned, replaced."
    )
    header = ("work", "one worker", "with timers", *kept)
    return "\n".join(["Where our time goes, with one worker:", "", table(header, rows), "", note])


def document(results: Mapping[str, Any]) -> str:
    """All sections that were measured."""
    machine = results["machine"]
    title = (
        f"{machine['system']} {machine['architecture']}, {machine['processors']} processors, Python "
        f"{machine['python']}, coremltools {machine['coremltools']}, scikit-learn {machine['scikit-learn']}; "
        f"runs: {results['runs']}"
    )
    if results["quick"]:
        title += "\nLittle packages: whether it all works, not how fast it is. The targets are for the full run."
    texts: dict[str, Callable[[Any], str]] = {
        "comparisons": comparisons_text,
        "memory": memory_text,
        "start": start_text,
        "workers": workers_text,
        "profile": profile_text,
    }
    return "\n\n".join([title, *(text(results[key]) for key, text in texts.items() if results.get(key))])
