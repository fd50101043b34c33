"""Predictions of every written form on a Mac, beside those of the same weights as floats.

Off a Mac only the packages are built and checked. There: ``pytest tests/on_device -m macos``. Each prediction runs in a
process of its own, so that a crash while a package is loaded is a failed test and not the end of the run.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools_palettes import weights
from form_packages import WRITTEN
from packages import constants, read_spec

from mil_palettize import decompress_package

UNITS = ("CPU_ONLY", "CPU_AND_NE")
FIRST_MACOS = {"iOS16": 13, "iOS17": 14, "iOS18": 15, "iOS26": 26}
# Of the largest output: sums of fp16 products taken in another order. A palette that is read wrongly is far off.
TOLERANCE = {"CPU_ONLY": 0.01, "CPU_AND_NE": 0.03}
ON_A_MAC = platform.system() == "Darwin"
SECONDS = 300  # to compile and load a package for the Neural Engine


def pair(name: str, folder: Path) -> tuple[Path, Path]:
    """A form's package (off a Mac of one weight), and one of floats with the values its palettes decode to."""
    palettized, dense = folder / "palettized.mlpackage", folder / "dense.mlpackage"
    WRITTEN[name].palettize(palettized, short=not ON_A_MAC, verify=True)
    decompress_package(palettized, dense, verify=True)
    return palettized, dense


def image(package: Path) -> dict[str, np.ndarray]:
    """The input, the same each time."""
    (described,) = read_spec(package).description.input
    shape = tuple(described.type.multiArrayType.shape)
    return {described.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def distance(one: np.ndarray, two: np.ndarray) -> float:
    """Largest difference, of the largest value of ``two``; infinite for values that are no numbers."""
    assert one.shape == two.shape
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        return float("inf")
    return float(np.abs(one - two).max() / np.abs(two).max())


def predict(package: Path, unit: str, output: Path) -> None:
    """Run a package once and keep what it gives, an array for each output."""
    model = ct.models.MLModel(str(package), compute_units=ct.ComputeUnit[unit])
    np.savez(output, **{name: np.asarray(value) for name, value in model.predict(image(package)).items()})


def predicted(package: Path, unit: str) -> dict[str, np.ndarray]:
    """``predict`` in another process."""
    output = package.with_suffix(f".{unit}.npz")
    here = Path(__file__)
    path = [str(here.parent), str(here.parent.parent), str(here.parent.parent.parent)]
    code = f"import sys; sys.path[:0] = {path}; import test_predictions as t; from pathlib import Path; "
    code += f"t.predict(Path({str(package)!r}), {unit!r}, Path({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{package.stem} on {unit} ended with {done.returncode}: {done.stderr[-2000:]}"
    with np.load(output) as found:
        return dict(found)


@pytest.mark.macos
@pytest.mark.skipif(not ON_A_MAC, reason="predictions need Core ML, which only a Mac has")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", WRITTEN)
def test_palettes_predict_as_floats_do(name: str, unit: str, tmp_path: Path) -> None:
    needed, found = FIRST_MACOS[WRITTEN[name].target], int(platform.mac_ver()[0].partition(".")[0] or 0)
    if found < needed:
        pytest.skip(f"{WRITTEN[name].target} packages need macOS {needed}, this is {found}")
    palettized, dense = pair(name, tmp_path)
    # The floats on the CPU are what both are held against: where they fail too, it is not the palette.
    reference = predicted(dense, "CPU_ONLY")
    for package in (dense, palettized):
        outputs = predicted(package, unit)
        assert outputs.keys() == reference.keys()
        for output, values in outputs.items():
            assert distance(values, reference[output]) <= TOLERANCE[unit], package.stem


@pytest.mark.parametrize("name", WRITTEN)
def test_the_packages_are_what_predictions_compare(name: str, tmp_path: Path) -> None:
    """Everywhere: both have the same signature and the same weights, one as palettes and one as floats."""
    palettized, dense = pair(name, tmp_path)
    specs = [read_spec(path) for path in (palettized, dense)]
    assert specs[0].description == specs[1].description
    assert [spec.specificationVersion for spec in specs] == [int(ct.target[WRITTEN[name].target])] * 2
    plain = {key[3]: decode for key, (op, decode) in constants(dense).items() if op.type == "const"}
    found = weights(palettized, bare=False).found
    assert len(found) == (4 if ON_A_MAC else 1)
    for (_, _, output), (_, decode) in found.items():
        assert plain[output]().tobytes() == decode().tobytes()
    assert not weights(dense).found
    (fed,) = image(palettized).values()
    assert fed.shape == tuple(specs[0].description.input[0].type.multiArrayType.shape)


def test_every_target_has_its_system() -> None:
    assert {form.target for form in WRITTEN.values()} <= FIRST_MACOS.keys()


def test_a_palette_read_wrongly_is_far_off() -> None:
    values = np.random.default_rng(1).standard_normal(1000)
    assert distance(values, values) == 0
    assert distance(values + 1e-3, values) < min(TOLERANCE.values())
    assert distance(np.roll(values, 1), values) > max(TOLERANCE.values())
    assert distance(values * np.nan, values) == float("inf")


@pytest.mark.slow
@pytest.mark.skipif(ON_A_MAC, reason="of machines without Core ML")
def test_a_prediction_that_fails_says_so(tmp_path: Path) -> None:
    palettized, _ = pair("packed", tmp_path)
    with pytest.raises(AssertionError, match=r"palettized on CPU_ONLY ended with 1: (?s:.*)Model prediction is only"):
        predicted(palettized, "CPU_ONLY")
