"""``MILModule`` under the palettizers: what was learned is written back into the package, and nothing else moves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from packages import constants, differences  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize import decompress_package  # noqa: E402
from mil_palettize.errors import ConfigError, EvaluationError, PackageError, PlanError  # noqa: E402
from mil_palettize.torch import (  # noqa: E402
    CalibratedPalettizer,
    DKMPalettizer,
    DKMPalettizerConfig,
    MILModule,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
    SKMPalettizer,
    SKMPalettizerConfig,
)
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

CONV = "conv_fp16_ios18.mlpackage"


def inputs(module: MILModule, seed: int = 0) -> dict[str, torch.Tensor]:
    (sample,) = plausible_inputs(module, 1, seed)
    return module.features.tensors(sample)


def given(module: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(module(**inputs(module, seed)))


def config(**options: object) -> DKMPalettizerConfig:
    return DKMPalettizerConfig.from_dict({"global_config": {"weight_threshold": 0, "n_bits": 2, **options}})


def trained(module: MILModule, asked: DKMPalettizerConfig) -> MILModule:
    """Four steps towards what the float network gives."""
    wanted = [given(module, seed) for seed in range(4)]
    palettizer = DKMPalettizer(module, asked)
    model = palettizer.prepare()
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], 1e-2)
    for seed, outputs in enumerate(wanted):
        optimizer.zero_grad()
        found = model(**inputs(module, seed))
        sum((found[name] - out).square().sum() for name, out in outputs.items()).backward()
        optimizer.step()
        palettizer.step()
    return palettizer.finalize()


def kinds(package: Path) -> dict[str, str]:
    return {key[3]: op.type for key, (op, _) in constants(package).items()}


@pytest.mark.parametrize("name", [CONV, "conv_fp32_ios16.mlpackage", "embedding_matmul_ios16.mlpackage"])
def test_what_was_learned_is_written_back(name: str, fixtures: Path, tmp_path: Path) -> None:
    """The written package computes what the module does, also decompressed; the palettes are those of the module."""
    module = trained(MILModule.from_package(fixtures / name), config())
    module.save_package(tmp_path / "out.mlpackage")
    assert module.palettes
    written = MILModule.from_package(tmp_path / "out.mlpackage")
    found = dict(written.named_parameters())
    for name in module.palettes:
        assert len(found[name].unique()) <= 4
        assert torch.equal(found[name], getattr(module, name))
    decompress_package(tmp_path / "out.mlpackage", tmp_path / "dense.mlpackage", verify=True)
    for package in (written, MILModule.from_package(tmp_path / "dense.mlpackage")):
        for out, wanted in given(module).items():
            torch.testing.assert_close(given(package)[out], wanted, rtol=1e-3, atol=1e-3)


def test_nothing_else_moves(fixtures: Path, tmp_path: Path) -> None:
    """Without a change the package is the same; with one weight trained all others are."""
    MILModule.from_package(fixtures / CONV).save_package(tmp_path / "same.mlpackage")
    assert not differences(fixtures / CONV, tmp_path / "same.mlpackage")
    module = MILModule.from_package(fixtures / CONV)
    module.requires_grad_(False)
    chosen, *others = (slot for slot, _, _ in module.named_weights())
    module.weights[chosen].requires_grad_(True)
    asked = DKMPalettizerConfig.from_dict({"module_name_configs": {chosen: {"weight_threshold": 0, "n_bits": 2}}})
    trained(module, asked).save_package(tmp_path / "one.mlpackage")
    old, new = (kinds(path) for path in (fixtures / CONV, tmp_path / "one.mlpackage"))
    assert {name for name in old if old[name] != new[name]} == {chosen}
    before, after = (constants(path) for path in (fixtures / CONV, tmp_path / "one.mlpackage"))
    for key, (op, read) in before.items():
        if op.type == "const" and key[3] != chosen:
            np.testing.assert_array_equal(after[key][1](), read())
    assert others


def test_values_without_palettes_are_written_too(fixtures: Path, tmp_path: Path) -> None:
    """Of the package's own dtype, in the place of the old ones."""
    module = MILModule.from_package(fixtures / CONV)
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(1.5)
    module.save_package(tmp_path / "out.mlpackage")
    assert kinds(tmp_path / "out.mlpackage") == kinds(fixtures / CONV)
    written = MILModule.from_package(tmp_path / "out.mlpackage")
    found = dict(written.named_parameters())
    for name, value in module.named_parameters():
        torch.testing.assert_close(found[name], value.half().float(), rtol=0, atol=0)


def test_configs_know_weights_by_the_layers_that_do_the_same(fixtures: Path) -> None:
    entry = {"n_bits": 2, "weight_threshold": 0}
    module = MILModule.from_package(fixtures / CONV)
    ranks = {name: value.ndim for name, value in module.named_parameters()}
    asked = DKMPalettizerConfig.from_dict({"module_type_configs": {nn.Conv2d: entry}})
    chosen = DKMPalettizer(module, asked).prepare().parametrizations
    assert chosen
    assert {ranks[name] for name in chosen} == {4}
    asked = DKMPalettizerConfig.from_dict({"module_type_configs": {nn.Conv1d: entry}})
    with pytest.raises(ConfigError, match="has Conv1d, but the model has no module of this type"):
        DKMPalettizer(module, asked).prepare()
    asked = DKMPalettizerConfig.from_dict({"module_name_configs": {"wieght": entry}})
    with pytest.raises(ConfigError, match="module_name_configs has 'wieght', which no module is called"):
        DKMPalettizer(module, asked).prepare()


def test_palettes_without_training(fixtures: Path, tmp_path: Path) -> None:
    """Those of the palettizers that compress."""
    options = {"global_config": {"n_bits": 4}}
    module = MILModule.from_package(fixtures / CONV)
    made = PostTrainingPalettizer(module, PostTrainingPalettizerConfig.from_dict(options)).compress()
    made.save_package(tmp_path / "plain.mlpackage")
    sensitive = SKMPalettizer(module, SKMPalettizerConfig.from_dict({**options, "calibration_nsamples": 2})).compress(
        dataloader=[0, 1],
        loss_fn=lambda model, seed: sum(out.square().sum() for out in model(**inputs(module, seed)).values()),
    )
    sensitive.save_package(tmp_path / "sensitive.mlpackage")
    assert not module.palettes
    for name in ("plain", "sensitive"):
        assert "constexpr_lut_to_dense" in kinds(tmp_path / f"{name}.mlpackage").values()
    with pytest.raises(ConfigError, match="a package is calibrated by palettize_package"):
        CalibratedPalettizer(module)


def test_in_its_own_place(fixtures: Path, tmp_path: Path) -> None:
    package = shutil.copytree(fixtures / CONV, tmp_path / "own.mlpackage")
    module = trained(MILModule.from_package(package), config())
    with pytest.raises(PackageError, match="exists"):
        module.save_package(package)
    module.save_package(package, overwrite=True)
    assert "constexpr_lut_to_dense" in kinds(package).values()


# What cannot be


def test_inputs_without_names(fixtures: Path) -> None:
    with pytest.raises(EvaluationError, match=r"inputs of a package have names; call module\(image=…\)"):
        MILModule.from_package(fixtures / CONV)(torch.zeros(1, 16, 12, 12))


def test_a_model_that_is_not_finalized(fixtures: Path, tmp_path: Path) -> None:
    model = DKMPalettizer(MILModule.from_package(fixtures / CONV), config()).prepare()
    with pytest.raises(PlanError, match="is prepared for training; save what finalize"):
        model.save_package(tmp_path / "out.mlpackage")


def test_a_palette_that_was_changed(fixtures: Path, tmp_path: Path) -> None:
    module = trained(MILModule.from_package(fixtures / CONV), config())
    with torch.no_grad():
        next(iter(module.weights.values())).add_(1.0)
    with pytest.raises(PlanError, match="was changed after it was palettized; palettize it again"):
        module.save_package(tmp_path / "out.mlpackage")


def test_values_that_cannot_be_written(fixtures: Path, tmp_path: Path) -> None:
    """Of a palette that is there already, and beyond fp16; nothing is left behind."""
    for name, told in (
        ("palettized_ios16.mlpackage", "trained, and cannot be written"),
        (CONV, "beyond float16"),
    ):
        module = MILModule.from_package(fixtures / name)
        with torch.no_grad():
            for value in module.parameters():
                value.mul_(1e9)
        with pytest.raises(PlanError, match=told):
            module.save_package(tmp_path / "out.mlpackage")
    assert not list(tmp_path.iterdir())


def test_an_opset_without_palettes(fixtures: Path, tmp_path: Path) -> None:
    """The package has to move up."""
    module = trained(MILModule.from_package(fixtures / "conv_fp16_ios15.mlpackage"), config())
    with pytest.raises(PlanError, match="can hold no palettes: move the model up"):
        module.save_package(tmp_path / "out.mlpackage")
    with pytest.raises(ConfigError, match="iOS99"):
        module.save_package(tmp_path / "out.mlpackage", target="iOS99")
    module.save_package(tmp_path / "out.mlpackage", target="iOS16")
    assert "constexpr_lut_to_dense" in kinds(tmp_path / "out.mlpackage").values()
