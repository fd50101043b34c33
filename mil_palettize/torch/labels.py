"""Right classes of samples, as people have them: a table of pictures, a column, an array."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.text import format_count
from mil_palettize.torch.array_files import load_arrays
from mil_palettize.torch.samples import Samples

_ADVICE = "give a .csv file of labels, or a .npy file of class numbers"
_HEADERS = (
    "file", "filename", "image", "picture", "path", "name", "id", "label", "labels", "class", "classes", "target"
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """``of_samples``: what each sample is: a class by name or number, or an array of numbers for rows of logits.
    ``notes``: on how they were read."""

    of_samples: Sequence[Any]
    notes: Sequence[str] = ()


def labels_for(source: Any, samples: Samples) -> Labels:
    """``source``: a ``.csv`` file of labels in the order of the samples, or of ``picture,label`` (with or without a
    line of headings); a ``.npy`` file (or ``.npz`` of one array) with a label for each sample along its first axis; or
    a sequence of labels.

    Raises PackageError for a file that cannot be read, EvaluationError for labels that are not those of the samples.
    """
    if not isinstance(source, str | os.PathLike):
        return Labels(_counted("the labels", list(source), samples))
    path = Path(source)
    if path.suffix.lower() != ".csv":
        return Labels(_counted(str(path), _array(path), samples))
    rows = _rows(path)
    if len(rows[0]) == 1:
        return Labels(_counted(str(path), [row[0] for row in rows], samples))
    return _of_pictures(path, {row[0]: row[1] for row in rows}, samples)


def class_number(label: Any, classes: Sequence[Any], output: str) -> int:
    """The place of a label among ``classes``: by its name, else it is the number of the place. Raises EvaluationError
    for one that is none."""
    names = [str(one) for one in classes]
    text = str(np.asarray(label).reshape(-1)[0]) if np.size(label) == 1 else str(label)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    some = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    raise EvaluationError(f"the label {text!r} is no class of output {output!r}; there are {len(names)}: {some}")


def _array(path: Path) -> list[Any]:
    found = load_arrays(path, _ADVICE)
    arrays = [found] if isinstance(found, np.ndarray) else list(found.values())
    if len(arrays) != 1 or arrays[0].dtype.kind not in "iuU" or not arrays[0].ndim:
        raise PackageError(f"{path} is no list of labels; give one array of whole numbers or of text, or a .csv file")
    return list(arrays[0])


def _rows(path: Path) -> list[list[str]]:
    """Without headings; each of one cell or of two."""
    refuse_pointer(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, ValueError, csv.Error) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a .csv file of labels") from error
    if rows and rows[0][0].lower() in _HEADERS:
        del rows[0]
    wrong = [row for row in rows if len(row) not in (1, 2) or len(row) != len(rows[0])]
    if wrong or not rows:
        told = f"it has the row {','.join(wrong[0])!r}" if wrong else "it is empty"
        raise PackageError(f"cannot read {path}: {told}; each row must be a label, or a picture and its label")
    return rows


def _counted(whose: str, labels: list[Any], samples: Samples) -> list[Any]:
    if len(labels) != len(samples):
        counts = f"{format_count(len(labels), 'label')} for {format_count(len(samples), 'sample')}"
        raise EvaluationError(f"{whose} has {counts}; give one for each, in their order")
    return labels


def _of_pictures(path: Path, labels: Mapping[str, str], samples: Samples) -> Labels:
    """By the picture's path in its folder, or by its name alone."""
    if not samples.names:
        raise EvaluationError(f"{path} names pictures, and the samples are none: give a folder of them, or only labels")
    found = [labels.get(name, labels.get(PurePosixPath(name).name)) for name in samples.names]
    lacking = [name for name, label in zip(samples.names, found, strict=True) if label is None]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise EvaluationError(f"{path} has no label for {lacking[0]}{more}; each picture needs one")
    used = {name for full in samples.names for name in (full, PurePosixPath(full).name)}
    others = len(labels.keys() - used)
    notes = [f"{format_count(others, 'label')} of {path} left out: of pictures that are not there"] if others else []
    return Labels(found, notes)
