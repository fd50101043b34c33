"""What ``DKMPalettizer`` cannot do: an error of one line each, and the model stays usable."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from small_networks import config, named, net, trained, values  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize.errors import AlgorithmError, ConfigError, PlanError  # noqa: E402
from mil_palettize.torch import DKMPalettizer, DKMPalettizerConfig  # noqa: E402


def test_step_before_prepare() -> None:
    with pytest.raises(PlanError, match=r"step\(\) comes after prepare\(\)"):
        DKMPalettizer(net(), config()).step()


def test_a_second_finalize() -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    palettizer.prepare(inplace=True)
    palettizer.finalize(inplace=True)
    with pytest.raises(PlanError, match="it is finalized already"):
        palettizer.finalize(inplace=True)


def test_weights_that_are_no_numbers() -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    model = palettizer.prepare()
    with torch.no_grad():
        model.linear.parametrizations.weight.original[0, 0] = float("nan")
    with pytest.raises(AlgorithmError, match=r"weight 'linear.weight' has NaN or infinite values; the loss"):
        palettizer.step()
    with pytest.raises(AlgorithmError, match=r"weight 'linear.weight'"):
        palettizer.finalize()


def test_a_frozen_weight() -> None:
    model = net()
    model.linear.weight.requires_grad_(False)
    with pytest.raises(PlanError, match=r"weight 'linear.weight' is frozen"):
        DKMPalettizer(model, config(n_bits=2)).prepare(inplace=True)
    assert type(model.conv) is nn.Conv2d


def test_fewer_weights_than_entries() -> None:
    with pytest.raises(PlanError, match=r"a table of 256 entries would stand for only 80 of its values"):
        DKMPalettizer(net(), named("last", n_bits=8)).prepare()


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"module_name_configs": {"liner": {"n_bits": 2}}}, "module_name_configs has 'liner'.*did you mean 'linear'"),
        ({"module_type_configs": {nn.Conv3d: {"n_bits": 2}}}, "module_type_configs has Conv3d, but the model has no"),
        ({"global_config": {"n_bits": 5, "weight_threshold": 0}}, r"n_bits is 5, allowed are \(1, 2, 3, 4, 6, 8\)"),
        ({"global_config": {"nbits": 2}}, "'nbits' not known|unrecognized key nbits"),
        (
            {"global_config": {"n_bits": 2, "enforce_zero": True, "weight_threshold": 0}},
            "enforce_zero is True, which is not",
        ),
        ({"global_config": {"palett_mode": "gsm", "weight_threshold": 0}}, "palett_mode is 'gsm', allowed are"),
        ({"global_config": {"palett_tau": 0.0, "weight_threshold": 0}}, "palett_tau is 0.0"),
        ({"global_config": {"lut_dtype": "i4", "weight_threshold": 0}}, "lut_dtype is 'i4'"),
    ],
)
def test_wrong_configs(entries, told) -> None:
    with pytest.raises(ConfigError, match=told):
        DKMPalettizer(net(), DKMPalettizerConfig.from_dict(entries)).prepare()


def test_groups_that_do_not_fit_leave_a_weight_as_it_is(caplog) -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2, granularity="per_grouped_channel", group_size=5))
    final = trained(palettizer.prepare(), palettizer)
    assert list(palettizer.report()) == ["linear.weight"]
    assert values(final.last.weight) == 80
    assert "weight 'last.weight' is left as it is: group_size 5 does not divide its 4 channels" in caplog.text


def test_nothing_chosen() -> None:
    with pytest.raises(PlanError, match="no weight is chosen"):
        DKMPalettizer(nn.Sequential(nn.Linear(2, 2))).prepare()


def test_no_model_and_no_config() -> None:
    with pytest.raises(ConfigError, match="model is str"):
        DKMPalettizer("model")
    with pytest.raises(ConfigError, match="config is dict"):
        DKMPalettizer(net(), {"n_bits": 2})


def test_options_that_change_nothing_here_are_refused_where_coremltools_heeds_them() -> None:
    with pytest.raises(ConfigError, match=r"prune_threshold is 0\.1, which is not supported; leave it at 1e-07"):
        DKMPalettizer(net(), config(n_bits=2, prune_threshold=0.1)).prepare()
