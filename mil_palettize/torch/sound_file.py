"""A file of sound as samples of a model that takes it."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.program.described_sizes import is_flexible
from mil_palettize.text import format_count
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.made_up_inputs import default_shape

_SUFFIXES = frozenset({".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"})
_TYPES: dict[int, type[np.integer[Any]]] = {1: np.uint8, 2: np.int16, 4: np.int32}  # by bytes


def is_sound(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in _SUFFIXES


def windows(path: Path, module: Evaluated, name: str) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """The sound of a file, a ``.wav`` of integers (PCM) or what soundfile reads, float32 from -1 to 1, its channels
    averaged, for the input ``name``: cut into windows of the length that the model takes, one after the other; and what
    is to be said of that. What is left at the end is left out, and a sound that is shorter than a window filled with
    zeros. A model whose length is free takes all of it at once. Nothing is resampled: models do not say what rate they
    take.

    Raises PackageError for a file that is none, or not that ``.wav`` and soundfile is not there, EvaluationError for an
    input that no sound fits.
    """
    shape = _shape(path, module, name)
    sound, rate = _read(path)
    flexible = is_flexible(module.features.inputs[name].type.multiArrayType)
    length = len(sound) if flexible else max(shape)
    count = max(1, len(sound) // length)
    filled = np.concatenate([sound, np.zeros(max(0, length - len(sound)), np.float32)])
    place = tuple(length if size == max(shape) else size for size in shape)
    found = [{name: filled[i * length : (i + 1) * length].reshape(place)} for i in range(count)]
    told = f"{path}: {format_count(count, 'window')} of {length} values at {rate} Hz, not resampled"
    if len(sound) < length:
        return found, [f"{told}; {length - len(sound)} zeros added"]
    left = len(sound) - count * length
    return found, [f"{told}; the last {left} left out" if left else told]


def _shape(path: Path, module: Evaluated, name: str) -> tuple[int, ...]:
    kind = module.features.inputs[name].type
    shape = default_shape(kind.multiArrayType) if kind.WhichOneof("Type") == "multiArrayType" else ()
    if sum(size > 1 for size in shape) != 1:
        raise EvaluationError(
            f"{path} is sound, which needs a model with one input of one axis; this one takes "
            f"{module.features.inputs_text()}"
        )
    return shape


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Values of the mean of all channels, and how many there are in a second."""
    refuse_pointer(path)
    try:
        return _integers(path)
    except (wave.Error, EOFError) as error:  # floats, or another kind of file
        found, rate = _decoded(path, str(error) or "it ends too early")
    if not found.size:
        raise EvaluationError(f"{path} holds no sound")
    return found.mean(axis=1, dtype=np.float64).astype(np.float32), rate


def _decoded(path: Path, refusal: str) -> tuple[np.ndarray, int]:
    """(values, channels) and the rate, by soundfile. ``refusal``: why the standard library does not read it."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the latter without the library that it is for
        raise PackageError(
            f"cannot read {path}: {refusal}; it must be a .wav file of integers (PCM), or give others with soundfile: "
            "pip install 'mil-palettize[audio]'"
        ) from error
    try:
        found, rate = soundfile.read(path, dtype="float64", always_2d=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        told = " ".join(str(error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a file of sound") from error
    return found, int(rate)


def _integers(path: Path) -> tuple[np.ndarray, int]:
    """Of a ``.wav`` file; wave.Error or EOFError where it is of another kind."""
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            if width not in (*_TYPES, 3):
                raise ValueError(f"its values take {width} bytes each")
            data = file.readframes(file.getnframes())
    except (OSError, ValueError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a .wav file of integers (PCM)") from error
    data = data[: len(data) // (width * channels) * width * channels]
    if not data:
        raise EvaluationError(f"{path} holds no sound")
    return _floats(data, width).reshape(-1, channels).mean(axis=1, dtype=np.float64).astype(np.float32), rate


def _floats(data: bytes, width: int) -> np.ndarray:
    """Integers of ``width`` bytes, in float64 from -1 to 1; those of one byte have their zero at 128."""
    if width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view("<i4") / 2.0**31
    values = np.frombuffer(data, np.dtype(_TYPES[width]).newbyteorder("<"))
    return (values - 128.0) / 128 if width == 1 else values / 2.0 ** (8 * width - 1)
