"""Models, configs and arguments that palettizers cannot work with, and weights that share their values."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from small_networks import config, net, trained, values  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from mil_palettize.errors import ConfigError, EvaluationError, PlanError  # noqa: E402
from mil_palettize.torch import (  # noqa: E402
    DKMPalettizer,
    DKMPalettizerConfig,
    ModuleDKMPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
    SKMPalettizer,
    SKMPalettizerConfig,
)


def prepared(model: nn.Module) -> nn.Module:
    return DKMPalettizer(model, config(n_bits=2)).prepare(inplace=True)


def compressed(model: nn.Module) -> nn.Module:
    return PostTrainingPalettizer(model).compress(inplace=True)


def hooked(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.linear, "weight", 0.5)
    return model


def normed(model: nn.Module) -> nn.Module:
    parametrizations.weight_norm(model.linear)
    return model


def empty(model: nn.Module) -> nn.Module:
    return model.to("meta")


def lazy(model: nn.Module) -> nn.Module:
    model.last = nn.LazyLinear(4)
    return model


@pytest.mark.parametrize("palettize", [prepared, compressed])
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (hooked, "weight 'linear.weight' is no parameter, a hook computes it; make it one first"),
        (normed, "weight 'linear.weight' is parametrized already; remove that first"),
        (prepared, "weight 'conv.weight' is parametrized already; .* finalize it"),
        (empty, r"weight 'conv.weight' has no values \(its device is meta\)"),
        (lazy, "module 'last' is lazy and has no weight yet; run the model once first"),
    ],
)
def test_weights_whose_values_are_not_their_own(made, told, palettize) -> None:
    """A palette put in their place would be gone with the next call."""
    with pytest.raises(PlanError, match=told):
        palettize(made(net()))


def test_models_that_torch_does_not_copy() -> None:
    model = hooked(net())
    model(torch.zeros(1, 3, 8, 8))
    for palettizer in (PostTrainingPalettizer(model).compress, DKMPalettizer(model, config()).prepare):
        with pytest.raises(PlanError, match=r"the model cannot be copied .* where hooks compute weights, make these"):
            palettizer()
    prune.remove(model.linear, "weight")
    assert values(PostTrainingPalettizer(model).compress().linear.weight) <= 16


@pytest.mark.parametrize("kind", [DKMPalettizerConfig, PostTrainingPalettizerConfig, SKMPalettizerConfig])
def test_configs_that_are_none(kind, tmp_path) -> None:
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "broken.yaml").write_text("a: [")
    for path, told in (
        (tmp_path / "list.yaml", "yaml stream should return a dict"),
        (tmp_path / "broken.yaml", "while parsing a flow node .* line 1, column 5"),
        (str(tmp_path / "none.yaml"), r"none\.yaml cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=rf"^{kind.__name__}: .*{told}"):
            kind.from_yaml(path)
    for given, told in (
        ([1], "a config is a dict, .* and this is list"),
        (None, "this is NoneType"),
        ({"module_type_configs": 5}, "module_type_configs is 5; give a dict"),
    ):
        with pytest.raises(ConfigError, match=told):
            kind.from_dict(given)


def test_a_name_that_is_no_expression() -> None:
    entries = PostTrainingPalettizerConfig.from_dict({"module_name_configs": {"(": {"n_bits": 2}}})
    with pytest.raises(ConfigError, match=r"module_name_configs has '\(', which is no regular expression: missing \)"):
        PostTrainingPalettizer(net(), entries).compress()


def test_the_types_that_the_default_config_names_need_not_be_there() -> None:
    """Also where it was added to, as coremltools' ``set_…`` do."""
    entries = DKMPalettizerConfig().set_module_name("last", ModuleDKMPalettizerConfig(n_bits=1, weight_threshold=0))
    palettizer = DKMPalettizer(net(), entries)
    palettizer.prepare()
    assert list(palettizer.report()) == ["last.weight"]
    with pytest.raises(ConfigError, match="module_type_configs has Conv3d, but the model has no module of this type"):
        DKMPalettizer(net(), entries.set_module_type(nn.Conv3d, ModuleDKMPalettizerConfig(n_bits=1))).prepare()
    assert DKMPalettizerConfig().module_type_configs[nn.Conv3d].n_bits == 2


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).sum()


@pytest.mark.parametrize(
    ("dataloader", "loss_fn", "error", "told"),
    [
        (5, loss, ConfigError, "dataloader is int; give a list, or any iterable"),
        ([torch.zeros(1, 3, 8, 8)], "mse", ConfigError, "loss_fn is str; give a function of the model and an item"),
        ([torch.zeros(1, 3, 8, 8)], lambda *given: loss(*given).detach(), EvaluationError, "item 0 has no gradient"),
    ],
)
def test_no_sensitivities(dataloader, loss_fn, error, told) -> None:
    with pytest.raises(error, match=told):
        SKMPalettizer(net()).compress(dataloader, loss_fn)


def test_sensitivities_of_a_frozen_model() -> None:
    with pytest.raises(PlanError, match="all parameters are frozen, and sensitivities need gradients"):
        SKMPalettizer(net().requires_grad_(False)).compress([torch.zeros(1, 3, 8, 8)], loss)


@pytest.mark.parametrize("workers", [0, "2"])
def test_a_number_of_workers_that_is_none(workers) -> None:
    with pytest.raises(ConfigError, match=f"num_kmeans_workers is {workers!r}, it must be a whole number"):
        PostTrainingPalettizer(net()).compress(num_kmeans_workers=workers)


@pytest.mark.parametrize("state", [{}, {"steps": "x"}, net().state_dict(), None], ids=["no", "text", "model", "None"])
def test_a_state_of_something_else(state) -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    palettizer.prepare()
    with pytest.raises(ConfigError, match="no state_dict of a DKMPalettizer; the model's own goes into the model"):
        palettizer.load_state_dict(state)


def test_what_is_no_model_is_not_finalized() -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    palettizer.prepare()
    with pytest.raises(ConfigError, match="model is str"):
        palettizer.finalize("model")


def test_the_report_outlasts_the_training() -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    trained(palettizer.prepare(), palettizer)
    before = palettizer.report()
    palettizer.finalize(inplace=True)
    assert len(before) == 4
    assert palettizer.report() == before


@pytest.mark.parametrize("last", [{"n_bits": 4, "weight_threshold": 0}, None])
def test_tied_weights_that_are_asked_for_otherwise(last, caplog) -> None:
    """The first decides, which is told."""
    entries = {"module_name_configs": {"0": {"n_bits": 2, "weight_threshold": 0}, "2": last}}
    told = "weight '2.weight' is tied to '0.weight' and gets its palette, not what is asked for it"

    def model():
        tied = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        tied[2].weight = tied[0].weight
        return tied

    palettizer = DKMPalettizer(model(), DKMPalettizerConfig.from_dict(entries))
    palettizer.prepare()
    assert values(palettizer.finalize()[2].weight) == 4
    assert caplog.text.count(told) == 1
    for options in (one for one in entries["module_name_configs"].values() if one):
        del options["weight_threshold"]
    made = PostTrainingPalettizer(model(), PostTrainingPalettizerConfig.from_dict(entries)).compress()
    assert values(made[2].weight) == 4
    assert caplog.text.count(told) == 2
