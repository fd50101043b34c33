"""Samples from pictures, read with Pillow and made as large as the model takes them: a folder, a list, one."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from mil_palettize.errors import ConfigError, EvaluationError, PackageError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.program.described_sizes import size_refusal
from mil_palettize.program.messages import FeatureTypes
from mil_palettize.text import format_count, shorten
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.features import GRAYSCALES
from mil_palettize.torch.made_up_inputs import default_shape, default_size
from mil_palettize.torch.pixels import Pixels, picture_size

_LONGEST = 200  # of a line of a list, where it is told
_NAMED = 3  # files that are named where some cannot be read
_KEPT = 1 << 28  # bytes of decoded pictures
_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)


def holds_pictures(source: str | os.PathLike[str]) -> bool:
    """Whether samples are read from it as pictures: a folder, and by its name a picture or a list of their paths."""
    path = Path(source)
    return path.is_dir() or path.suffix.lower() in _SUFFIXES or _is_list(path)


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def pictures(
    source: Path, module: Evaluated, pixels: Pixels | None = None
) -> tuple[Sequence[dict[str, np.ndarray]], list[str], list[str]]:
    """A sample for each picture of ``source``, uint8 (height, width) or (height, width, 3); what is to be said of them;
    and what each is called. For a model that takes an array ``pixels`` says what its numbers are.

    ``source``: a folder, with the folders in it, whose pictures come in the order of their paths, and are called by
    them; a text file that has the path of a picture, from its own folder, on each line; or a picture. One of a
    size that the model does not take is scaled until it covers the size of the description, and cut at the middle; one
    that does not decode is told of and passed over. All are decoded once before, and those beyond :data:`_KEPT` bytes
    again whenever they are asked for.

    Raises ConfigError without Pillow, EvaluationError for a model whose input is no picture, PackageError where there
    is none that can be read, and for a line that is no file.
    """
    taken = _taken(source, module, pixels)
    reader = _Reader(taken, *_pillow())
    listed, others = _listed(source, reader.image_class.registered_extensions())
    found, names, refused, resized, left = list[np.ndarray | Path](), [], [], 0, _KEPT
    for name, path in listed.items():
        try:
            values, fitted = reader.read(path)
        except _Undecodable:
            refused.append(name)
            continue
        left -= values.nbytes
        found.append(values if left >= 0 else path)
        names.append(name)
        resized += fitted
    if not found:
        raise PackageError(f"{source} has no picture that can be read; give a folder of images, a list, or an image")
    return _Pictures(found, reader), _notes(source, taken, resized, refused, others), names


def _listed(source: Path, suffixes: Collection[str]) -> tuple[dict[str, Path], int]:
    """Pictures by what they are called, and how many files are none."""
    if source.is_dir():
        files = {path.relative_to(source): path for path in sorted(source.rglob("*")) if path.is_file()}
        shown = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.parts)}
        listed = {name.as_posix(): path for name, path in shown.items() if path.suffix.lower() in suffixes}
        return listed, len(shown) - len(listed)
    return (_lines(source) if _is_list(source) else {source.name: source}), 0


def _lines(source: Path) -> dict[str, Path]:
    """Of a list. A picture that is listed twice is one sample."""
    refuse_pointer(source)
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {source}: {told}; it must have the path of an image on each line") from error
    listed = {line: source.parent / os.path.expanduser(line) for line in lines if line}
    lacking = [shorten(line, _LONGEST) for line, path in listed.items() if not os.path.isfile(path)]
    if lacking:
        raise PackageError(
            f"{source} lists {lacking[0]!r}, and there is no such file; paths are from the list's folder"
        )
    return listed


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


def _taken(source: Path, module: Evaluated, pixels: Pixels | None) -> _Taken:
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
        f"{source} is of pictures, and needs a model with one input that is an image; this one takes "
        f"{module.features.inputs_text()}: {advice}"
    )


class _Undecodable(Exception):
    """No picture."""


@dataclass(frozen=True)
class _Reader:
    """With Pillow's modules ``Image`` and ``ImageOps``."""

    taken: _Taken
    image_class: Any
    ops: Any

    def read(self, path: Path) -> tuple[np.ndarray, bool]:
        """What the model takes of it, and whether it had another size."""
        try:
            with self.image_class.open(path) as opened:
                picture = self.ops.exif_transpose(opened).convert("L" if self.taken.gray else "RGB")
        except (
            Exception
        ) as error:  # what Pillow's many readers raise: SyntaxError, zlib.error, DecompressionBombError, …
            raise _Undecodable from error
        fitted = self.taken.refuses(picture.height, picture.width)
        if fitted:
            size = self.taken.width, self.taken.height
            picture = self.ops.fit(picture, size, self.image_class.Resampling.BICUBIC)
        return self.taken.values(np.asarray(picture, np.uint8)), fitted


@dataclass(frozen=True)
class _Pictures(Sequence[dict[str, np.ndarray]]):
    """Samples, of which those that are paths are decoded when they are asked for."""

    kept: Sequence[np.ndarray | Path]
    reader: _Reader

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, np.ndarray]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, np.ndarray] | Sequence[dict[str, np.ndarray]]:
        if isinstance(index, slice):
            return _Pictures(self.kept[index], self.reader)
        kept = self.kept[index]
        try:
            values = self.reader.read(kept)[0] if isinstance(kept, Path) else kept
        except _Undecodable as error:
            raise PackageError(
                f"cannot read {kept}: it could be read before; run again with files that stay"
            ) from error
        return {self.reader.taken.name: values}


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ConfigError("this needs Pillow: pip install 'mil-palettize[images]'") from error
    Image.init()
    return Image, ImageOps


def _notes(source: Path, taken: _Taken, resized: int, refused: Sequence[str], others: int) -> list[str]:
    notes = []
    if resized:
        size = f"{taken.width}×{taken.height}"
        notes.append(f"{format_count(resized, 'image')} of {source} scaled and cut to {size}")
    if refused:
        more = ", …" if len(refused) > _NAMED else ""
        names = ", ".join(refused[:_NAMED])
        notes.append(f"{format_count(len(refused), 'image')} of {source} left out, cannot be read: {names}{more}")
    if others:
        notes.append(f"{format_count(others, 'file')} in {source} left out: no images by their names")
    return notes
