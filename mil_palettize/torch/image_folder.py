"""Samples from a folder of pictures, read with Pillow and made as large as the model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError, EvaluationError, PackageError
from mil_palettize.program.described_sizes import size_refusal
from mil_palettize.program.messages import FeatureTypes
from mil_palettize.text import format_count
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.features import GRAYSCALES
from mil_palettize.torch.made_up_inputs import default_shape, default_size
from mil_palettize.torch.pixels import Pixels, picture_size

_NAMED = 3  # files that are named where some cannot be read


def pictures(
    folder: Path, module: Evaluated, pixels: Pixels | None = None
) -> tuple[list[dict[str, np.ndarray]], list[str], list[str]]:
    """A sample for each picture in ``folder`` and the folders in it, in the order of their paths, uint8 (height, width)
    or (height, width, 3); what is to be said of them; and the path of each in ``folder``. For a model that takes an
    array ``pixels`` says what its numbers are.

    One of a size that the model does not take is scaled until it covers the size of the description, and cut at the
    middle. Raises ConfigError without Pillow, EvaluationError for a model whose input is no picture, PackageError for a
    folder that has none that can be read.
    """
    taken = _taken(folder, module, pixels)
    image_class, ops = _pillow()
    suffixes = image_class.registered_extensions()
    hidden = {path for path in folder.rglob("*") if any(p.startswith(".") for p in path.relative_to(folder).parts)}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path not in hidden)
    images = [path for path in paths if path.suffix.lower() in suffixes]
    found, names, refused, resized = [], [], [], 0
    for path in images:
        try:
            with image_class.open(path) as opened:
                picture = ops.exif_transpose(opened).convert("L" if taken.gray else "RGB")
        except Exception:  # whatever Pillow's many readers raise: SyntaxError, zlib.error, DecompressionBombError, …
            refused.append(path)
            continue
        if taken.refuses(picture.height, picture.width):
            size = taken.width, taken.height
            picture, resized = ops.fit(picture, size, image_class.Resampling.BICUBIC), resized + 1
        found.append({taken.name: taken.values(np.asarray(picture, np.uint8))})
        names.append(path.relative_to(folder).as_posix())
    if not found:
        raise PackageError(f"{folder} has no picture that can be read; give a folder of images")
    return found, _notes(folder, taken, resized, refused, len(paths) - len(images)), names


@dataclass(frozen=True)
class _Taken:
    """What the input ``name`` takes. ``image``: its description where it is an image; else ``pixels`` and ``shape``
    say what its array is."""

    name: str
    height: int
    width: int
    gray: bool
    image: FeatureTypes.ImageFeatureType | None = None
    pixels: Pixels | None = None
    shape: tuple[int, ...] = ()

    def refuses(self, height: int, width: int) -> bool:
        if self.image is not None:
            return bool(size_refusal(height, width, self.image))
        return (height, width) != (self.height, self.width)

    def values(self, picture: np.ndarray) -> np.ndarray:
        return picture if self.pixels is None else self.pixels.array(picture, self.shape)


def _taken(folder: Path, module: Evaluated, pixels: Pixels | None) -> _Taken:
    needed = [name for name in module.features.inputs if name not in module.features.defaults]
    kind = module.features.inputs[needed[0]].type if len(needed) == 1 else None
    if kind is not None and kind.WhichOneof("Type") == "imageType":
        if pixels is not None:
            raise ConfigError(
                f"input {needed[0]!r} is an image, which models scale themselves; leave mean and scale out"
            )
        height, width = default_size(kind.imageType)
        return _Taken(needed[0], height, width, kind.imageType.colorSpace in GRAYSCALES, image=kind.imageType)
    if kind is not None and pixels is not None and kind.WhichOneof("Type") == "multiArrayType":
        shape = default_shape(kind.multiArrayType)
        height, width, channels = picture_size(shape)
        if channels:
            return _Taken(needed[0], height, width, channels == 1, pixels=pixels, shape=shape)
    advice = "save arrays by these names with numpy.savez"
    if kind is not None and pixels is None:
        advice += ", or say with --image-mean and --image-scale what becomes of pixels"
    raise EvaluationError(
        f"{folder} is a folder, which needs a model with one input that is an image; this one takes "
        f"{module.features.inputs_text()}: {advice}"
    )


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ConfigError("a folder of images needs Pillow: pip install 'mil-palettize[images]'") from error
    Image.init()
    return Image, ImageOps


def _notes(folder: Path, taken: _Taken, resized: int, refused: Sequence[Path], others: int) -> list[str]:
    notes = []
    if resized:
        size = f"{taken.width}×{taken.height}"
        notes.append(f"{format_count(resized, 'image')} of {folder} scaled and cut to {size}")
    if refused:
        more = ", …" if len(refused) > _NAMED else ""
        names = ", ".join(str(path.relative_to(folder)) for path in refused[:_NAMED])
        notes.append(f"{format_count(len(refused), 'image')} of {folder} left out, cannot be read: {names}{more}")
    if others:
        notes.append(f"{format_count(others, 'file')} in {folder} left out: no images by their names")
    return notes
