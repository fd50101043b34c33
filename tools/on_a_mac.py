"""Measures a package on a Mac, as JSON that a line of ``planning/device_rules.py`` can cite: seconds per compute unit,
the device that Core ML prefers for each op, and outputs beside the evaluator's.

``python tools/on_a_mac.py MODEL.mlpackage --out measured.json``. This was not run on a Mac by us. Only its own logic
is tested, with a stand-in for coremltools. A package that crashes the process gives no JSON; say so instead.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
WARM_UP = 3  # predictions that are not counted
Arrays = Mapping[str, Any]


def measured(
    coremltools: Any,
    package: Path,
    samples: Sequence[Arrays],
    expected: Sequence[Arrays],
    *,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """What each compute unit makes of ``package``. ``coremltools``: the module; ``expected``: outputs for ``samples``;
    ``repeats``: predictions that are timed. What fails on a unit is told as its error."""
    units = {}
    for unit in UNITS:
        try:
            units[unit] = _of_unit(coremltools, package, unit, samples, expected, repeats, clock)
        except Exception as error:  # of any kind: Core ML raises RuntimeError with its own text
            units[unit] = {"error": f"{type(error).__name__}: {error}"}
    return {"package": package.name, "coremltools": coremltools.__version__, "units": units}


def _of_unit(
    coremltools: Any,
    package: Path,
    unit: str,
    samples: Sequence[Arrays],
    expected: Sequence[Arrays],
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    chosen = getattr(coremltools.ComputeUnit, unit)
    begun = clock()
    model = coremltools.models.MLModel(str(package), compute_units=chosen)
    loading = clock() - begun
    found = [model.predict(dict(sample)) for sample in samples]
    for _ in range(WARM_UP):
        model.predict(dict(samples[0]))
    seconds = []
    for _ in range(repeats):
        begun = clock()
        model.predict(dict(samples[0]))
        seconds.append(clock() - begun)
    return {
        "load_seconds": loading,
        "median_seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "snr_db": {name: _snr(expected, found, name) for name in sorted(expected[0])} if expected else {},
        **_placement(coremltools, model, chosen),
    }


def _placement(coremltools: Any, model: Any, unit: Any) -> dict[str, Any]:
    """The preferred device of each op that has one, by type of op and in all. Constants have none."""
    plan = coremltools.models.compute_plan.MLComputePlan.load_from_path(model.get_compiled_model_path(), unit)
    program = plan.model_structure.program
    if program is None:
        return {"ops": {}, "devices": {}}
    ops: dict[str, Counter[str]] = {}
    for function in program.functions.values():
        for operation in function.block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:
                device = type(usage.preferred_compute_device).__name__
                ops.setdefault(operation.operator_name, Counter())[device] += 1
    return {"ops": {kind: dict(of) for kind, of in sorted(ops.items())}, "devices": dict(sum(ops.values(), Counter()))}


def _snr(expected: Sequence[Arrays], found: Sequence[Arrays], name: str) -> float | None:
    """In decibels, over all samples; None for what is no array of finite numbers, or is the very same."""
    ours, theirs = ([np.asarray(one[name]) for one in of if name in one] for of in (expected, found))
    if len(ours) != len(theirs):
        return None
    pairs = list(zip(ours, theirs, strict=True))
    if any(a.dtype.kind not in "fiu" or a.shape != b.shape for a, b in pairs):
        return None
    signal = sum(float(np.square(a.astype(np.float64)).sum()) for a in ours)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs)
    return 10 * float(np.log10(signal / noise)) if 0 < noise < np.inf and 0 < signal < np.inf else None


def _machine() -> dict[str, str]:
    chip = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return {"macos": platform.mac_ver()[0], "chip": chip.stdout.strip()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure a package on a Mac.")
    parser.add_argument("package", type=Path, metavar="MODEL.mlpackage")
    parser.add_argument("--inputs", type=Path, metavar="X.npz", help="a sample, an array for each input [made up]")
    parser.add_argument("--repeats", type=int, default=50, metavar="N", help="predictions that are timed [50]")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write it there [standard output]")
    options = parser.parse_args(arguments)
    if sys.platform != "darwin":
        print("on_a_mac: error: Core ML runs on Macs only", file=sys.stderr)
        return 2
    import coremltools

    from mil_palettize.torch import open_model
    from mil_palettize.torch.made_up_inputs import plausible_inputs

    module = open_model(options.package)
    samples = plausible_inputs(module, 1) if options.inputs is None else [dict(np.load(options.inputs))]
    expected = [module.predict(sample) for sample in samples]
    found = {**_machine(), **measured(coremltools, options.package, samples, expected, repeats=options.repeats)}
    text = json.dumps(found, indent=2) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
