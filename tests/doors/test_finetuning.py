"""``Finetuning``: palettes and biases of a package trained to give the float package's outputs."""

from __future__ import annotations

import re
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from finetuned_packages import CONFIG, float_package, samples  # noqa: E402
from packages import constants, differences  # noqa: E402

from mil_palettize import (  # noqa: E402
    Calibration,
    Finetuning,
    OpPalettizerConfig,
    OptimizationConfig,
    Report,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.doors import palettize_run  # noqa: E402
from mil_palettize.errors import ConfigError, EvaluationError, PalettizeError, PlanError  # noqa: E402


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return float_package(tmp_path_factory.mktemp("finetuned"))


def finetuned(package: Path, path: Path, finetuning: Finetuning | None, config: OptimizationConfig = CONFIG) -> Report:
    calibration = Calibration(samples(40))
    return palettize_package(package, path, config, calibration=calibration, finetuning=finetuning, verify=True)


def error(package: Path, path: Path) -> float:
    """Of outputs on other samples, in dB below their power."""
    return -compare(package, path, samples(64, 9)).snr_db


def entry(**options: object) -> OptimizationConfig:
    return OptimizationConfig(OpPalettizerConfig(weight_threshold=0, **options))


def losses(report: Report) -> list[float]:
    """On what was held out, before and after."""
    (note,) = [note for note in report.notes if note.startswith("fine tuning")]
    found = re.fullmatch(
        r"fine tuning 3 weights: loss on 32 samples held out (.*) → (.*), kept from epoch \d of 3", note
    )
    assert found is not None
    return [float(found[1]), float(found[2])]


def test_outputs_get_nearer(package: Path, tmp_path: Path) -> None:
    """On samples that nobody saw, at no more bytes, and verified as written."""
    before = finetuned(package, tmp_path / "before.mlpackage", None)
    report = finetuned(package, tmp_path / "after.mlpackage", Finetuning(samples(160, 1), batch=16))
    assert report.bytes_after == before.bytes_after
    assert error(package, tmp_path / "after.mlpackage") < error(package, tmp_path / "before.mlpackage")
    assert {weight.calibration.method for weight in report.palettized} == {"trained"}
    assert losses(report) == sorted(losses(report), reverse=True)
    assert len(report.biases) == 1  # the others are no blobs


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"nbits": 1},
        {"nbits": 2, "granularity": "per_grouped_channel", "group_size": 4},
        {"nbits": 2, "cluster_dim": 2},
        {"nbits": 2, "enable_per_channel_scale": True},
        {"nbits": 2, "lut_dtype": "int8"},
    ],
    ids=str,
)
def test_every_form_is_trained(options: dict[str, object], package: Path, tmp_path: Path) -> None:
    """What was held out gains, and what is written is what was trained."""
    report = finetuned(package, tmp_path / "made.mlpackage", Finetuning(samples(160, 1), batch=16), entry(**options))
    assert losses(report)[1] < losses(report)[0]
    assert {weight.calibration.method for weight in report.palettized} == {"trained"}
    assert report.verified


def test_nothing_else_moves(package: Path, tmp_path: Path) -> None:
    """Beside palettes and biases; and two runs are the same bytes."""
    finetuning = Finetuning(epochs=2, batch=16)
    finetuned(package, tmp_path / "one.mlpackage", finetuning)
    finetuned(package, tmp_path / "two.mlpackage", finetuning)
    assert not differences(tmp_path / "one.mlpackage", tmp_path / "two.mlpackage")
    old, new = (
        {key[3]: op.type for key, (op, _) in constants(path).items()} for path in (package, tmp_path / "one.mlpackage")
    )
    assert old.keys() == new.keys()
    assert {name for name in old if old[name] != new[name]} == {name for name in old if name.endswith("weight_to_fp16")}


def test_blocks_instead(package: Path, tmp_path: Path) -> None:
    """Tables and biases alone: the indices are those that they begin with."""
    asked = Finetuning(samples(160, 1), batch=16, blocks=True)
    for name, finetuning in (("before", None), ("after", asked)):
        report = palettize_package(
            package, tmp_path / f"{name}.mlpackage", CONFIG, calibration=Calibration(method="weights"),
            finetuning=finetuning, verify=True,
        )  # fmt: skip
    assert error(package, tmp_path / "after.mlpackage") < error(package, tmp_path / "before.mlpackage")
    (note,) = [note for note in report.notes if note.startswith("block reconstruction")]
    assert re.fullmatch(r".*: outputs on 32 samples held out .* → .* dB, 3 of 3 blocks got better", note)
    before, after = (
        [read_indices(op) for _, (op, _) in sorted(constants(path).items()) if op.type == "constexpr_lut_to_dense"]
        for path in (tmp_path / "before.mlpackage", tmp_path / "after.mlpackage")
    )
    assert before == after


def read_indices(op: object) -> tuple[str, int]:
    """Where they lie; two packages that differ in values alone have them in the same place."""
    value = op.inputs["indices"].arguments[0].value
    return str(value.type), value.blobFileValue.offset


def test_palettes_by_the_weights_alone_are_trained_too(package: Path, tmp_path: Path) -> None:
    report = palettize_package(
        package, tmp_path / "out.mlpackage", CONFIG, calibration=Calibration(method="weights"),
        finetuning=Finetuning(samples(160, 1), batch=16, augment=("flip", "shift")), verify=True,
    )  # fmt: skip
    assert losses(report)[1] < losses(report)[0]


def test_palettes_stay_where_nothing_gets_better(package: Path, tmp_path: Path) -> None:
    finetuned(package, tmp_path / "before.mlpackage", None)
    report = finetuned(package, tmp_path / "after.mlpackage", Finetuning(epochs=1, learning_rate=1e3))
    assert any("no epoch was better: palettes stay as they were" in note for note in report.notes)
    assert not differences(tmp_path / "before.mlpackage", tmp_path / "after.mlpackage")


def test_the_command(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.stack([sample["x"] for sample in samples(40)]))
    arguments = ["finetune", str(package), "--out", str(tmp_path / "out.mlpackage"), "--data", str(tmp_path / "x.npz")]
    code = main([*arguments, "--nbits", "2", "--weight-threshold", "0", "--epochs", "1"])
    assert code == 0
    assert "fine tuning 3 weights" in capsys.readouterr().out
    assert (tmp_path / "out.mlpackage").is_dir()


@pytest.mark.parametrize("beside", ["weights", "arrays.npz", "pictures to begin with"])
def test_pictures_beside_other_samples(beside: str, package: Path, tmp_path: Path, capsys) -> None:
    """What becomes of pixels is said of pictures: training on these gives what it does on the arrays that they are."""
    image = pytest.importorskip("PIL.Image")
    drawn = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate(drawn):
        image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    arrays = str(tmp_path / "arrays.npz")
    np.savez(arrays, x=((drawn.transpose(0, 3, 1, 2) - 127.0) * 0.01).astype(np.float32)[:, None])
    pixels, how = ["--image-mean", "127", "--image-scale", "0.01"], ["--weight-threshold", "0", "--epochs", "1"]

    def made(name: str, data: str, calibrate: str, *pixels: str) -> int:
        command = ["finetune", str(package), "--out", str(tmp_path / name), "--data", data, "--calibrate", calibrate]
        return main([*command, "--nbits", "2", *how, *pixels])

    data, calibrate = str(tmp_path / "pictures"), "weights" if beside == "weights" else arrays
    if beside == "pictures to begin with":
        data, calibrate = calibrate, data
    assert made("pictures.mlpackage", data, calibrate, *pixels) == 0
    assert made("arrays.mlpackage", arrays, "weights" if beside == "weights" else arrays) == 0
    assert not differences(tmp_path / "pictures.mlpackage", tmp_path / "arrays.mlpackage")
    assert made("none.mlpackage", arrays, arrays, *pixels) != 0
    assert "arrays.npz holds no pictures, which image mean and scale are of" in capsys.readouterr().err


# What cannot be


@pytest.mark.parametrize(
    ("finetuning", "told"),
    [
        ({"epochs": 0}, "finetuning epochs is 0; give a whole number from 1 on"),
        ({"batch": 1.5}, "finetuning batch is 1.5"),
        ({"learning_rate": float("nan")}, "finetuning learning_rate is nan; give a finite number above 0"),
        ({"sample_data": []}, "sample_data is empty"),
        ({"labels": 5}, "finetuning labels is 5; give a list of class numbers, one for each sample"),
        ({"labels": [0.5]}, "finetuning labels is"),
        ({"augment": "mirror"}, "finetuning augment is 'mirror'; give some of"),
        ({"blocks": 1}, "finetuning blocks is 1; give True or False"),
        ({"blocks": True, "labels": [1]}, "finetuning labels has no effect where blocks are fitted"),
    ],
)
def test_wrong_options(finetuning: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Finetuning(**finetuning)


@pytest.mark.parametrize(
    ("calibration", "finetuning", "told"),
    [
        (None, Finetuning(), "finetuning begins with calibrated palettes: give calibration="),
        (
            Calibration(method="weights"),
            Finetuning(),
            "needs samples, and a calibration by weights has none",
        ),
        (Calibration(samples(8)), Finetuning(stop_here=True), "stop_here writes what resume has kept; give resume"),
        (Calibration(samples(8)), {"epochs": 3}, "finetuning is dict, it must be a mil_palettize.Finetuning or None"),
    ],
)
def test_wrong_requests(
    calibration: Calibration | None, finetuning: object, told: str, package: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        palettize_package(package, tmp_path / "o.mlpackage", CONFIG, calibration=calibration, finetuning=finetuning)


@pytest.mark.parametrize(
    ("finetuning", "told"),
    [
        (Finetuning(labels=[0, 1, 2]), "3 labels for 40 samples"),
        (Finetuning(labels=[0] * 40), "labels need a network with one output of classes"),
        (Finetuning([[sample, sample] for sample in samples(4)]), "samples that are single calls, no sequences"),
        (Finetuning([{"x": np.zeros((1, 3, 9, 9), np.float32)}] * 8), "the model takes"),
    ],
)
def test_samples_are_looked_at_before_palettes_are_made(
    finetuning: Finetuning, told: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(palettize_run, "calibrated", lambda *_, **__: pytest.fail("calibrated first"))
    with pytest.raises(PalettizeError, match=told):
        finetuned(package, tmp_path / "o.mlpackage", finetuning)
    assert not (tmp_path / "o.mlpackage").exists()


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    package = classifier(tmp_path)
    calibration = Calibration([{"x": np.ones((1, 8), np.float32)}] * 10)
    asked = Finetuning(labels=[0, 1] * 4 + [0, 7])
    with pytest.raises(ConfigError, match="label 9 is 7, which is none of the 3 classes of the output"):
        palettize_package(package, tmp_path / "o.mlpackage", CONFIG, calibration=calibration, finetuning=asked)
    with pytest.raises(ConfigError, match="augment is for models that take pictures"):
        palettize_package(
            package, tmp_path / "o.mlpackage", CONFIG, calibration=calibration, finetuning=Finetuning(augment="flip")
        )


class Choosing(torch.nn.Module):
    """The place of a layer's greatest answer, or, ``answering``, what another gives for the row looked up there."""

    def __init__(self, *, answering: bool, floats: bool) -> None:
        super().__init__()
        self.scores, self.table, self.answer = torch.nn.Linear(8, 16), torch.nn.Embedding(16, 8), torch.nn.Linear(8, 8)
        self.answering, self.floats = answering, floats

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        choice = self.scores(x).argmax(-1)
        if self.answering:
            return self.answer(self.table(choice))
        return choice.float() * 2 if self.floats else choice


def choosing(folder: Path, *, answering: bool, floats: bool = False) -> Path:
    torch.manual_seed(0)
    made = ct.convert(
        torch.jit.trace(Choosing(answering=answering, floats=floats).eval(), torch.zeros(1, 8)),
        inputs=[ct.TensorType("x", (1, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    made.save(str(folder / "choosing.mlpackage"))
    return folder / "choosing.mlpackage"


@pytest.mark.parametrize("blocks", [False, True])
def test_answers_that_are_no_floats(blocks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palettize_run, "calibrated", lambda *_, **__: pytest.fail("calibrated first"))
    given = [{"x": row[None]} for row in np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)]
    with pytest.raises(EvaluationError, match="has no output of floats"):
        palettize_package(
            choosing(tmp_path, answering=False), tmp_path / "o.mlpackage", CONFIG,
            calibration=Calibration(given), finetuning=Finetuning(blocks=blocks),
        )  # fmt: skip


def test_outputs_that_are_choices(tmp_path: Path) -> None:
    package = choosing(tmp_path, answering=False, floats=True)
    given = [{"x": row[None]} for row in np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)]
    with pytest.raises(EvaluationError, match="ops that only choose, such as argmax"):
        palettize_package(
            package, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(given), finetuning=Finetuning()
        )
    report = palettize_package(
        package, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(given), finetuning=Finetuning(blocks=True)
    )
    assert any(note.startswith("block reconstruction") for note in report.notes)


@pytest.mark.parametrize("blocks", [False, True])
def test_weights_that_only_a_choice_is_made_by(blocks: bool, tmp_path: Path) -> None:
    """No gradient reaches them."""
    given = [{"x": row[None]} for row in np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)]
    report = palettize_package(
        choosing(tmp_path, answering=True), tmp_path / "o.mlpackage", CONFIG,
        calibration=Calibration(given), finetuning=Finetuning(blocks=blocks, epochs=1), verify=True,
    )  # fmt: skip
    assert len(report.palettized) == 3


def classifier(folder: Path) -> Path:
    """Scores of three classes."""
    torch.manual_seed(0)
    made = ct.convert(
        torch.jit.trace(torch.nn.Linear(8, 3).eval(), torch.zeros(1, 8)),
        inputs=[ct.TensorType("x", (1, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    made.save(str(folder / "classifier.mlpackage"))
    return folder / "classifier.mlpackage"


def test_a_model_of_several_functions(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="finetuning is for models of one function"):
        palettize_package(
            fixtures / "multifunction_ios18.mlpackage", tmp_path / "o.mlpackage", CONFIG,
            calibration=Calibration(samples=8), finetuning=Finetuning(),
        )  # fmt: skip


def test_samples_that_are_no_numbers(package: Path, tmp_path: Path) -> None:
    given = samples(10)
    given[3]["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(EvaluationError, match="sample 3 has NaN"):
        finetuned(package, tmp_path / "o.mlpackage", Finetuning(given))
