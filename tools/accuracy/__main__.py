"""Trained networks before and after palettes: Markdown tables, and a picture where matplotlib is.

    python -m tools.accuracy DATA --networks resnet20 --nbits 4 3 2 --calibrations none weights 128 made-up [--seeds 3]

DATA: the folder of data, see the network's own file. Networks are palettized through ``palettize_package``, and what
was written is run and measured.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

from tools.accuracy.catalogue import NETWORKS
from tools.accuracy.network import Place
from tools.accuracy.plot import plot
from tools.accuracy.rows import Row, heading, line, rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=["resnet20"])
    parser.add_argument("--nbits", nargs="+", type=int, default=[4, 3, 2])
    parser.add_argument("--calibrations", nargs="+", default=["none", "weights", "128"])
    parser.add_argument("--group-size", type=int, metavar="N", help="channels per look-up table; one table without it")
    parser.add_argument(
        "--weight-threshold",
        type=int,
        default=0,
        metavar="N",
        help="weights of at most so many elements stay",
    )
    parser.add_argument(
        "--finetune",
        nargs="+",
        default=[],
        metavar="KIND",
        help="behind each calibration, trained: 10x2000 (epochs, samples), 10x2000/16 (to a step), 10x2000@0.01 (at "
        "that learning rate), 10x2000+augment, 10x2000+mix, blocks-10x500",
    )
    parser.add_argument("--mixed", action="store_true", help="beside each, mixed bits within the same bytes")
    parser.add_argument("--vectors", action="store_true", help="mixed bits: pairs of channels too, for the GPU")
    parser.add_argument("--rounds", type=int, default=15, help="of tables and indices in turn, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="of the test")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw figures by bytes (matplotlib)")
    options = parser.parse_args()
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        figures: tuple[str, ...] = ()
        for name in options.networks:
            network = NETWORKS[name](Place(options.data, Path(folder), options.images))
            if network.figures != figures:  # a table for those that are measured in the same way
                print(("\n" if figures else "") + heading(network.figures), flush=True)
                figures = network.figures
            for row in rows(name, network, options, Path(folder) / "palettized.mlpackage"):
                found.append(row)
                print(line(row), flush=True)
    if options.plot is not None and not plot(found, options.plot):
        print(f"no {options.plot}: matplotlib is not installed")


if __name__ == "__main__":
    main()
