"""The tool that measures accuracy: its sounds, its figures and its tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig

from mil_palettize.torch import MILModule
from tools.accuracy import by_coremltools
from tools.accuracy.packages import output_snr
from tools.accuracy.plot import plot
from tools.accuracy.rows import Row, finetuning_of, heading, line
from tools.accuracy.sounds import music, speech


@pytest.mark.parametrize(("make", "loudest"), [(speech, 0.5), (music, 0.7)])
def test_sounds_are_seeded_and_bounded(make: object, loudest: float) -> None:
    assert callable(make)
    one, two, other = (make(1.0, 16_000, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert one.shape == other.shape == (16_000,)
    assert one.dtype == np.float32
    assert not np.array_equal(one, other)
    assert 0.05 < float(np.abs(one).max()) <= loudest + 1e-6


def test_each_output_counts_by_its_own_power() -> None:
    wanted = [{"large": np.array([100.0, 0.0]), "small": np.array([0.1])}, {"large": np.zeros(2), "small": np.zeros(1)}]
    found = [{**wanted[0], "small": np.array([0.09])}, wanted[1]]
    assert output_snr(wanted, found) == pytest.approx(10 * math.log10(2 / 0.01))
    assert output_snr(wanted, wanted) == math.inf


def test_tables() -> None:
    float_row = Row("net", "mean cosine", None, "", [(1.0, 100.0)], 2000, 0.0)
    row = Row("net", "mean cosine", 3, "128", [(0.95, 60.0), (0.97, 64.0)], 1000, 2.34)
    assert row.column(1) == [60.0, 64.0]
    lines = [*heading(("mean cosine", "same, %")).splitlines(), line(float_row), line(row)]
    assert len({text.count("|") for text in lines}) == 1
    assert lines[2] == "| net | float |  | 1.0000 | 100.00 | 2,000 | 0.0 |"
    assert lines[3] == "| net | 3 | 128 | 0.9600 ± 0.0141 | 62.00 ± 2.83 | 1,000 | 2.3 |"


def test_palettes_of_coremltools_are_measured_by_their_first_names(fixtures: Path, tmp_path: Path) -> None:
    source, out = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "out.mlpackage"
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4, mode="uniform"))
    for _ in range(2):  # the second replaces the first
        by_coremltools.palettized(source, out, config)
    before, after = (MILModule.from_package(package).constants() for package in (source, out))
    found = {by_coremltools.original_name(name): value for name, value in after.items()}
    large = {name: value for name, value in before.items() if name.endswith("_weight") and value.numel() > 2048}
    assert len(large) == 5
    for name, value in large.items():
        assert found[name].unique().numel() <= 16 < value.unique().numel()


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    rows = [
        Row("net", "right, %", None, "", [(90.0,)], 4000, 0.0),
        Row("net", "right, %", 4, "128", [(88.0,)], 1000, 1.0),
    ]
    assert plot(rows, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert drawn.startswith("<?xml")
    for text in ("net", "right, %", "4 bit", "calibrated on 128 samples", "float (4 kB)"):
        assert f"<!-- {text} -->" in drawn


class Cards:
    """A network of which samples and labels are numbers."""

    source, figures = Path("cards.mlpackage"), ("right, %",)

    def samples(self, count: int, seed: int) -> list[dict[str, np.ndarray]]:
        return [{"x": np.full(1, number + seed)} for number in range(count)]

    def labels(self, count: int, seed: int) -> list[int]:
        return [number + seed for number in range(count)]

    def measured(self, package: Path) -> tuple[float, ...]:
        return (0.0,)


def test_trainings_by_their_short_names() -> None:
    """Epochs, samples with their own labels, and what is done to them; blocks take no labels."""
    whole, changed, blocks = (finetuning_of(Cards(), kind, 2) for kind in ("5x3", "5x3+augment", "blocks-4x2"))
    assert (whole.epochs, len(whole.sample_data), whole.labels, whole.augment) == (5, 3, (2, 3, 4), ())
    assert changed.augment == ("flip", "shift")
    assert (whole.batch, whole.learning_rate) == (64, None)
    mixed = finetuning_of(Cards(), "5x3/2@0.01+mix", 2)
    assert (mixed.batch, mixed.learning_rate, mixed.labels) == (2, 0.01, None)
    assert mixed.augment == ("flip", "shift", "mix")
    assert (blocks.blocks, blocks.epochs, len(blocks.sample_data), blocks.labels) == (True, 4, 2, None)
