"""Files of inputs and of outputs, and options of the commands that read and write them."""

from __future__ import annotations

import gc
import zipfile
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import (  # noqa: E402
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.cli.output import write_report  # noqa: E402
from mil_palettize.torch import comparison, open_model, predictions  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.predictions import packed_outputs, run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture
def model(fixtures: Path) -> Path:
    return fixtures / "conv_fp16_ios18.mlpackage"


def exit_code(*arguments: Any) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)


# Files that are held open


def test_models_that_are_let_go_hold_no_files(model: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.mlpackage"
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))

    def once() -> int:
        palettize_package(model, small, config, overwrite=True, check=True)
        compare(model, small)
        open_model(small)
        gc.collect()
        return len(list(Path("/dev/fd").iterdir()))

    assert once() == once() == once()


# Files of inputs


def archive(path: Path, member: bytes, name: str = "x.npy", **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr(name, member)
    return path


def refused(path: Path, model: Path) -> str:
    with pytest.raises(PackageError, match=r"cannot read .*plain arrays") as caught:
        read_samples(path, open_model(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_members(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert "is no array" in refused(archive(path, b"text", "notes.txt"), model)
    np.savez_compressed(path, x=RNG.standard_normal(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(byte ^ 255 for byte in whole[200:400]) + whole[400:])
    refused(path, model)
    unknown = bytearray(whole)
    unknown[8:10] = (99).to_bytes(2, "little")  # the method in the member's header and in the directory
    at = unknown.rindex(b"PK\x01\x02")
    unknown[at + 10 : at + 12] = (99).to_bytes(2, "little")
    path.write_bytes(unknown)
    refused(path, model)
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[at + 8] |= 1
    path.write_bytes(encrypted)
    refused(path, model)


def test_scalars_for_pictures(fixtures: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "x.npz", fixtures / "image_classifier_ios15.mlpackage"
    (name,) = open_model(model).features.inputs
    np.savez(path, **{name: np.float32(3)})
    assert read_samples(path, open_model(model))[0][name].shape == ()
    with pytest.raises(EvaluationError, match=rf"input '{name}' is an image, not of shape \[\]"):
        run_package(model, path)


# Files of outputs


def test_outputs_of_any_name_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    outputs = {
        "file": np.arange(3),
        "allow_pickle": np.ones((2, 2), np.float16),
        "a/b": np.float32(2) * np.ones(()),
        "": np.zeros(0),
        "größe.npy": np.zeros(2, bool),
        "label": np.array(["cat", "Eichhörnchen"], object),
        "text": np.array("dog"),
    }
    write_report(str(path), packed_outputs(outputs))
    with np.load(path, allow_pickle=False) as found:
        assert set(found.files) == outputs.keys()
        for name, array in outputs.items():
            assert np.array_equal(found[name], array)
            assert found[name].dtype.kind == ("U" if array.dtype.kind == "O" else array.dtype.kind)
    assert [item.name for item in tmp_path.iterdir()] == ["y.npz"]


def test_outputs_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "y.npz"
    path.write_bytes(b"before")

    def stopped(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(PackageError, match=r"cannot write .*y\.npz: No space left"):
        write_report(str(path), packed_outputs({"y": np.zeros(3)}))
    assert path.read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["y.npz"]


def test_outputs_through_a_link_and_to_a_device(tmp_path: Path) -> None:
    path, link = tmp_path / "y.npz", tmp_path / "link.npz"
    path.write_bytes(b"before")
    link.symlink_to(path)
    write_report(str(link), packed_outputs({"y": np.arange(3)}))
    assert link.is_symlink()
    with np.load(path) as found:
        assert np.array_equal(found["y"], np.arange(3))
    write_report("/dev/null", packed_outputs({"y": np.arange(3)}))
    assert Path("/dev/null").is_char_device()


# Options


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("run", ["--seed", "-1"], "'-1' is no seed; give a whole number, 0 or more"),
        ("run", ["--seed", "²"], "'²' is no seed"),
        ("run", ["--seed", "1" + "0" * 18], "of up to 18 digits"),
        ("run", ["--random", "²"], "'²' is no number of samples; give 1 or more"),
        ("run", ["--random", "٣"], "'٣' is no number of samples; give 1 or more"),
        ("compare", ["--fail-below", "-5dBs"], "'-5dBs' is no number of decibels"),
        ("compare", ["--fail-below", "--json"], "expected one argument"),
    ],
)
def test_wrong_options(
    command: str, arguments: list[str], told: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [model] if command == "run" else [model, model]
    assert exit_code(command, *models, *arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", [["--fail-below", "-5dB"], ["--fail-below=-5dB"], ["--fail-below", "-5"]])
def test_decibels_below_zero(option: list[str], model: Path) -> None:
    assert exit_code("compare", model, model, "--random", 1, *option) == 0


def test_what_is_read_is_not_written_over(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictions, "run_package", lambda *_, **__: pytest.fail("was run"))
    monkeypatch.setattr(comparison, "compare_models", lambda *_, **__: pytest.fail("was run"))
    inputs, link = tmp_path / "x.npz", tmp_path / "link"
    np.savez(inputs, x=np.zeros(3))
    link.symlink_to(inputs)
    runs = [
        (["run", model, "--out", model / "y.npz"], "is inside the package"),
        (["run", model, "--out", tmp_path / "no" / "y.npz"], "does not exist; make it first"),
        (["run", model, "--inputs", inputs, "--out", link], "is the file of --inputs; choose another"),
        (["compare", model, model, "--inputs", inputs, "--html", inputs], "is the file of --inputs; choose another"),
    ]
    for arguments, told in runs:
        assert exit_code(*arguments) == (3 if "make it first" in told else 2)
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


def test_a_page_of_core_ml_asks_for_no_ops(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stopped(*arguments: Any) -> None:
        asked.append(arguments[-1].per_op)
        raise EvaluationError("enough")

    monkeypatch.setattr(comparison, "compare_models", stopped)
    page = ["--html", tmp_path / "page.html"]
    for extra in (page, [*page, "--runtime", "coreml"], ["--runtime", "coreml"], ["--per-op", "--runtime", "coreml"]):
        exit_code("compare", model, model, *extra)
    assert asked == [True, False, False]  # what excludes each other is refused before


class Halved(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5


def test_outputs_of_gray_floats(tmp_path: Path) -> None:
    """The whole way, through a package."""
    layout = ct.colorlayout.GRAYSCALE_FLOAT16
    traced = torch.jit.trace(Halved(), torch.zeros(1, 1, 4, 5))
    converted = ct.convert(
        traced,
        inputs=[ct.ImageType(name="x0", shape=(1, 1, 4, 5), color_layout=layout)],
        outputs=[ct.ImageType(name="y", color_layout=layout)],
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    path = tmp_path / "gray.mlpackage"
    converted.save(str(path))
    module = open_model(path)
    pixels = RNG.integers(0, 256, (4, 5)).astype(np.float16) + np.float16(0.5)
    (found,) = module.predict({"x0": pixels}).values()
    assert found.shape == (4, 5)
    np.testing.assert_allclose(found, pixels * 0.5, rtol=1e-3)
    (sample,) = plausible_inputs(module, 1)
    assert sample["x0"].shape == (4, 5)
