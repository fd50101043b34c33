"""Recipes of other tools: weights are found by what they hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mil_palettize import ConfigError, PackageError, PlanError, import_recipe, palettize_package
from mil_palettize.package.checkpoints import read_checkpoint
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import dense

SOURCE = Path(__file__).resolve().parents[2] / "fixtures" / "conv_fp16_ios18.mlpackage"
# Called as no weight of the package is, and in another order.
MODULES = {"net.5.out": "head_weight", "net.0": "up_weight", "net.1.fc": "hidden_weight", "net.3": "stem_weight"}
BITS = {"net.5.out": 6, "net.0": 2, "net.1.fc": 16, "net.3": 4}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    with Model.open(SOURCE) as model:
        return {site.weight.name: np.asarray(dense(site, model.store)) for site in model.survey().sites}


@pytest.fixture(scope="module")
def tensors(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As a torch model would hold them: fp32 that rounds to the package's fp16, one of them the other way round."""
    found = {f"{module}.weight": weights[name].astype(np.float32) * (1 + 1e-5) for module, name in MODULES.items()}
    found["net.5.out.weight"] = np.ascontiguousarray(found["net.5.out.weight"].T)
    return found | {"net.5.out.bias": np.zeros(10, np.float32)}


def written(folder: Path, recipes: Any, tensors: Mapping[str, np.ndarray]) -> tuple[Path, Path]:
    recipe, checkpoint = folder / "recipes.json", folder / "model.npz"
    recipe.write_text(json.dumps(recipes))
    np.savez(checkpoint, **tensors)
    return recipe, checkpoint


def chosen(recipe: Any) -> dict[str, int | None]:
    return {name: one.options and one.options["nbits"] for one in recipe.chosen for name in one.names}


@pytest.mark.parametrize(
    "recipes",
    [
        {"model_version": "x", "single_layer": {}, "baselines": {}, "recipes": {"recipe_3.41_bit": BITS}},
        {"3.4": BITS},
        BITS,
    ],
)
def test_weights_get_the_bits_of_their_modules(recipes: Any, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    recipe = import_recipe(SOURCE, *written(tmp_path, recipes, tensors))
    bits = chosen(recipe)
    named = {name: nbits for module, name in MODULES.items() if (nbits := BITS[module]) != 16}
    assert named == {name: nbits for name, nbits in bits.items() if nbits is not None}
    assert bits["hidden_weight"] is None
    out = tmp_path / "out.mlpackage"
    report = palettize_package(SOURCE, out, recipe)
    assert {w.name: w.nbits for w in report.palettized} == named
    assert recipe.nbytes == report.bytes_after
    assert any(note.startswith("4 of 4 modules of recipe ") for note in recipe.notes)
    assert "as it was imported" in recipe.to_text()


def test_what_does_not_match_is_listed(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    other = {**tensors, "net.3.weight": tensors["net.3.weight"] * 1.01}
    recipes = {"a": BITS | {"nowhere": 4}, "b": BITS}
    recipe = import_recipe(SOURCE, *written(tmp_path, recipes, other), name="a")
    notes = "\n".join(recipe.notes)
    assert "3 of 5 modules of recipe 'a'" in notes
    assert "not matched, not in the checkpoint: nowhere" in notes
    assert "not matched, no weight of the package that could get a palette holds its values: net.3" in notes
    assert chosen(recipe)["stem_weight"] is None


def test_the_most_bits_of_equal_modules(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    twice = {**tensors, "tied.weight": tensors["net.0.weight"]}
    recipe = import_recipe(SOURCE, *written(tmp_path, BITS | {"tied": 3}, twice))
    assert chosen(recipe)["up_weight"] == 3
    assert any("net.0, tied have the same values" in note for note in recipe.notes)


def test_names_of_a_checkpoint_may_begin_otherwise(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    longer = {f"model.{name}": tensor for name, tensor in tensors.items()}
    assert chosen(import_recipe(SOURCE, *written(tmp_path, BITS, longer)))["stem_weight"] == 4


def test_bits_that_cannot_be_had(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    """3 bits are none of iOS16."""
    source = SOURCE.with_name("conv_fp16_ios16.mlpackage")
    asked = written(tmp_path, {"net.3": 3, "net.0": 4}, tensors)
    recipe = import_recipe(source, *asked)
    reasons = {one.names[0]: one.reason for one in recipe.chosen}
    assert reasons["stem_weight"] == "3 bits cannot be had there, or would not be smaller"
    assert reasons["head_weight"] == "the recipe does not name it"
    assert reasons["up_weight"] == ""
    assert chosen(import_recipe(source, *asked, target="iOS18"))["stem_weight"] == 3


@pytest.mark.parametrize(
    ("recipes", "error", "told"),
    [
        ({"a": BITS, "b": BITS}, ConfigError, r"holds 2 recipes: 'a', 'b'; say which"),
        ({"net.3": 5}, ConfigError, r"'net.3' has 5 bits, allowed are"),
        ({"net.3": True}, ConfigError, "has True bits"),
        ([], ConfigError, "holds no recipe"),
        ({}, ConfigError, "holds no recipe"),
        ({"recipes": {}}, ConfigError, "holds no recipe"),
        ({"recipes": {"a": []}}, ConfigError, "holds no recipe"),
        ({"other": 4}, PlanError, "nothing of recipe 'recipes' matches"),
    ],
)
def test_wrong_recipes(
    recipes: Any, error: type[Exception], told: str, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        import_recipe(SOURCE, *written(tmp_path, recipes, tensors))


def test_files_that_are_none(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    recipe, checkpoint = written(tmp_path, {"a": BITS}, tensors)
    with pytest.raises(ConfigError, match="no recipe 'aa', but 'a'; did you mean 'a'"):
        import_recipe(SOURCE, recipe, checkpoint, name="aa")
    with pytest.raises(PackageError, match="no such file; give the checkpoint"):
        import_recipe(SOURCE, recipe, tmp_path / "nowhere.safetensors")
    with pytest.raises(PackageError, match="cannot read"):
        import_recipe(SOURCE, tmp_path / "nowhere.json", checkpoint)
    with pytest.raises(ConfigError, match="is no JSON"):
        import_recipe(SOURCE, checkpoint, checkpoint)


def safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    """As the format is described: the length of the header, the header, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_tensors_of_safetensors(tmp_path: Path) -> None:
    array = np.float32([[1.5, -2.0, 0.125], [3.0, 0.0, -1.0]])
    brain = (array.view(np.uint32) >> 16).astype(np.uint16)
    stored = {
        "single": ("F32", (2, 3), array.tobytes()),
        "half": ("F16", (3, 2), array.astype(np.float16).tobytes()),
        "brain": ("BF16", (2, 3), brain.tobytes()),
        "whole": ("I64", (1,), bytes(8)),
    }
    found = read_checkpoint(safetensors(tmp_path / "a.safetensors", stored))
    assert set(found) == {"single", "half", "brain"}
    for name, shape in (("single", (2, 3)), ("half", (3, 2)), ("brain", (2, 3))):
        assert np.array_equal(found[name](), array.reshape(shape))
    safetensors(tmp_path / "b.safetensors", {"second": stored["single"]})
    assert set(read_checkpoint(tmp_path)) == {"single", "half", "brain", "second"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 57) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}  ',
        struct.pack("<Q", 57) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}   ' + bytes(8),
        struct.pack("<Q", 57) + b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}' + bytes(4),
    ],
)
def test_damaged_safetensors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=r"cannot read .*a\.safetensors"):
        read_checkpoint(path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"holds no \.safetensors file"):
        read_checkpoint(tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(PackageError, match="one array without a name"):
        read_checkpoint(tmp_path / "one.npy")


def test_tensors_that_numpy_does_not_take(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from mil_palettize.torch.checkpoints import load_checkpoint

    values = torch.tensor([[0.0, 1.5], [0.0, 0.0]])
    state = {"trained": torch.nn.Parameter(values), "sparse": values.to_sparse(), "half": values.bfloat16()}
    torch.save(state, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")
    assert {name: read().tolist() for name, read in found.items()} == dict.fromkeys(state, values.tolist())


@pytest.mark.parametrize("content", [b"", b"\x80\x020.", b"some text"])
def test_damaged_files_of_torch(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from mil_palettize.torch.checkpoints import load_checkpoint

    (tmp_path / "a.pt").write_bytes(content)
    told = "cannot read .*a\\.pt: it is damaged, or holds more than tensors; it must be a state_dict"
    with pytest.raises(PackageError, match=told):
        load_checkpoint(tmp_path / "a.pt")


def test_what_torch_saved(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    recipe, _ = written(tmp_path, BITS, {})
    state = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    for content in (state, {"state_dict": state, "epoch": 3}):
        torch.save(content, tmp_path / "model.pt")
        assert chosen(import_recipe(SOURCE, recipe, tmp_path / "model.pt"))["stem_weight"] == 4
    (tmp_path / "model.pt").write_bytes(b"nothing")
    with pytest.raises(PackageError, match="cannot read"):
        import_recipe(SOURCE, recipe, tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(PackageError, match="holds no state_dict"):
        import_recipe(SOURCE, recipe, tmp_path / "model.pt")
