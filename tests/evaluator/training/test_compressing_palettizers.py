"""``PostTrainingPalettizer`` and ``SKMPalettizer``: one solver with the packages, and coremltools' workflows."""

from __future__ import annotations

from collections import OrderedDict

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from packages import constants  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.errors import AlgorithmError, ConfigError, EvaluationError, PackageError, PlanError  # noqa: E402
from mil_palettize.torch import (  # noqa: E402
    MILModule,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
    SKMPalettizer,
    SKMPalettizerConfig,
)
from mil_palettize.torch.training.batch_norms import fuse_norms  # noqa: E402


def network():
    torch.manual_seed(0)
    parts = {
        "conv": nn.Conv2d(3, 16, 3),
        "norm": nn.BatchNorm2d(16),
        "relu": nn.ReLU(),
        "up": nn.ConvTranspose2d(16, 32, 3),
    }
    model = nn.Sequential(OrderedDict(parts))
    model(torch.randn(8, 3, 8, 8))
    return model.eval()


def images(count=4):
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8)


def converted(model, path):
    made = ct.convert(
        torch.jit.trace(model, images(1)),
        inputs=[ct.TensorType("x", (1, 3, 8, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    made.save(str(path))
    return path


def palettes(package):
    """What each palette decodes to, by shape."""
    found = [(op, read()) for op, read in constants(package).values()]
    last = {"constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"}
    return {array.shape: array for op, array in found if op.type in last and array.ndim == 4 and array.dtype != np.int8}


def config(**options):
    return PostTrainingPalettizerConfig.from_dict({"global_config": options})


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"n_bits": 4}, {"nbits": 4}),
        (
            {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 8},
            {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 8},
        ),
        ({"n_bits": 4, "cluster_dim": 2}, {"nbits": 4, "cluster_dim": 2}),
    ],
    ids=str,
)
def test_the_same_weights_get_the_palettes_of_a_package(options, same, tmp_path) -> None:
    """Bit for bit: compressed and converted, or converted and palettized."""
    model = network()
    first = converted(PostTrainingPalettizer(model, config(**options)).compress(), tmp_path / "first.mlpackage")
    converted(model, tmp_path / "plain.mlpackage")
    entry = OpPalettizerConfig(mode="kmeans", weight_threshold=0, **same)
    palettize_package(tmp_path / "plain.mlpackage", tmp_path / "second.mlpackage", OptimizationConfig(entry))
    found, wanted = palettes(first), palettes(tmp_path / "second.mlpackage")
    assert found.keys() == wanted.keys()
    assert len(found) == 2
    for shape, array in found.items():
        assert np.array_equal(array, wanted[shape])


@pytest.mark.parametrize(
    "options",
    [{"enable_per_channel_scale": True}, {"lut_dtype": "int8"}, {"lut_dtype": "uint8"}],
    ids=str,
)
def test_other_forms_are_converted_as_they_are(options, tmp_path) -> None:
    palettizer = PostTrainingPalettizer(network(), config(n_bits=4, **options))
    model = palettizer.compress()
    (given,) = MILModule.from_package(converted(model, tmp_path / "made.mlpackage"))(x=images(1)).values()
    torch.testing.assert_close(given, model(images(1)), rtol=1e-2, atol=5e-3)
    assert all(row["snr_db"] > 18 for row in palettizer.report().values())
    assert "snr_db" in str(palettizer.report())


def test_what_does_not_fit_is_left_as_it_is_and_told(caplog) -> None:
    palettizer = PostTrainingPalettizer(network(), config(n_bits=2, granularity="per_grouped_channel", group_size=32))
    model = palettizer.compress()
    assert list(palettizer.report()) == ["up.weight"]
    assert len(model.conv.weight.unique()) > 4
    assert "weight 'conv.weight' is left as it is: group_size 32 does not divide its 16 channels" in caplog.text


def test_fusing_batch_norms_changes_no_output() -> None:
    model = network()
    wanted = model(images())
    fuse_norms(model)
    assert isinstance(model.norm, nn.Identity)
    torch.testing.assert_close(model(images()), wanted)


def test_batch_norms_stay_where_asked() -> None:
    model = PostTrainingPalettizer(network(), config(n_bits=4), fuse_batch_norm=False).compress()
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert len(model.conv.weight.unique()) <= 16


def test_sensitive_palettes_lose_less(tmp_path) -> None:
    """Of a model whose large weights meet inputs that are nearly nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    with torch.no_grad():
        model[0].weight[:, 32:] *= 5
    size = torch.cat([torch.ones(32), torch.full((32,), 0.02)])
    data = [(x := torch.randn(8, 64) * size, model(x).detach()) for _ in range(16)]

    def loss(model, item):
        return F.mse_loss(model(item[0]), item[1] + 0.1 * torch.ones(4))

    entry = {"global_config": {"n_bits": 2}}
    palettizer = SKMPalettizer(model, SKMPalettizerConfig.from_dict({**entry, "calibration_nsamples": 16}), damping=0.1)
    sensitive = palettizer.compress(dataloader=data, loss_fn=loss)
    plain = PostTrainingPalettizer(model, PostTrainingPalettizerConfig.from_dict(entry)).compress()

    def error(other):
        return sum(F.mse_loss(other(x), y).item() for x, y in data)

    assert error(sensitive) < 0.8 * error(plain)
    path = str(tmp_path / "sensitivity.pt")
    found = palettizer.compute_sensitivity(data, loss, path)
    assert set(found) == {name for name, _ in model.named_parameters()}
    again = palettizer.compress(sensitivity_path=path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), sensitive.parameters(), strict=True))


def test_sensitivities_are_sums_of_squared_gradients() -> None:
    model = nn.Linear(3, 1, bias=False)
    data = [torch.randn(1, 3) for _ in range(5)]
    config = SKMPalettizerConfig.from_dict({"calibration_nsamples": 4})
    found = SKMPalettizer(model, config).compute_sensitivity(data, lambda model, x: model(x).sum())
    torch.testing.assert_close(found["weight"], sum(x.square() for x in data[:4]))


def test_sensitivities_of_a_subclass() -> None:
    """Which has them from elsewhere: of one weight some, of the other none, whose elements then count alike."""
    model = network()
    where = torch.rand_like(model.conv.weight)

    class Own(SKMPalettizer):
        def compute_sensitivity(self, *args, **kwargs):
            return {"conv.weight": where, "up.weight": None}

    entries = {"global_config": {"n_bits": 2}}
    found = Own(model, SKMPalettizerConfig.from_dict(entries), damping=0.0, fuse_batch_norm=False).compress()
    plain = PostTrainingPalettizer(model, config(n_bits=2), fuse_batch_norm=False).compress()

    def error(other):
        return float(((other.conv.weight - model.conv.weight).detach().square() * where).sum())

    assert torch.equal(found.up.weight, plain.up.weight)
    assert error(found) < error(plain)


# What cannot be


def test_weights_that_are_no_numbers() -> None:
    model = network()
    with torch.no_grad():
        model.up.weight[0, 0] = float("inf")
    with pytest.raises(AlgorithmError, match=r"weight 'up.weight' has NaN or infinite values"):
        PostTrainingPalettizer(model, config(n_bits=2)).compress(inplace=True)
    assert isinstance(model.norm, nn.BatchNorm2d)


def test_no_data(tmp_path) -> None:
    palettizer = SKMPalettizer(network())
    with pytest.raises(ConfigError, match="give dataloader and loss_fn, or sensitivity_path"):
        palettizer.compress()
    with pytest.raises(ConfigError, match="dataloader gives no items"):
        palettizer.compress(dataloader=[], loss_fn=lambda model, x: model(x).sum())
    with pytest.raises(EvaluationError, match="the loss of item 0 is no finite number"):
        palettizer.compress(dataloader=[images()], loss_fn=lambda model, x: model(x).sum() * float("nan"))
    with pytest.raises(PackageError, match="is not there"):
        palettizer.compress(sensitivity_path=str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(PackageError, match="is no file of compute_sensitivity"):
        palettizer.compress(sensitivity_path=str(tmp_path / "text.pt"))


@pytest.mark.parametrize(("place", "told"), [("none/s.pt", "there is no folder"), ("", "it is a folder")])
def test_sensitivities_that_cannot_be_written(place, told, tmp_path) -> None:
    """Before any is computed."""
    with pytest.raises(PackageError, match=told):
        SKMPalettizer(network()).compute_sensitivity(
            [images()], lambda model, x: pytest.fail("computed"), str(tmp_path / place)
        )


def test_report_before_compress() -> None:
    with pytest.raises(PlanError, match=r"report\(\) comes after compress\(\)"):
        PostTrainingPalettizer(network()).report()


@pytest.mark.parametrize("kind", [PostTrainingPalettizer, SKMPalettizer])
def test_no_model_and_no_config(kind) -> None:
    with pytest.raises(ConfigError, match="model is str"):
        kind("model")
    with pytest.raises(ConfigError, match="config is dict"):
        kind(network(), {"n_bits": 2})
