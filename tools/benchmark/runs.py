"""What the benchmark runs, one measurement after the other, and what their figures come to."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tools.benchmark.cases import CASES, QUICK_CASES, QUICK_PROFILES, Packages
from tools.benchmark.layouts import weight_file
from tools.benchmark.measurement import measure

PARTS = ("memory", "start", "workers", "profile")
CHUNK = 4 << 20
Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What to run: ``cases`` and ``parts`` by name, on ``packages``. ``large``: memory also with 2.4 GB."""

    packages: Packages
    cases: Sequence[str]
    parts: Sequence[str]
    runs: int
    quick: bool
    large: bool

    def results(self) -> Figures:
        profiled = self.cases or tuple(CASES)
        parts: dict[str, Callable[[], Any]] = {
            "memory": self.memory,
            "start": self.start,
            "workers": self.workers,
            "profile": partial(self.profile, QUICK_PROFILES if self.quick else profiled),
        }
        found: Figures = {"machine": machine(), "quick": self.quick, "runs": self.runs}
        found["comparisons"] = [self.compare(name) for name in self.cases]
        return found | {name: parts[name]() for name in self.parts}

    def compare(self, name: str) -> Figures:
        """Ours, coremltools' and a plain read and write in turn."""
        case, source = CASES[name], self.packages.path(CASES[name].layout)
        job: Figures = {"source": str(source), "options": case.options, "workers": None}
        job["warm_up"] = str(self.packages.warm_up(case.layout))
        ours, theirs, plain, plain_as_written = [], [], [], []
        for number in range(self.runs):
            ours.append(measure("ours", **job))
            nbytes = weight_file(source).stat().st_size
            plain.append(plain_seconds(weight_file(source), nbytes))
            plain_as_written.append(plain_seconds(weight_file(source), ours[-1]["written_bytes"]))
            if not (number and case.once):
                theirs.append(measure("coremltools", **job))
        gap = None
        if case.bounded:
            least = measure("optimum", source=str(source), nbits=case.options["nbits"])["error"]
            gap = ours[0]["error"] / least - 1
        told = {"case": case.title, "target": case.target, "package": self.packages.layouts[case.layout].text}
        return told | compared(ours, theirs, plain, plain_as_written) | {"optimum_gap": gap}

    def memory(self) -> list[Figures]:
        """Ours without a warm-up; coremltools loads and saves only."""
        return [row for layout in ("600 MB", "2.4 GB")[: 1 + self.large] for row in self._memory(layout)]

    def _memory(self, layout: str) -> list[Figures]:
        source, text = str(self.packages.path(layout)), self.packages.layouts[layout].text
        rows = []
        for name in QUICK_CASES[:1] if self.quick else QUICK_CASES:
            job: Figures = {"options": CASES[name].options, "workers": None, "warm_up": None}
            rows.append({"case": f"ours, {CASES[name].title}", **measure("ours", source=source, **job)})
        rows.append({"case": "coremltools, load and save only", **measure("resave", source=source)})
        return [{"package": text, "growth_mb": row["peak_mb"] - row["idle_mb"], **row} for row in rows]

    def start(self) -> Figures:
        """New processes with an empty folder for compiled loops, and with the one that such a process filled."""
        source, options = str(self.packages.warm_up("eight")), CASES["tensor4"].options
        runs: dict[str, list[Figures]] = {"empty cache": [], "filled cache": []}
        for _ in range(1 if self.quick else min(3, self.runs)):
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
                for name in runs:
                    runs[name].append(measure("start", environment=environment, source=source, options=options))
        return {name: started(of_name) for name, of_name in runs.items()}

    def workers(self) -> Figures:
        """Ours with one worker and with two in turn."""
        case = CASES["groups16"]
        job: Figures = {"source": str(self.packages.path(case.layout)), "options": case.options}
        job["warm_up"] = str(self.packages.warm_up(case.layout))
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(self.runs):
            for count in seconds:
                seconds[count].append(measure("ours", **job, workers=count)["seconds"])
        ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
        return {
            "case": case.title,
            "seconds_of_one": statistics.median(seconds[1]),
            "seconds_of_two": statistics.median(seconds[2]),
            "speed_up": statistics.median(ratios),
            "speed_ups": ratios,
        }

    def profile(self, names: Sequence[str]) -> list[Figures]:
        cases = [CASES[name] for name in names]
        runs = [{"source": str(self.packages.path(case.layout)), "options": case.options} for case in cases]
        profiles = measure("profile", runs=runs)["profiles"]
        return [{"case": case.title, **profile} for case, profile in zip(cases, profiles, strict=True)]


def compared(
    ours: Sequence[Figures], theirs: Sequence[Figures], plain: Sequence[float], plain_as_written: Sequence[float]
) -> Figures:
    """Medians of runs; where coremltools ran once, that run is held against each of ours."""
    beside = list(theirs) * len(ours) if len(theirs) == 1 else theirs
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours, beside, strict=True)]
    seconds = statistics.median(a["seconds"] for a in ours)
    return {
        "runs": len(ours),
        "coremltools_runs": len(theirs),
        "ours_seconds": seconds,
        "coremltools_seconds": statistics.median(b["seconds"] for b in theirs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "ours_peak_mb": max(a["peak_mb"] for a in ours),
        "coremltools_peak_mb": max(b["peak_mb"] for b in theirs),
        "error_ratio": ours[0]["error"] / theirs[0]["error"],
        "limit_share": statistics.median(plain) / seconds,
        "limit_share_as_written": statistics.median(plain_as_written) / seconds,
        "palettized": ours[0]["palettized"],
        "import_seconds": statistics.median(a["import_seconds"] for a in ours),
        "warm_up_seconds": statistics.median(a["warm_up_seconds"] for a in ours),
    }


def started(runs: Sequence[Figures]) -> Figures:
    found: Figures = {}
    for key in ("imported", "finished"):
        found[f"{key}_runs"] = [run[key] for run in runs]
        found[key] = statistics.median(found[f"{key}_runs"])
    return found


def plain_seconds(source: Path, written: int) -> float:
    """Seconds of reading ``source`` and of writing and syncing a new file of so many bytes beside it."""
    buffer = bytearray(CHUNK)
    copy = source.with_suffix(".copy")
    start = time.perf_counter()
    with source.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    with copy.open("xb", buffering=0) as file:
        while written:
            written -= file.write(memoryview(buffer)[: min(CHUNK, written)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    copy.unlink()
    return seconds


def machine() -> Figures:
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in ("coremltools", "scikit-learn", "numpy", "numba")},
    }


def version_of(name: str) -> str:
    """coremltools does not need scikit-learn to be installed, and makes some palettes with it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
