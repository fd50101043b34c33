"""A package beside what something else gave: a file of outputs, a torch module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import (  # noqa: E402
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import compare_with, open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.predictions import packed_outputs, run_package  # noqa: E402

RNG = np.random.default_rng(3)
SAMPLES = [{"x": RNG.standard_normal((1, 12)).astype(np.float32)} for _ in range(3)]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(12, 32), torch.nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        hidden = torch.relu(self.one(x))
        return self.two(hidden), hidden.sum(dim=1)


NET = Net().eval()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    model = ct.convert(
        torch.jit.trace(NET, torch.zeros(1, 12)), inputs=[ct.TensorType("x", shape=(1, 12))],
        outputs=[ct.TensorType("y"), ct.TensorType("z")], minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(folder / "net.mlpackage"))
    small = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=20))
    palettize_package(folder / "net.mlpackage", folder / "small.mlpackage", small)
    return folder / "small.mlpackage"


def torch_outputs() -> dict[str, np.ndarray]:
    with torch.no_grad():
        results = [NET(torch.from_numpy(sample["x"])) for sample in SAMPLES]
    return {name: np.stack([result[i].numpy() for result in results]) for i, name in enumerate("yz")}


def snr(one: np.ndarray, two: np.ndarray) -> float:
    one, two = one.astype(np.float64), two.astype(np.float64)
    return float(10 * np.log10((one**2).sum() / ((one - two) ** 2).sum()))


def wanted(package: Path) -> dict[str, float]:
    truth, module = torch_outputs(), open_model(package)
    predicted = [module.predict(sample) for sample in SAMPLES]
    return {name: snr(truth[name], np.stack([one[name] for one in predicted])) for name in "yz"}


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "an axis in front": lambda array: array,
    "along the first axis": lambda array: array[:, 0],
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_file_of_outputs_is_the_original(layout: str, package: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, **{name: LAYOUTS[layout](array) for name, array in torch_outputs().items()})
    found = compare(package, path, SAMPLES)
    assert (found.original, found.palettized, found.samples) == (str(path), str(package), 3)
    assert {o.name: o.snr_db for o in found.outputs} == pytest.approx(wanted(package), abs=1e-3)
    assert found.snr_db < 40
    assert not found.weights


def test_one_sample_and_some_outputs(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, z=torch_outputs()["z"][0])
    found = compare(package, path, SAMPLES[0])
    assert [o.name for o in found.outputs] == ["z"]
    assert "Not in the reference, and not compared: 'y'." in found.notes


def test_what_run_wrote_is_a_reference(package: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.stack([sample["x"] for sample in SAMPLES]))
    outcome = run_package(package, tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(packed_outputs(outcome.outputs))
    found = compare(package, tmp_path / "y.npz", tmp_path / "x.npz")
    assert all(output.figures is not None and output.figures.equal for output in found.outputs)


def test_a_classifier(fixtures: Path, tmp_path: Path) -> None:
    """Probabilities in the order of the classes, and labels as text."""
    path, pixels = fixtures / "image_classifier_ios15.mlpackage", tmp_path / "x.npz"
    samples = plausible_inputs(open_model(path), 2)
    np.savez(pixels, **{name: np.stack([sample[name] for sample in samples]) for name in samples[0]})
    (tmp_path / "y.npz").write_bytes(packed_outputs(run_package(path, pixels).outputs))
    found = compare(path, tmp_path / "y.npz", pixels)
    assert {o.agreement for o in found.outputs} <= {1.0, None}
    assert any(o.agreement == 1 for o in found.outputs)
    assert all(o.figures.equal for o in found.outputs if o.figures)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"q": np.zeros((3, 1, 5))}, "the model has no output 'q'; it gives 'y', 'z': rename it in "),
        ({"y": np.zeros((2, 1, 5))}, r"has 'y' of shape \[2, 1, 5\], and there are 3 samples"),
        ({"y": np.zeros((3, 1, 6))}, r"output 'y' is \[1, 6\] in the reference, \[1, 5\] of the model"),
    ],
)
def test_references_that_do_not_fit(arrays: dict[str, Any], told: str, package: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(EvaluationError, match=told):
        compare(package, tmp_path / "r.npz", SAMPLES)


def test_wrong_requests(package: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"r\.npz: there is no such file; give a \.npz or \.npy file of outputs"):
        compare(package, tmp_path / "r.npz", SAMPLES)
    np.savez(tmp_path / "r.npz", **torch_outputs())
    with pytest.raises(ConfigError, match="give the inputs that they are of"):
        compare(package, tmp_path / "r.npz")
    with pytest.raises(ConfigError, match="is of outputs only; leave per_op out"):
        compare(package, tmp_path / "r.npz", SAMPLES, per_op=True)
    with pytest.raises(ConfigError, match="is of outputs only; leave greedy out"):
        compare(package, tmp_path / "r.npz", SAMPLES, greedy=2)


def test_the_command(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.stack([sample["x"] for sample in SAMPLES]))
    np.savez(tmp_path / "r.npz", **torch_outputs())
    arguments = ["compare", str(package), str(tmp_path / "r.npz"), "--inputs", str(tmp_path / "x.npz")]
    page = tmp_path / "page.html"
    assert main([*arguments, "--fail-below", "90dB", "--html", str(page)]) == 1
    shown = capsys.readouterr()
    assert f"{tmp_path / 'r.npz'} → {package}" in shown.out
    assert "below 90 dB" in shown.err
    assert "r.npz" in page.read_text()
    assert main([*arguments, "--html", str(tmp_path / "r.npz")]) == 2
    assert "is the file of the reference; choose another" in capsys.readouterr().err


# Torch modules


def test_a_torch_module_is_the_original(package: Path) -> None:
    found = compare_with(NET, package, SAMPLES)
    assert {o.name: o.snr_db for o in found.outputs} == pytest.approx(wanted(package), abs=1e-3)
    whole = package.with_name("net.mlpackage")
    assert compare_with(NET, whole, random=2).snr_db > 100


def test_what_a_module_takes_and_gives(package: Path) -> None:
    class Other(torch.nn.Module):
        def forward(self, doubled: Any) -> Any:
            y, z = NET(doubled / 2)
            return {"z": z, "more": z, "y": y}

    def arguments(sample: Any) -> dict[str, Any]:
        return {"doubled": 2 * torch.from_numpy(sample["x"])}

    found = compare_with(Other().eval(), package, SAMPLES, arguments=arguments)
    assert found.outputs == compare_with(NET, package, SAMPLES).outputs
    only = compare_with(Other().eval(), package, SAMPLES, arguments=arguments, outputs=["z"])
    assert [o.figures for o in only.outputs] == [o.figures for o in found.outputs if o.name == "z"]


def test_modules_that_do_not_fit(package: Path, fixtures: Path) -> None:
    with pytest.raises(ConfigError, match=r"training mode, and so gives other results; call module\.eval"):
        compare_with(Net(), package, SAMPLES)
    with pytest.raises(EvaluationError, match=r"the torch module: it gives Tensor, not a tensor for each"):
        compare_with(NET.one.eval(), package, SAMPLES)
    with pytest.raises(EvaluationError, match="the model has no output 'w'"):
        compare_with(NET, package, SAMPLES, outputs=["w"])
    with pytest.raises(ConfigError, match="is an image; say with arguments="):
        compare_with(NET, fixtures / "image_classifier_ios15.mlpackage", random=1)


def test_the_function_is_told_where_none_was_named(fixtures: Path, tmp_path: Path) -> None:
    source, inputs = fixtures / "multifunction_ios18.mlpackage", {"x": np.zeros((1, 1, 48), np.float32)}
    np.savez(tmp_path / "y.npz", y=np.zeros((1, 1, 48), np.float32))
    told = r"^function 'prefill': .*input 'x' has .* \[1, 8, 48\]; name the function .* \(--function decode\)$"
    with pytest.raises(EvaluationError, match=told):
        compare(source, tmp_path / "y.npz", inputs)
    with pytest.raises(EvaluationError, match=told):
        compare_with(torch.nn.Identity().eval(), source, inputs)
    assert compare(source, tmp_path / "y.npz", inputs, function="decode").samples == 1
    with pytest.raises(EvaluationError, match=r"^(?!function 'prefill')"):
        compare_with(torch.nn.Identity().eval(), source, inputs, function="prefill")
    with pytest.raises(EvaluationError, match=r"^function 'prefill': output 'y' is \[1, 1, 48\] in the reference"):
        compare(source, tmp_path / "y.npz", {"x": np.zeros((1, 8, 48), np.float32)})


def test_a_single_array_is_the_only_output(package: Path, fixtures: Path, tmp_path: Path) -> None:
    conv, x = fixtures / "conv_fp16_ios16.mlpackage", {"image": RNG.standard_normal((1, 16, 12, 12))}
    truth = open_model(conv).predict(x)["scores"]
    noise = truth + 0.1 * RNG.standard_normal(truth.shape)
    np.save(tmp_path / "y.npy", noise)
    assert compare(conv, tmp_path / "y.npy", x).snr_db == pytest.approx(snr(noise, truth))
    np.save(tmp_path / "z.npy", torch_outputs()["y"])
    with pytest.raises(EvaluationError, match="holds one array without a name, and the model gives 'y', 'z'; save"):
        compare(package, tmp_path / "z.npy", SAMPLES)
    for wrong in (noise.astype(np.complex64), noise.astype(str)):
        np.save(tmp_path / "y.npy", wrong)
        with pytest.raises(EvaluationError, match=r"output 'scores' is of dtype .* in the reference; give numbers"):
            compare(conv, tmp_path / "y.npy", x)
    (tmp_path / "y.npy").write_text("1, 2")
    with pytest.raises(PackageError, match=r"is text, and is no \.npz file; save outputs by name with numpy\.savez$"):
        compare(conv, tmp_path / "y.npy", x)
