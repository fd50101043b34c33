"""Palettes that are chosen for what ops give on samples, beside plain ones of the same size.

python examples/calibrate_on_samples.py [IN.mlpackage [FOLDER]]

Both packages go into FOLDER, which is out/ where none is given; what is there is replaced.

The generator below also serves the command:
mil-palettize palettize IN.mlpackage OUT.mlpackage --nbits 3 --calibrate examples/calibrate_on_samples.py:samples
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, compare, palettize_package

ROOT = Path(__file__).resolve().parent.parent


def samples(count: int = 64) -> Iterator[dict[str, np.ndarray]]:
    """Yours: whatever the model sees in use, prepared as it takes it. No labels."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield {"image": random.standard_normal((1, 16, 12, 12)).astype(np.float32)}


def main(source: str = str(ROOT / "fixtures/conv_fp16_ios18.mlpackage"), folder: str = "out") -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    given = list(samples())
    kept, fresh = given[:48], given[48:]  # what palettes are chosen on does not judge them
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=3))
    palettize_package(source, out / "plain.mlpackage", config, overwrite=True)
    palettize_package(source, out / "calibrated.mlpackage", config, calibration=Calibration(kept), overwrite=True)
    for name in ("plain", "calibrated"):
        found = compare(source, out / f"{name}.mlpackage", fresh)
        print(f"{name}: {found.snr_db:.1f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
