"""What packages of the benchmark hold, and where. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Shape = tuple[int, int]
WEIGHT_FILE = "weights/weight.bin"
_ITEM_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Layout:
    """The weights of a package: (rows, columns) of each, where columns are the rows of the one before."""

    shapes: tuple[Shape, ...]
    dtype: str = "float16"

    @property
    def nbytes(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes) * _ITEM_BYTES[self.dtype]

    @property
    def text(self) -> str:
        kinds = " and ".join(f"{rows}x{columns}" for rows, columns in dict.fromkeys(self.shapes))
        return f"{len(self.shapes)} {self.dtype} weights of {kinds}, {self.nbytes / 1e6:.1f} MB"


def weight_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / WEIGHT_FILE
