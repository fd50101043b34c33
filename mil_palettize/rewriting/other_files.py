"""What a rewritten package takes over from its source, every file but the model and its weight files, and what not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mil_palettize.errors import PackageError, PlanError
from mil_palettize.package.disk import OutputFile, copy_file, make_folders
from mil_palettize.program.model import Model


def write_other_files(model: Model, staging: Path, weight_files: Iterable[Path]) -> None:
    """Write the model as it is in memory, and copies of all files but it and ``weight_files``, which are there already
    or not needed any more."""
    package = model.package
    model_file = package.model_path.relative_to(package.path)
    rewritten = {path.relative_to(package.path) for path in weight_files} | {model_file}
    for relative in package.folders():  # a manifest may name one that is empty
        make_folders(staging / relative)
    for relative in package.files():
        target = staging / relative
        make_folders(target.parent)
        if relative not in rewritten:
            copy_file(package.path / relative, target)
    with OutputFile(staging / model_file) as file:
        file.write(model.spec.SerializeToString(deterministic=True))


def other_nbytes(model: Model, weight_files: Iterable[Path]) -> int:
    """Bytes of all that :func:`write_other_files` would write."""
    package = model.package
    left = set(weight_files) | {package.model_path}
    files = (package.path / relative for relative in package.files())
    return model.spec.ByteSize() + sum(file.stat().st_size for file in files if file not in left)


def check_readable(staging: Path, destination: Path) -> None:
    """Read the package at ``staging`` as any reader would, before it takes the place of ``destination``. Raises
    PlanError when it cannot be opened: a program may nest as deep as readers go, and what was put into it deeper."""
    try:
        Model.open(staging).close()
    except PackageError as error:
        said = str(error).replace(str(staging), str(destination))
        raise PlanError(
            f"what was to be written could not be read again: {said}; nothing was put in place: leave the weights out "
            "that are nested deepest (op_name_configs: None)"
        ) from error


def folder_nbytes(folder: Path) -> int:
    """Bytes of all files of a package that was just written."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
