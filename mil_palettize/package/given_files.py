"""What people give as samples and as Python files, looked for before anything heavy is imported to read it."""

from __future__ import annotations

import os
from pathlib import Path

from mil_palettize.errors import PackageError
from mil_palettize.text import python_name


def check_samples_exist(source: str | os.PathLike[str]) -> None:
    """Raise PackageError where nothing is at ``source`` that samples could be read from (see ``read_samples``)."""
    if python_name(os.fspath(source)) is not None:
        check_python_file(os.fspath(source))
    elif not os.path.exists(source):
        raise PackageError(
            f"cannot read {source}: there is no such file or folder; samples are a .npz, .npy, .jsonl or .wav "
            "file, an image, a folder of images or a .txt list of them, or FILE.py:NAME"
        )


def is_reference(path: str | os.PathLike[str]) -> bool:
    """Whether what is compared with is a file of outputs, and no package: by its name."""
    return Path(path).suffix.lower() in (".npz", ".npy")


def check_reference_exists(path: str | os.PathLike[str]) -> None:
    """Raise PackageError where there is no such file of outputs."""
    if not Path(path).is_file():
        raise PackageError(
            f"cannot read {path}: there is no such file; give a .npz or .npy file of outputs, or a package"
        )


def check_labels_exist(path: object) -> None:
    """Raise PackageError where ``path`` is one, and there is no such file."""
    if isinstance(path, str | os.PathLike) and not Path(path).is_file():
        raise PackageError(f"cannot read {path}: there is no such file; labels are a .csv, .npy, .npz or .json file")


def check_python_file(text: str) -> None:
    """Raise PackageError where ``text`` is FILE.py:NAME and there is no FILE.py."""
    named = python_name(text)
    if named is not None and not (path := Path(os.path.expanduser(named[0]))).is_file():
        raise PackageError(f"cannot read {path}: there is no such file; give FILE.py:NAME")
