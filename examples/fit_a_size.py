"""A package of at most a given size: each weight gets the palette that loses least for it.

python examples/fit_a_size.py [IN.mlpackage [BYTES [FOLDER]]]

The recipe and the package go into FOLDER, which is out/ where none is given; what is there is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mil_palettize import Budget, Calibration, Limits, palettize_package, plan_mixed_bits

ROOT = Path(__file__).resolve().parent.parent


def main(
    source: str = str(ROOT / "fixtures/conv_fp16_ios18.mlpackage"), nbytes: str = "25000", folder: str = "out"
) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    by_weights = Calibration(method="weights")  # Calibration(samples) where there are some, which is better
    recipe = plan_mixed_bits(
        source,
        Budget(nbytes=int(nbytes)),
        limits=Limits(keep={"head_weight": 6}),  # the last layer gets 6 bits at least
        calibration=by_weights,
        measure=False,  # True also runs the plan, beside uniform bits of the same size (torch)
    )
    print(recipe.to_text())
    (out / "recipe.yaml").write_text(recipe.to_yaml())  # coremltools reads it too

    report = palettize_package(source, out / "fitted.mlpackage", recipe, calibration=by_weights, overwrite=True)
    print(f"asked for {nbytes} bytes, planned {recipe.nbytes}, written {report.bytes_after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
