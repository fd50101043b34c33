"""Opening packages: what is found in a good one, and the one line that is said of anything else."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from handmade import ROOT_ID, WEIGHTS_ID, contents, entry, manifest, write_package

from mil_palettize.errors import PackageError
from mil_palettize.package.mlpackage import Item, Package
from mil_palettize.package.replacement import previous_path

WEIGHT = "@model_path/weights/weight.bin"


def refusal(path: str | os.PathLike[str]) -> str:
    """The one line :meth:`Package.open` refuses ``path`` with."""
    with pytest.raises(PackageError) as caught:
        Package.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_manifest(folder: Path, stored: object) -> Path:
    write_package(folder)
    text = stored if isinstance(stored, bytes) else json.dumps(stored).encode()
    (folder / "Manifest.json").write_bytes(text)
    return folder


def test_a_good_package(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m.mlpackage", model=b"the model", weights=b"12345")
    package = Package.open(folder)
    inner = folder / "Data" / "com.apple.CoreML"
    assert package.path == folder
    assert package.model_path == inner / "model.mlmodel"
    assert package.model_bytes() == b"the model"
    assert package.weight_path(WEIGHT, used_by="w") == inner / "weights" / "weight.bin"
    assert package.items == (
        Item(ROOT_ID, Path("com.apple.CoreML/model.mlmodel"), "model.mlmodel"),
        Item(WEIGHTS_ID, Path("com.apple.CoreML/weights"), "weights"),
    )
    assert package.nbytes() == sum(len(data) for data in contents(folder).values())


def test_the_path_may_be_written_in_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_package(tmp_path / "m.mlpackage")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    for path in (str(folder), f"{folder}/", "m.mlpackage", "./m.mlpackage/", "~/m.mlpackage", folder):
        package = Package.open(path)
        assert package.path == folder
        assert package.model_path.is_absolute()
    assert Package.open("link").model_bytes() == b"model"
    assert Package.open("link").weight_path(WEIGHT, used_by="w").read_bytes() == b"weights"


def test_files_are_all_files(tmp_path: Path) -> None:
    """Extra items, files no manifest lists, and links within the package."""
    folder = write_package(tmp_path / "m.mlpackage")
    extra = folder / "Data" / "com.example" / "deep"
    extra.mkdir(parents=True)
    (extra / "notes.txt").write_text("n")
    (folder / ".DS_Store").write_text("finder")
    (folder / "again.bin").symlink_to("Data/com.apple.CoreML/weights/weight.bin")
    assert Package.open(folder).files() == [
        Path(".DS_Store"),
        Path("Data/com.apple.CoreML/model.mlmodel"),
        Path("Data/com.apple.CoreML/weights/weight.bin"),
        Path("Data/com.example/deep/notes.txt"),
        Path("Manifest.json"),
        Path("again.bin"),
    ]


def test_older_formats_and_byte_order_marks(tmp_path: Path) -> None:
    text = json.dumps(manifest(fileFormatVersion="0.9.3")).encode("utf-8-sig")
    assert len(Package.open(with_manifest(tmp_path / "m.mlpackage", text)).items) == 2


def test_real_packages(shared_models: Path) -> None:
    folders = sorted(shared_models.glob("*.mlpackage"))
    assert folders
    for folder in folders:
        package = Package.open(folder)
        assert {str(file) for file in package.files()} == set(contents(folder))
        assert package.weight_path(WEIGHT, used_by="w").is_file()
        assert package.nbytes() == sum(len(data) for data in contents(folder).values())


def test_a_package_that_is_not_there_is_told_with_those_that_are_called_alike(tmp_path: Path) -> None:
    for name in ("silero_unified.mlpackage", "beat.mlpackage", "silero.txt"):
        (tmp_path / name).mkdir()
    for name in ("silero.mlpackage", "silero_unifed.mlpackage", "silero_unified"):
        told = f"there is no {tmp_path / name}; did you mean {tmp_path / 'silero_unified.mlpackage'}?"
        assert refusal(tmp_path / name) == told
    assert refusal(tmp_path / "conv.mlpackage") == f"there is no {tmp_path / 'conv.mlpackage'}"


def test_what_is_no_package(tmp_path: Path) -> None:
    missing = tmp_path / "missing.mlpackage"
    assert refusal(missing) == f"there is no {missing}"
    model = tmp_path / "m.mlmodel"
    model.write_bytes(b"\x08\x01")
    assert 'convert_to="mlprogram"' in refusal(model)
    compiled = tmp_path / "m.mlmodelc"
    compiled.mkdir()
    assert "compiled" in refusal(compiled)
    assert ".mlpackage it was made from" in refusal(compiled)
    compiled.rename(tmp_path / "renamed.mlpackage")
    (tmp_path / "renamed.mlpackage" / "coremldata.bin").write_bytes(b"")
    assert "compiled" in refusal(tmp_path / "renamed.mlpackage")
    for name in ("m.zip", "m.mlpackage", "m.mlpackage.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("m.mlpackage/Manifest.json", "{}")
        assert "unzip it first" in refusal(tmp_path / name)
    (tmp_path / "text.txt").write_text("text")
    assert "a file, not a package" in refusal(tmp_path / "text.txt")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe")
    (tmp_path / "dangling.mlpackage").symlink_to("nowhere")
    assert "neither a file nor a folder" in refusal(tmp_path / "dangling.mlpackage")


def test_folder_without_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "it has no Manifest.json" in refusal(folder)
    inner = write_package(folder / "m.mlpackage")
    assert f"did you mean {inner}?" in refusal(folder)


def test_interrupted_replacement_is_named(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m.mlpackage")
    folder.rename(previous_path(folder))
    assert ".m.mlpackage.previous" in refusal(folder)


def test_item_that_is_missing(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m.mlpackage")
    (folder / "Data" / "com.apple.CoreML" / "model.mlmodel").unlink()
    assert "'com.apple.CoreML/model.mlmodel', but nothing is there" in refusal(folder)


def test_root_model_that_is_a_folder(tmp_path: Path) -> None:
    folder = with_manifest(tmp_path / "m.mlpackage", manifest(rootModelIdentifier=WEIGHTS_ID))
    assert "root model 'com.apple.CoreML/weights' is not a file" in refusal(folder)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (b'{"name": "1.0.0", "name": "1.0.0"}', "the key 'name' is there twice"),
        (b" " * ((16 << 20) + 1), "more than"),
        ([], "holds a list"),
        ("text", "holds a str"),
        (None, "holds a NoneType"),
        (manifest(fileFormatVersion="1.0.1"), "up to 1.0.0"),
        (manifest(fileFormatVersion="2.0.0"), "up to 1.0.0"),
        (manifest(fileFormatVersion="1.0"), "'1.0', not major.minor.patch"),
        (manifest(fileFormatVersion=1), "is 1, not major.minor.patch"),
        (manifest(fileFormatVersion=None), "is None, not major.minor.patch"),
        (manifest(rootModelIdentifier=None), "rootModelIdentifier None is none of its 2 items"),
        (manifest(rootModelIdentifier="x"), "rootModelIdentifier 'x' is none of its 2 items"),
        (manifest(rootModelIdentifier=[ROOT_ID]), "is none of its 2 items"),
        (manifest(itemInfoEntries=[]), "itemInfoEntries are not an object"),
        (manifest(itemInfoEntries=None), "itemInfoEntries are not an object"),
        (manifest(itemInfoEntries={}), "is none of its 0 items"),
        (manifest(itemInfoEntries={ROOT_ID: "text"}), "is not an object"),
        (manifest(itemInfoEntries={ROOT_ID: entry(None, "n")}), "the path None, not text"),
        (manifest(itemInfoEntries={ROOT_ID: entry(3, "n")}), "the path 3, not text"),
        (manifest(itemInfoEntries={ROOT_ID: {"path": "", "name": "", "author": ""}}), "the description None"),
    ],
)  # fmt: skip
def test_damaged_manifest(tmp_path: Path, stored: object, said: str) -> None:
    line = refusal(with_manifest(tmp_path / "m.mlpackage", stored))
    assert said in line
    assert str(tmp_path / "m.mlpackage" / "Manifest.json") in line


def test_weight_file_that_is_missing(tmp_path: Path) -> None:
    package = Package.open(write_package(tmp_path / "m.mlpackage"))
    for name in ("@model_path/weights/other.bin", "@model_path/weights", "@model_path/weights/weight.bin/x"):
        with pytest.raises(PackageError, match=rf"weight 'conv_w' is in the file '{name}', but there is no"):
            package.weight_path(name, used_by="conv_w")


def test_model_that_cannot_be_read(tmp_path: Path) -> None:
    package = Package.open(write_package(tmp_path / "m.mlpackage"))
    package.model_path.unlink()
    with pytest.raises(PackageError, match="cannot read"):
        package.model_bytes()
