"""Pictures of what a model gives: images, and boxes on the image that they were found in."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np

_LARGEST = 384  # pixels of the longer side that are shown


@dataclass(frozen=True)
class OutputPicture:
    """An output that is an image, of the sample (from 0 on) that differs most. Arrays are uint8 (height, width) or
    (height, width, 3). ``gain``: what the difference is multiplied by, to be seen."""

    name: str
    sample: int
    before: np.ndarray
    after: np.ndarray
    difference: np.ndarray
    gain: float


@dataclass(frozen=True)
class Box:
    """A detection, in shares of the picture's width and height; ``text``: its class and confidence."""

    left: float
    top: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Detections:
    """Boxes in the sample (from 0 on) of which both models have least in common. ``picture``: the image they are of,
    uint8 (height, width) or (height, width, 3), None for models that take none."""

    sample: int
    before: tuple[Box, ...]
    after: tuple[Box, ...]
    picture: np.ndarray | None = None


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (height, width) or (height, width, 3) as a PNG in a text; large ones with fewer pixels."""
    step = -(-max(pixels.shape[:2]) // _LARGEST)
    rows = np.ascontiguousarray(pixels[::step, ::step])
    height, width = rows.shape[:2]
    lines = np.zeros((height, 1 + rows[0].size), np.uint8)  # each begins with its filter, none
    lines[:, 1:] = rows.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if rows.ndim == 3 else 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
