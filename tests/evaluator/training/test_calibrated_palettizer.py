"""``CalibratedPalettizer``: the choice that calibration of packages makes, for torch models."""

from __future__ import annotations

import copy

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from packages import constants  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.errors import ConfigError, EvaluationError, PlanError  # noqa: E402
from mil_palettize.torch import (  # noqa: E402
    CalibratedPalettizer,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)


def config(**options):
    return PostTrainingPalettizerConfig.from_dict({"global_config": options})


def plain_layers():
    """No op stands between them, so that a package is judged by what the layers give too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 24), nn.Linear(24, 16)).eval()


def correlated(count, shape, seed=1):
    torch.manual_seed(seed)
    mixed = torch.randn(shape[-1], shape[-1])
    return [torch.randn(shape) @ mixed + 0.5 for _ in range(count)]


def error(model, like, samples):
    with torch.no_grad():
        return float(sum((model(x) - like(x)).square().sum() for x in samples))


def test_the_same_weights_get_the_palettes_of_a_package(tmp_path) -> None:
    """Bit for bit: calibrated and converted, or converted and calibrated."""
    model, samples = plain_layers(), correlated(15, (4, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    converted = ct.convert(
        torch.jit.trace(model, samples[0]),
        inputs=[ct.TensorType("x", (4, 16))],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "in.mlpackage"))
    entry = OpPalettizerConfig(mode="kmeans", nbits=2, weight_threshold=0)
    palettize_package(
        tmp_path / "in.mlpackage",
        tmp_path / "out.mlpackage",
        OptimizationConfig(entry),
        calibration=Calibration([{"x": x.numpy()} for x in samples]),
    )
    found = [(op, read()) for op, read in constants(tmp_path / "out.mlpackage").values()]
    wanted = {array.shape: array for op, array in found if op.type == "constexpr_lut_to_dense"}
    palettizer = CalibratedPalettizer(model, config(n_bits=2))
    made = palettizer.compress(samples)
    for layer in made:
        array = layer.weight.detach().numpy()
        assert np.array_equal(array.astype(np.float16), wanted[array.shape])
    assert {row["method"] for row in palettizer.report().values()} != {"plain"}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(16, 8, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 10),
    )
    model(torch.randn(8, 3, 6, 6))
    return model.eval()


@pytest.mark.parametrize(("method", "most"), [("reconstruct", 0.9), ("importance", 1.0)])
def test_outputs_lose_less_than_by_k_means(method, most) -> None:
    """On the samples that were held out; a weighted optimum need not be better, but is given up where it is worse."""
    model, samples = network(), correlated(20, (2, 3, 6, 6))
    palettizer = CalibratedPalettizer(model, config(n_bits=2))
    made = palettizer.compress(samples, method=method)
    plain = PostTrainingPalettizer(model, config(n_bits=2)).compress()
    assert error(made, model, samples[4::5]) <= most * error(plain, model, samples[4::5])
    assert all(len(made[number].weight.unique()) <= 4 for number in (0, 3, 6))
    again = CalibratedPalettizer(model, config(n_bits=2)).compress(samples, method=method)
    assert all(torch.equal(one, two) for one, two in zip(made.parameters(), again.parameters(), strict=True))
    assert "output_db" in str(palettizer.report())


class Transformer(nn.Module):
    """Tied embeddings, attention, and keywords."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids, *, scale=1.0):
        x = self.embedding(ids) * scale
        return self.head(self.norm(x + self.attention(x, x, x)[0]))


def test_attention_and_tied_weights() -> None:
    torch.manual_seed(0)
    model = Transformer().train()
    samples = [{"ids": torch.randint(0, 30, (1, 9)), "scale": 2.0} for _ in range(10)]
    palettizer = CalibratedPalettizer(model, config(n_bits=3))
    made = palettizer.compress(samples)
    assert made.training
    assert made.head.weight is made.embedding.weight
    for weight in (made.embedding.weight, made.attention.in_proj_weight, made.attention.out_proj.weight):
        assert len(weight.unique()) <= 8
    in_turn = ["attention.in_proj_weight", "attention.out_proj.weight", "norm.weight", "embedding.weight"]
    assert list(palettizer.report()) == in_turn


def test_inplace_and_what_is_given_otherwise_stays() -> None:
    model, samples = plain_layers(), correlated(5, (2, 16))
    before = copy.deepcopy(model.state_dict())
    other = CalibratedPalettizer(model, config(n_bits=2)).compress(samples)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert CalibratedPalettizer(model, config(n_bits=2)).compress(samples, inplace=True) is model
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("samples", "kind", "told"),
    [
        ([], ConfigError, "samples is empty"),
        (torch.zeros(2, 16), ConfigError, "samples is Tensor; give a list"),
        ([3], ConfigError, "sample 0 is int; give a tensor"),
        ([torch.full((2, 16), float("nan"))], EvaluationError, "sample 0 has NaN"),
        ([torch.zeros(2, 16), torch.zeros(2, 9)], EvaluationError, "the model does not take sample 1: mat1 and mat2"),
    ],
)
def test_samples_that_are_none(samples, kind, told) -> None:
    model = plain_layers()
    with pytest.raises(kind, match=told):
        CalibratedPalettizer(model, config(n_bits=2)).compress(samples, inplace=True)
    assert len(model[0].weight.unique()) > 4


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="method is 'weights'; use one of"):
        CalibratedPalettizer(plain_layers()).compress([torch.zeros(1, 16)], method="weights")
    with pytest.raises(ConfigError, match="rounds is -1"):
        CalibratedPalettizer(plain_layers()).compress([torch.zeros(1, 16)], rounds=-1)
    with pytest.raises(PlanError, match=r"report\(\) comes after compress"):
        CalibratedPalettizer(plain_layers()).report()
