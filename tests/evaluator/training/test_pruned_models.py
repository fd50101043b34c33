"""Models that coremltools' pruner made: zeros stay zeros, and what is left has a palette."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig  # noqa: E402
from packages import constants  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize.torch import (  # noqa: E402
    DKMPalettizer,
    DKMPalettizerConfig,
    MILModule,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)
from mil_palettize.torch.training import soft_kmeans as module  # noqa: E402


def pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    config = MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.6}})
    pruner = MagnitudePruner(model, config)
    pruner.prepare(inplace=True)
    pruner.step()
    return pruner.finalize(inplace=True)


def test_a_model_that_was_pruned_in_training_is_copied_as_it_is() -> None:
    """Its finalized layers have something left of the prepared ones, which cannot be copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    pruner = MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.6}}))
    prepared = pruner.prepare()
    pruner.step()
    prepared(torch.randn(4, 32)).square().sum().backward()
    final = pruner.finalize(prepared)
    for made in (learned(final), compressed(final)):
        for number in (0, 2):
            assert torch.equal(made[number].weight == 0, final[number].weight == 0)
            assert len(made[number].weight.unique()) == 5


def learned(model):
    config = DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 0}})
    palettizer = DKMPalettizer(model, config)
    prepared = palettizer.prepare()
    optimizer = torch.optim.Adam(prepared.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(torch.randn(8, 32)).square().mean().backward()
        optimizer.step()
        palettizer.step()
    return palettizer.finalize()


def compressed(model):
    config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
    return PostTrainingPalettizer(model, config).compress()


@pytest.mark.parametrize("bins", [False, True])
@pytest.mark.parametrize("make", [learned, compressed])
def test_zeros_stay_zeros(make, bins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside four values, none of which is spent on the zeros; and the package has sparse tables that say the same."""
    monkeypatch.setattr(module, "_MANY", 100 if bins else module._MANY)
    model = pruned()
    final = make(model)
    for number in (0, 2):
        before, after = model[number].weight, final[number].weight
        assert float((before == 0).float().mean()) > 0.5
        assert torch.equal(before == 0, after == 0)
        assert len(after[after != 0].unique()) == 4
    made = ct.convert(
        torch.jit.trace(final, torch.zeros(1, 32)),
        inputs=[ct.TensorType("x", (1, 32))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    made.save(str(tmp_path / "made.mlpackage"))
    kinds = [op.type for op, _ in constants(tmp_path / "made.mlpackage").values()]
    assert kinds.count("constexpr_sparse_to_dense") == 2
    assert "constexpr_lut_to_sparse" in kinds
    x = torch.randn(1, 32)
    (given,) = MILModule.from_package(tmp_path / "made.mlpackage")(x=x).values()
    assert np.allclose(given.detach().numpy(), final(x).detach().numpy(), rtol=1e-2, atol=1e-2)
