"""Makes a package smaller, and tells what that did to its outputs.

python examples/palettize_and_compare.py [IN.mlpackage [OUT.mlpackage]]

OUT.mlpackage is out/small.mlpackage where none is given; what is there is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, palettize_package

ROOT = Path(__file__).resolve().parent.parent


def main(
    source: str = str(ROOT / "fixtures/conv_fp16_ios18.mlpackage"), destination: str = "out/small.mlpackage"
) -> None:
    Path(destination).parent.mkdir(parents=True, exist_ok=True)
    config = OptimizationConfig(
        global_config=OpPalettizerConfig(nbits=4),
        op_type_configs={"conv_transpose": OpPalettizerConfig(nbits=6)},
    )
    report = palettize_package(source, destination, config, verify=True, overwrite=True)
    print(report.to_text())

    worst = min(report.palettized, key=lambda weight: weight.snr_db)
    print(f"lost most: {worst.name}, {worst.snr_db:.1f} dB\n")

    # Inputs are made up here; a path of samples, or a list of {"input": array}, in the place of None is better.
    comparison = compare(source, destination, None)
    print(comparison.to_text())
    for line in comparison.failures(20):
        print("too bad:", line)


if __name__ == "__main__":
    main(*sys.argv[1:])
