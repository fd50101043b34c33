"""Measures palettize_package, beside coremltools on the same packages in the same run.

``python -m tools.benchmark`` takes some twenty minutes, nearly all of it coremltools'; ``--quick`` under a minute, on
little packages; ``--only`` some parts. Every measurement is a process of its own, and what is compared alternates. The
time is the whole call, source on disk to destination on disk (coremltools: load, palettize_weights, save). Imports and
compilation are left out, and measured apart.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.benchmark.cases import CASES, LAYOUTS, QUICK_CASES, QUICK_LAYOUTS, Packages
from tools.benchmark.runs import PARTS, Bench
from tools.benchmark.tables import document


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark", description="Measure palettize_package, and compare it with coremltools."
    )
    names = (*CASES, *PARTS)
    parser.add_argument("--only", action="append", choices=names, help="may be repeated; default: all of them")
    parser.add_argument("--runs", type=int, default=5, help="of each comparison")
    parser.add_argument("--quick", action="store_true", help="one run of some parts on little packages")
    parser.add_argument("--large", action="store_true", help="memory is measured with 2.4 GB, too")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--folder", type=Path, help="where packages are made; default: the system's for such files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    # Two workers gain nothing on little packages.
    names = given.only or ((*QUICK_CASES, "memory", "start", "profile") if given.quick else (*CASES, *PARTS))
    with TemporaryDirectory(dir=given.folder and given.folder.resolve()) as folder:
        bench = Bench(
            Packages(Path(folder), QUICK_LAYOUTS if given.quick else LAYOUTS),
            cases=[name for name in CASES if name in names],
            parts=[name for name in PARTS if name in names],
            runs=1 if given.quick else given.runs,
            quick=given.quick,
            large=given.large,
        )
        results = bench.results()
    print(document(results))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
