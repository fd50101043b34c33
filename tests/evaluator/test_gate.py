"""``compare`` as a gate: what tells nothing is not equal, and what the original does is not a palette's doing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import ModelComparison, compare  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.reports.compared_parts import Distance, OutputComparison  # noqa: E402
from mil_palettize.reports.page.document import page  # noqa: E402
from mil_palettize.torch.metrics import Sums  # noqa: E402

RNG = np.random.default_rng(0)
NAN, INF = math.nan, math.inf


def model(tmp_path: Path, name: str, build: Any, shape: tuple[int, ...] = (4, 8), dtype: Any = np.float32) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return saved(program_of(build, [(shape, dtype)]), folder)


def softmax_of_one_class(scale: float) -> Any:
    """Always 1, whatever the weights are."""
    weight = scale * RNG.standard_normal((1, 8)).astype(np.float32)
    return lambda x: mb.softmax(x=mb.linear(x=x, weight=weight), axis=-1, name="y")


@pytest.fixture
def ruined(tmp_path: Path) -> tuple[Path, Path]:
    """Two models that have nothing in common but what they say."""
    return model(tmp_path, "a", softmax_of_one_class(1.0)), model(tmp_path, "b", softmax_of_one_class(-100.0))


def gate(*arguments: Any) -> int:
    return main(["compare", *map(str, arguments)])


def figures(x: list[float], y: list[float]) -> Distance:
    sums = Sums()
    sums.add(torch.tensor(x), torch.tensor(y))
    return sums.distance()


# Nothing to compare


def test_a_constant_output_is_nothing_to_compare(ruined: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(*ruined)
    assert found.outputs[0].nothing == "every value is 1 in both"
    assert found.snr_db == -INF
    text = found.to_text()
    assert "warning: output 'y': nothing to compare, every value is 1 in both" in text
    assert "equal" not in text
    assert "100.00%" not in text
    told = json.loads(found.to_json())
    assert told["warnings"] == ["output 'y': nothing to compare, every value is 1 in both"]
    assert told["outputs"][0]["nothing_to_compare"] == "every value is 1 in both"
    assert told["outputs"][0]["equal"] is False
    assert "nothing to compare" in page(found)
    assert "no difference" not in page(found)
    assert gate(*ruined) == 0
    capsys.readouterr()
    assert gate(*ruined, "--fail-below", "-100dB") == 1
    error = capsys.readouterr().err
    assert "output 'y': nothing to compare, every value is 1 in both (--allow-degenerate lets that pass)" in error
    assert error.count("\n") == 1
    assert gate(*ruined, "--fail-below", "30dB", "--allow-degenerate") == 0
    assert found.failures(30)
    assert not found.failures(30, allow_degenerate=True)


def test_allowing_without_a_gate(ruined: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(*ruined, "--allow-degenerate") == 2
    assert "--allow-degenerate goes with --fail-below" in capsys.readouterr().err


def test_other_outputs_are_still_judged(tmp_path: Path) -> None:
    """One output that tells nothing hides none that does."""

    def build(error: float) -> Any:
        return lambda x: (mb.mul(x=x, y=np.float32(0), name="y"), mb.add(x=x, y=np.float32(error), name="z"))

    found = compare(model(tmp_path, "a", build(0.0)), model(tmp_path, "b", build(0.5)), random=2)
    assert len(found.failures(30)) == 2
    (failure,) = found.failures(30, allow_degenerate=True)
    assert failure.startswith("output 'z': ")
    assert not found.failures(0, allow_degenerate=True)


def test_what_tells_nothing() -> None:
    assert figures([2.0, 2.0], [2.0, 2.0]).nothing == "every value is 2 in both"
    assert figures([2.0, 2.0], [2.0, 2.1]).nothing == ""
    assert figures([2.0, 2.0], [3.0, 3.0]).nothing == ""
    assert figures([2.0, 3.0], [2.0, 3.0]).nothing == ""
    assert figures([], []).nothing == "it has no values"
    assert figures([NAN, INF], [NAN, INF]).nothing == "the original is nowhere finite"
    assert figures([NAN, NAN, 1.0], [NAN, NAN, 2.0]).nothing == "most values of the original are not finite"
    assert figures([NAN, 2.0, 1.0], [NAN, 2.0, 1.0]).nothing == ""
    assert figures([1.0, 1.0], [1.0, NAN]).nothing == ""
    assert figures([1e30, -1e30], [1e30, -1e30]).nothing == "all values are as large as in a mask"


def test_the_same_constant_in_every_sample_only() -> None:
    sums = Sums()
    for number in (1.0, 2.0):
        sums.add(torch.full((3,), number), torch.full((3,), number))
    assert sums.distance().nothing == ""


def classifier(path: Path, labels: list[str]) -> Path:
    """Always of the last label, as sure as it is of what it was given."""

    class Classifier(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x * 0.01 + 5.0 * torch.arange(len(labels)), dim=-1)

    converted = ct.convert(
        torch.jit.trace(Classifier(), torch.zeros(1, len(labels))),
        inputs=[ct.TensorType("x", (1, len(labels)))],
        classifier_config=ct.ClassifierConfig(labels),
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    converted.save(str(path))
    return path


def test_a_label_that_is_always_the_same(tmp_path: Path) -> None:
    """Beside probabilities it may be: noise looks the same to most classifiers. Alone it tells nothing."""
    two = classifier(tmp_path / "two.mlpackage", ["cat", "dog"])
    found = {output.name: output for output in compare(two, two).outputs}
    assert found["classLabel"].nothing == ""
    assert found["classLabel"].agreement == 1
    one = classifier(tmp_path / "one.mlpackage", ["cat"])
    found = {output.name: output for output in compare(one, one).outputs}
    assert found["classLabel"].nothing == "it is always 'cat'"
    assert all(output.nothing for output in found.values())


def test_no_outputs_at_all() -> None:
    empty = ModelComparison("a", "b", "given", 1, 1, 1, [])
    assert empty.failures(0) == ["there are no outputs, and nothing to compare"]
    assert not empty.failures(0, allow_degenerate=True)


# What is not finite


def test_values_lost_and_values_that_never_were() -> None:
    found = figures([1.0, 2.0, INF, NAN, 5.0, -INF, 1e38], [1.0, NAN, INF, NAN, -INF, 3.0, 1e38])
    assert (found.elements, found.non_finite, found.original_non_finite, found.original_changed, found.huge) == (
        1, 2, 3, 1, 1,
    )  # fmt: skip
    assert found.total == 7


def test_lost_and_equal_never_stand_in_one_row() -> None:
    """The values that are left may well be equal."""
    lost = figures([1.0, 2.0, 3.0], [1.0, 2.0, NAN])
    found = ModelComparison("a", "b", "given", 1, 1, 1, [OutputComparison("y", (3,), lost, -INF)])
    (row,) = (line for line in found.outputs_text(200).splitlines() if line.startswith("y"))
    assert row.split() == ["y", "lost", "lost", "lost"]
    assert "warning: output 'y': 1 of 3 values are not finite, which they are in the original" in found.to_text()
    assert json.loads(found.to_json())["outputs"][0]["cosine"] is None
    assert found.failures(-1000)
    assert found.failures(-1000, allow_degenerate=True)
    assert "1 of 3 values" in page(found)


def test_nan_of_the_original_is_the_originals(tmp_path: Path) -> None:
    """A mask of -inf, as fp16 has it, times zeros."""
    mask = np.zeros((4, 8), np.float32)
    mask[:, :7] = -INF

    def build(scale: float) -> Any:
        def made(x: Any) -> Any:
            hidden = mb.mul(x=mb.mul(x=x, y=np.float32(0)), y=mask, name="hidden")
            return mb.add(x=mb.mul(x=x, y=np.float32(scale)), y=hidden, name="y")

        return made

    found = compare(model(tmp_path, "a", build(1.0)), model(tmp_path, "b", build(1.001)), random=2)
    (output,) = found.outputs
    assert output.figures is not None
    assert output.figures.original_non_finite == 56
    assert output.figures.non_finite == 0
    assert output.first_non_finite == "first at op 'hidden' (mul)"
    (first, second) = found.warnings
    assert first.startswith("output 'y': 56 of 64 values of the original are not finite, first at op 'hidden' (mul); ")
    assert "no palette did that" in first
    assert second == "output 'y': nothing to compare, most values of the original are not finite"
    assert found.failures(30)
    assert "56 of 64 values" in page(found)


def test_fp16_that_overflows_in_the_original(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        wide = mb.mul(x=mb.mul(x=x, y=np.float16(60000)), y=np.float16(60000), name="wide")
        return mb.sub(x=wide, y=wide, name="y")

    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((4, 8), dtype=types.fp16)], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return build(x)

    path = tmp_path / "h.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS16, skip_model_load=True).save(str(path))
    (warning, _) = compare(path, path, random=1, precision="fp16").warnings
    assert "32 of 32 values of the original are not finite, infinite first at op " in warning
    assert "NaN first at op 'y' (sub)" in warning
    assert "--precision fp32 tells whether that is why" in warning


def test_per_op_tables_bear_values_that_are_not_finite(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        never = mb.log(x=mb.mul(x=x, y=np.float32(0)), epsilon=np.float32(-1), name="never")
        return mb.add(x=x, y=np.float32(1), name="y"), mb.mul(x=never, y=np.float32(2), name="z")

    path = model(tmp_path, "a", build)
    found = compare(path, path, random=1, per_op=True)
    assert {op.name: op.figures.equal for op in found.ops}["y"]
    assert math.isnan({op.name: op.figures.snr_db for op in found.ops}["never"])
    json.loads(found.to_json())
    assert "<!DOCTYPE html>" in page(found)
    assert found.to_text()


# Images


def image_model(path: Path, scale: float, offset: float) -> Path:
    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * scale + offset

    converted = ct.convert(
        torch.jit.trace(Scaled(), torch.zeros(1, 3, 8, 8)),
        inputs=[ct.ImageType("x", shape=(1, 3, 8, 8))],
        outputs=[ct.ImageType("y")],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    converted.save(str(path))
    return path


def test_images_are_compared_before_they_are_rounded(tmp_path: Path) -> None:
    """Both are black: everything below zero is clipped."""
    one, two = image_model(tmp_path / "a.mlpackage", 1.0, -300.0), image_model(tmp_path / "b.mlpackage", -1.0, -300.0)
    found = {output.name: output for output in compare(one, two, random=2).outputs}
    assert found["y"].nothing == "every value is 0 in both"
    unrounded = found["y (before rounding)"]
    assert unrounded.nothing == ""
    assert unrounded.snr_db < 20
    assert len(compare(one, two, random=2).failures(30)) == 2


def test_images_that_rounding_makes_equal(tmp_path: Path) -> None:
    one, two = image_model(tmp_path / "a.mlpackage", 1.0, 0.0), image_model(tmp_path / "b.mlpackage", 1.0, 0.25)
    found = {output.name: output for output in compare(one, two, random=2).outputs}
    assert found["y"].figures is not None
    assert found["y"].figures.equal
    assert math.isfinite(found["y (before rounding)"].snr_db)
