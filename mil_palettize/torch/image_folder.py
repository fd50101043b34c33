"""Samples from a folder of pictures, read with Pillow and made as large as the model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError, EvaluationError, PackageError
from mil_palettize.text import format_count
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.features import GRAYSCALES, size_refusal
from mil_palettize.torch.made_up_inputs import default_size

_NAMED = 3  # files that are named where some cannot be read


def pictures(folder: Path, module: Evaluated) -> tuple[list[dict[str, np.ndarray]], list[str], list[str]]:
    """A sample for each picture in ``folder`` and the folders in it, in the order of their paths, uint8 (height, width)
    or (height, width, 3); what is to be said of them; and the path of each in ``folder``.

    One of a size that the model does not take is scaled until it covers the size of the description, and cut at the
    middle. Raises ConfigError without Pillow, EvaluationError for a model whose input is no picture, PackageError for a
    folder that has none that can be read.
    """
    name = _picture_input(folder, module)
    image_class, ops = _pillow()
    kind = module.features.inputs[name].type.imageType
    suffixes = image_class.registered_extensions()
    hidden = {path for path in folder.rglob("*") if any(p.startswith(".") for p in path.relative_to(folder).parts)}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path not in hidden)
    images = [path for path in paths if path.suffix.lower() in suffixes]
    found, names, refused, resized = [], [], [], 0
    for path in images:
        try:
            with image_class.open(path) as opened:
                picture = ops.exif_transpose(opened).convert("L" if kind.colorSpace in GRAYSCALES else "RGB")
        except Exception:  # whatever Pillow's many readers raise: SyntaxError, zlib.error, DecompressionBombError, …
            refused.append(path)
            continue
        if size_refusal(picture.height, picture.width, kind):
            height, width = default_size(kind)
            picture, resized = ops.fit(picture, (width, height), image_class.Resampling.BICUBIC), resized + 1
        found.append({name: np.asarray(picture, np.uint8)})
        names.append(path.relative_to(folder).as_posix())
    if not found:
        raise PackageError(f"{folder} has no picture that can be read; give a folder of images")
    return found, _notes(folder, kind, resized, refused, len(paths) - len(images)), names


def _picture_input(folder: Path, module: Evaluated) -> str:
    needed = [name for name in module.features.inputs if name not in module.features.defaults]
    if len(needed) != 1 or module.features.inputs[needed[0]].type.WhichOneof("Type") != "imageType":
        raise EvaluationError(
            f"{folder} is a folder, which needs a model with one input that is an image; this one takes "
            f"{module.features.inputs_text()}: save arrays by these names with numpy.savez"
        )
    return needed[0]


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ConfigError("a folder of images needs Pillow: pip install 'mil-palettize[images]'") from error
    Image.init()
    return Image, ImageOps


def _notes(folder: Path, kind: Any, resized: int, refused: Sequence[Path], others: int) -> list[str]:
    notes = []
    if resized:
        height, width = default_size(kind)
        notes.append(f"{format_count(resized, 'image')} of {folder} scaled and cut to {width}×{height}")
    if refused:
        more = ", …" if len(refused) > _NAMED else ""
        names = ", ".join(str(path.relative_to(folder)) for path in refused[:_NAMED])
        notes.append(f"{format_count(len(refused), 'image')} of {folder} left out, cannot be read: {names}{more}")
    if others:
        notes.append(f"{format_count(others, 'file')} in {folder} left out: no images by their names")
    return notes
