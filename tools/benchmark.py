"""Times palettize_package against coremltools on the same packages in the same run.

Every measurement is a process of its own; ours and coremltools' alternate. The time is the whole call, source on disk
to destination on disk (coremltools: load, palettize_weights, save). Imports and compilation are left out: ours first
palettizes a package of a few kilobytes. Run: ``python tools/benchmark.py`` (``--quick`` for under a minute).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

logging.getLogger("coremltools").setLevel(logging.CRITICAL)

GROUPED = {"granularity": "per_grouped_channel"}
CASES = {
    "4 bits per tensor": {"nbits": 4},
    "8 bits per tensor": {"nbits": 8},
    "4 bits, groups of 16": {"nbits": 4, "group_size": 16, **GROUPED},
    "4 bits, groups of 4": {"nbits": 4, "group_size": 4, **GROUPED},
}
DEFAULT_CASES = ("4 bits per tensor", "4 bits, groups of 16")


def make_package(path: Path, matrices: int, rows: int, columns: int) -> None:
    """A chain of linear ops with fp16 weights N(0, 0.02), iOS18."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((1, columns))], opset_version=ct.target.iOS18)
    def program(x):
        for i in range(matrices):
            shape = (rows, columns) if i % 2 == 0 else (columns, rows)
            x = mb.linear(x=x, weight=rng.normal(0, 0.02, shape).astype(np.float32), name=f"linear_{i}")
        return x

    model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    model.save(str(path))


def run_ours(source: Path, destination: Path, options: dict, warm_up: Path) -> dict:
    from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package

    config = OptimizationConfig(global_config=OpPalettizerConfig(**options))
    start = time.perf_counter()
    palettize_package(warm_up, destination, config)
    first = time.perf_counter() - start
    start = time.perf_counter()
    report = palettize_package(source, destination, config, overwrite=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "first_call": first, "error": sum(w.squared_error for w in report.palettized)}


def run_coremltools(source: Path, destination: Path, options: dict) -> dict:
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(**options))
    start = time.perf_counter()
    model = ct.models.MLModel(str(source), skip_model_load=True)
    cto.palettize_weights(model, config).save(str(destination))
    return {"seconds": time.perf_counter() - start, "error": total_error(source, destination)}


def total_error(source: Path, written: Path) -> float:
    """Squared error of coremltools' palettes, which it names ``<weight>_palettized``."""
    from mil_palettize.program.contents import dense
    from mil_palettize.program.model import Model

    total = 0.0
    with Model.open(source) as before, Model.open(written) as after:
        weights = {s.weight.name: s for s in before.survey().sites}
        for site in after.survey().sites:
            if site.weight.form == "constexpr_lut_to_dense":
                original = dense(weights[site.weight.name.removesuffix("_palettized")], before.store)
                difference = original.astype(np.float64) - dense(site, after.store)
                total += float(np.vdot(difference, difference))
    return total


def child(arguments: argparse.Namespace) -> None:
    """One measurement in this process, printed as JSON."""
    options, source = CASES[arguments.case], Path(arguments.source)
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        destination = Path(folder, "out.mlpackage")
        if arguments.child == "ours":
            result = run_ours(source, destination, options, source.with_name("warm.mlpackage"))
        else:
            result = run_coremltools(source, destination, options)
    result["peak_mb"] = peak_megabytes()
    print(json.dumps(result))


def peak_megabytes() -> float:
    """Peak resident memory of this process. On Linux ru_maxrss would count the parent's, which it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(float(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(who: str, case: str, source: Path) -> dict:
    command = [sys.executable, __file__, "--child", who, "--case", case, "--source", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed on {case!r}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: str, source: Path, runs: int) -> dict:
    """Alternate both, ``runs`` times."""
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(measure("ours", case, source))
        theirs.append(measure("coremltools", case, source))
    ratios = sorted(b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True))
    return {
        "case": case,
        "ours_seconds": statistics.median(a["seconds"] for a in ours),
        "coremltools_seconds": statistics.median(b["seconds"] for b in theirs),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "ours_peak_mb": max(a["peak_mb"] for a in ours),
        "coremltools_peak_mb": max(b["peak_mb"] for b in theirs),
        "error_ratio": ours[0]["error"] / theirs[0]["error"],
        "first_call_seconds": ours[0]["first_call"],
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| work | ours | coremltools | times faster (range) | peak memory | squared error |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_range"]
        lines.append(
            f"| {row['case']} | {row['ours_seconds']:.2f} s | {row['coremltools_seconds']:.1f} s "
            f"| {row['ratio']:.0f} ({low:.0f}–{high:.0f}) "
            f"| {row['ours_peak_mb']:.0f} / {row['coremltools_peak_mb']:.0f} MB | {row['error_ratio']:.6f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare palettize_package with coremltools.")
    parser.add_argument("--case", action="append", choices=CASES, help=f"default: {', '.join(DEFAULT_CASES)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run on a small package")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--child", choices=("ours", "coremltools"), help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        arguments.case = arguments.case[0]
        child(arguments)
        return
    matrices, rows, columns, runs = (2, 512, 256, 1) if arguments.quick else (8, 4096, 1024, arguments.runs)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.mlpackage")
        make_package(source, matrices, rows, columns)
        make_package(source.with_name("warm.mlpackage"), 1, 64, 64)
        results = [compare(case, source, runs) for case in arguments.case or DEFAULT_CASES]
    print(
        f"{matrices} fp16 matrices of {rows}x{columns}; {platform.machine()}, {os.cpu_count()} processors, {runs} runs"
    )
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
