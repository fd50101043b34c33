"""Every kind of layer that palettes are for: learned, compressed, calibrated, and converted."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from packages import constants  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize.torch import (  # noqa: E402
    CalibratedPalettizer,
    DKMPalettizer,
    DKMPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)

KINDS = {
    "Conv1d": (lambda: nn.Conv1d(4, 8, 3), (1, 4, 6)),
    "Conv3d": (lambda: nn.Conv3d(2, 4, 2), (1, 2, 3, 4, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 8, 3, stride=2), (1, 4, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 8, 2), (1, 2, 2, 3, 2)),
    "LayerNorm": (lambda: nn.LayerNorm(32), (1, 3, 32)),
}
OPTIONS = {"n_bits": 2, "granularity": "per_grouped_channel", "group_size": 4}


def network(kind):
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    model = nn.Sequential(make(), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(model[0].weight.shape))
    return model.eval(), shape


def palettized(way, model, shape, options):
    xs = [torch.randn(shape) for _ in range(5)]
    if way == "learned":
        config = DKMPalettizerConfig.from_dict({"global_config": {"weight_threshold": 0, **options}})
        palettizer = DKMPalettizer(model, config)
        training = palettizer.prepare()
        optimizer = torch.optim.Adam(training.parameters(), 1e-2)
        for x in xs:
            optimizer.zero_grad()
            training(x).square().mean().backward()
            optimizer.step()
            palettizer.step()
        return palettizer.finalize()
    config = PostTrainingPalettizerConfig.from_dict({"global_config": options})
    if way == "compressed":
        return PostTrainingPalettizer(model, config).compress()
    return CalibratedPalettizer(model, config).compress(xs)


@pytest.mark.parametrize("way", ["learned", "compressed", "calibrated"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_palettized(kind, way) -> None:
    """As many values as a table has, which float16 holds, and what it was is what it gives, nearly."""
    model, shape = network(kind)
    weight = palettized(way, model, shape, {"n_bits": 2})[0].weight.detach()
    assert 1 < len(weight.unique()) <= 4
    assert torch.equal(weight.half().float(), weight)
    if way != "learned":
        assert (weight - model[0].weight).square().sum() < 0.4 * model[0].weight.square().sum()


@pytest.mark.parametrize("kind", KINDS)
def test_groups_survive_conversion_bit_for_bit(kind, tmp_path) -> None:
    model, shape = network(kind)
    made = palettized("compressed", model, shape, OPTIONS)
    converted = ct.convert(
        torch.jit.trace(made, torch.zeros(shape)),
        inputs=[ct.TensorType("x", shape)],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "made.mlpackage"))
    held = constants(tmp_path / "made.mlpackage").values()
    (array,) = [read() for op, read in held if op.type == "constexpr_lut_to_dense"]
    wanted = made[0].weight.detach().numpy().astype(np.float16)
    assert np.array_equal(array.reshape(wanted.shape), wanted)
