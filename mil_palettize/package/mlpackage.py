"""``.mlpackage`` folders: the manifest, the root model and the weight files, checked before use.

Format: coremltools ``modelpackage/src/ModelPackage.cpp``, version 1.0.0. ``Manifest.json`` lists items by
identifier with their path below ``Data/``; one of them, ``rootModelIdentifier``, is the model.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NoReturn

from mil_palettize.errors import ModelTypeError, PackageError
from mil_palettize.package.links import is_inside, may_be_read, refuse_pointer, way_out
from mil_palettize.package.replacement import MANIFEST, previous_path

DATA = "Data"
MODEL_PATH = "@model_path"
_NEWEST_FORMAT = (1, 0, 0)
# Manifests are a few hundred bytes; one of this size was not written by Core ML tools.
_LARGEST_MANIFEST = 16 << 20
# Names that are looked at for one like a name that is not there, and how long these may be.
_MOST_BESIDE, _LONGEST_NAME = 1000, 255


@dataclass(frozen=True)
class Item:
    """One entry of the manifest; ``path`` is relative to ``Data/``: a file, or a folder of files."""

    identifier: str
    path: Path
    name: str


@dataclass(frozen=True)
class Package:
    """A package whose manifest was checked. ``path`` and ``model_path`` are absolute; ``model_path`` is the
    file of the root model."""

    path: Path
    items: tuple[Item, ...]
    model_path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Package:
        """Read the manifest at ``path`` (``~`` allowed). Nothing is kept open.

        Raises PackageError, saying what to do, when this is no package, its manifest is damaged or newer
        than 1.0.0, an item is missing, or an item lies outside the package; ModelTypeError for what is no path.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise ModelTypeError(
                f"the path of a package is needed, got {type(path).__name__}; palettize_weights and decompress_weights "
                "take models in memory"
            )
        folder = Path(os.path.abspath(os.path.expanduser(path)))
        _check_is_package(folder)
        manifest = _read_manifest(folder)
        _check_version(folder, manifest.get("fileFormatVersion"))
        items = _read_items(folder, manifest.get("itemInfoEntries"))
        root = manifest.get("rootModelIdentifier")
        model = next((item for item in items if item.identifier == root), None)
        if model is None:
            raise _damaged(folder, f"its rootModelIdentifier {root!r} is none of its {len(items)} items")
        model_path = folder / DATA / model.path
        if not os.path.isfile(model_path):
            raise _damaged(folder, f"its root model {str(model.path)!r} is not a file")
        refuse_pointer(model_path)
        return cls(folder, items, model_path)

    def model_bytes(self) -> bytes:
        """The serialized root model. Raises PackageError when it cannot be read."""
        try:
            return self.model_path.read_bytes()
        except OSError as error:
            raise PackageError(f"cannot read {self.model_path}: {error.strerror}") from error

    def weight_path(self, file_name: str, *, used_by: str) -> Path:
        """Where the weight file that a program calls ``@model_path/...`` is: absolute, inside the package.

        ``used_by``: the weight stored there, for the error. Raises PackageError when the name leads out of
        the package, or no such file is there.
        """
        where = f"weight {used_by!r} is in the file {file_name!r}"
        prefix, _, rest = file_name.partition("/")
        if prefix != MODEL_PATH or not _is_plain(rest):
            raise PackageError(f"{where}; only {MODEL_PATH}/<path without ..> is allowed")
        path = self.model_path.parent / rest
        if not may_be_read(path, self.path):
            raise PackageError(f"{where}, a link that leads out of {self.path}; {way_out(self.path)}")
        if not os.path.isfile(path):
            raise PackageError(f"{where}, but there is no file {path}; copy or download the package again")
        refuse_pointer(path)
        return path

    def files(self) -> list[Path]:
        """Every file of the package, listed in the manifest or not, relative to ``path``, sorted.

        Raises PackageError for what a copy could not carry over: links to folders, or out of the package where
        these are not followed, pipes, sockets, and folders that cannot be read; and for a pointer of git-lfs.
        """
        found: list[Path] = []
        for folder, subfolders, names in os.walk(self.path, onerror=_fail):
            links = [name for name in subfolders if Path(folder, name).is_symlink()]
            for name in names + links:
                file = Path(folder, name)
                if not may_be_read(file, self.path) or not os.path.isfile(file):
                    raise PackageError(
                        f"{file} is neither a file nor a link to one inside the package; {way_out(self.path)}"
                    )
                refuse_pointer(file)
                found.append(file.relative_to(self.path))
        return sorted(found)

    def followed(self) -> str:
        """A sentence about links that lead out of the package, whose files are read; "" when there are none."""
        files = [self.path / file for file in self.files()]
        places = [os.path.realpath(file) for file in files if not is_inside(file, self.path)]
        if not places:
            return ""
        where = os.path.commonpath([os.path.dirname(place) for place in places])
        if len(places) == 1:
            return f"1 file of {self.path.name} is a link to a file in {where}"
        return f"{len(places)} files of {self.path.name} are links to files in {where}"

    def folders(self) -> list[Path]:
        """The items that are folders, relative to ``path``."""
        items = (Path(DATA, item.path) for item in self.items)
        return [item for item in items if os.path.isdir(self.path / item)]

    def has_same(self, file: Path, other: Package) -> bool:
        """Whether ``file``, relative to both, holds the same bytes in another package; read in windows. Raises
        PackageError naming the one that cannot be read."""
        try:
            return filecmp.cmp(self.path / file, other.path / file, shallow=False)
        except OSError as error:
            _fail(error)

    def nbytes(self) -> int:
        """Bytes of all files together. Raises PackageError as :meth:`files` does."""
        try:
            return sum(os.path.getsize(self.path / file) for file in self.files())
        except OSError as error:
            _fail(error)


def _check_is_package(folder: Path) -> None:
    if not os.path.lexists(folder):
        if os.path.isdir(previous_path(folder)):
            raise PackageError(
                f"there is no {folder}, but an interrupted run left it as {previous_path(folder).name} in "
                "the same folder; rename that back"
            )
        raise PackageError(f"there is no {folder}{_near(folder)}")
    if os.path.isfile(folder):
        raise PackageError(f"{folder} is {_kind_of_file(folder)}")
    if not os.path.isdir(folder):
        raise PackageError(f"{folder} is neither a file nor a folder; a package (.mlpackage) is needed")
    if folder.suffix == ".mlmodelc" or os.path.isfile(folder / "coremldata.bin"):
        raise PackageError(
            f"{folder} is a compiled model, which cannot be palettized; take the .mlpackage it was made from"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PackageError(f"no permission to read the folder {folder}")
    if not os.path.isfile(folder / MANIFEST):
        inside = sorted(folder.glob("*.mlpackage"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise PackageError(f"{folder} is not a package: it has no {MANIFEST}{hint}")


def _near(folder: Path) -> str:
    """Packages beside it that are called alike."""
    beside = {path.stem: path for path in islice(sorted(folder.parent.glob("*.mlpackage")), _MOST_BESIDE)}
    close = get_close_matches(folder.stem[:_LONGEST_NAME], beside)
    return f"; did you mean {' or '.join(str(beside[stem]) for stem in close)}?" if close else ""


def _kind_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        return f"a file that cannot be read: {error.strerror}"
    if start[:2] == b"PK" or path.suffix == ".zip":
        return "a zip file; unzip it first and take the .mlpackage folder inside"
    if path.suffix == ".mlmodel":
        return (
            "a Core ML model file, not a package; convert the model to an ML Program with coremltools "
            '(convert_to="mlprogram") and save it as .mlpackage'
        )
    return "a file, not a package (.mlpackage folder)"


def _read_manifest(folder: Path) -> dict[str, object]:
    if not may_be_read(folder / MANIFEST, folder):
        raise PackageError(f"{folder / MANIFEST} is a link that leads out of the package; {way_out(folder)}")
    refuse_pointer(folder / MANIFEST)
    try:
        with (folder / MANIFEST).open("rb") as file:
            stored = file.read(_LARGEST_MANIFEST + 1)
    except OSError as error:
        raise PackageError(f"cannot read {folder / MANIFEST}: {error.strerror}") from error
    if len(stored) > _LARGEST_MANIFEST:
        raise _damaged(folder, f"it has more than {_LARGEST_MANIFEST} bytes")
    try:
        manifest = json.loads(stored.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"it is not valid JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise _damaged(folder, f"it holds a {type(manifest).__name__}, not an object")
    return manifest


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        repeated = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {repeated!r} is there twice")
    return result


def _check_version(folder: Path, version: object) -> None:
    text = version if isinstance(version, str) else ""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){2}", text):
        raise _damaged(folder, f"its fileFormatVersion is {version!r}, not major.minor.patch")
    if tuple(map(int, text.split("."))) > _NEWEST_FORMAT:
        raise PackageError(f"{folder / MANIFEST} says format version {text}; up to 1.0.0 can be read")


def _read_items(folder: Path, entries: object) -> tuple[Item, ...]:
    if not isinstance(entries, dict):
        raise _damaged(folder, "its itemInfoEntries are not an object")
    seen: set[str] = set()
    return tuple(_read_item(folder, identifier, entry, seen) for identifier, entry in entries.items())


def _read_item(folder: Path, identifier: str, entry: object, seen: set[str]) -> Item:
    """``seen``: paths of items that were looked at on the disk, once however many items name them."""
    if not isinstance(entry, dict):
        raise _damaged(folder, f"its item {identifier!r} is not an object")
    for key in ("path", "name", "author", "description"):
        if not isinstance(entry.get(key), str):
            raise _damaged(folder, f"its item {identifier!r} has the {key} {entry.get(key)!r}, not text")
    path, name = entry["path"], entry["name"]
    where = f"its item {name!r} is at {path!r}"
    if not _is_plain(path):
        raise _damaged(folder, f"{where}; only paths below {DATA}/ without .. are allowed")
    if path not in seen:
        if not may_be_read(folder / DATA / path, folder):
            raise _damaged(folder, f"{where}, a link that leads out of the package; {way_out(folder)}")
        if not os.path.exists(folder / DATA / path):
            raise _damaged(folder, f"{where}, but nothing is there")
        seen.add(path)
    return Item(identifier, Path(path), name)


def _is_plain(path: str) -> bool:
    """Whether ``path`` is a relative path that cannot lead upwards by its text."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path


def _damaged(folder: Path, problem: str) -> PackageError:
    return PackageError(f"{folder / MANIFEST} is damaged: {problem}")


def _fail(error: OSError) -> NoReturn:
    raise PackageError(f"cannot read {error.filename}: {error.strerror}") from error
