"""Measures the memory that running a large palettized package takes.

``python -m tools.benchmark.evaluator_memory [--matrices 18] [--memory 300MB ...]``: of that many 4-bit matrices of
4096x4096, with every limit in a process of its own: what its peak is above that of the imports, and the processor time
of the fastest of three calls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mil_palettize.cli.values import nbytes
from mil_palettize.reports.tables import format_table
from tools.benchmark.layouts import Layout
from tools.benchmark.measurement import ROOT, palettize, peak_megabytes
from tools.benchmark.packages import write_package

SIZE = 4096


def measured(package: str, memory: int | None) -> dict[str, Any]:
    """In this process."""
    import numpy as np
    import torch

    from mil_palettize.torch.evaluator.constant_store import EVERYTHING
    from mil_palettize.torch.evaluator.model_pipeline import open_model
    from mil_palettize.torch.made_up_inputs import plausible_inputs

    idle = peak_megabytes()
    torch.set_num_threads(1)
    module = open_model(package, memory=EVERYTHING if memory is None else memory)
    (sample,) = plausible_inputs(module, 1)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        found = module.predict(sample)
        seconds.append(time.process_time() - start)
    assert all(np.isfinite(array).all() for array in found.values())
    return {"peak_mb": peak_megabytes() - idle, "seconds": min(seconds)}


def run(matrices: int, limits: list[str]) -> str:
    layout, rows = Layout(((SIZE, SIZE),) * matrices), []
    with TemporaryDirectory() as folder:
        dense, small = Path(folder) / "dense.mlpackage", Path(folder) / "small.mlpackage"
        write_package(dense, layout)
        palettize(str(dense), small, {"nbits": 4}, 1)
        for limit in ("", *limits):
            job = json.dumps([str(small), nbytes(limit) if limit else None])
            call = [sys.executable, "-m", "tools.benchmark.evaluator_memory", "--job", job]
            found = json.loads(subprocess.run(call, check=True, capture_output=True, cwd=ROOT).stdout)
            rows.append([limit or "(no limit)", f"{found['peak_mb']:.0f} MB", f"{found['seconds']:.2f} s"])
    return f"{layout.text}, dense\n" + format_table(("--memory", "peak", "a call"), rows, 100, right=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrices", type=int, default=18)
    parser.add_argument("--memory", nargs="*", default=["300MB", "1kB"])
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job is None:
        text = run(arguments.matrices, arguments.memory)
    else:
        text = json.dumps(measured(*json.loads(arguments.job)))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
