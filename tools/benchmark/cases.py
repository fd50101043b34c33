"""What the benchmark measures: packages, and what is asked for of each. Imports nothing heavy before one is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.benchmark.layouts import Layout

# The small constants: half of them have 2025 elements and half 2070, next to the threshold of 2048.
_CYCLE = ((45, 45), (46, 45), (45, 46), (45, 45))
LAYOUTS = {
    "eight": Layout(((4096, 1024), (1024, 4096)) * 4),
    "single": Layout(((1000, 1000),), "float32"),
    "small": Layout(_CYCLE * 500),
    "600 MB": Layout(((4096, 4096),) * 18),
    "2.4 GB": Layout(((4096, 4096),) * 72),
}
QUICK_LAYOUTS = {
    "eight": Layout(((512, 256), (256, 512))),
    "single": Layout(((200, 200),), "float32"),
    "small": Layout(_CYCLE * 5),
    "600 MB": Layout(((512, 512),) * 4),
    "2.4 GB": Layout(((512, 512),) * 16),
}
# Palettized first, so that every loop a case needs is compiled: more elements than the library treats as few, and less.
WARM_UP = {name: Layout(((256, 256), (64, 256)), name) for name in ("float16", "float32")}


@dataclass(frozen=True)
class Case:
    """One comparison. ``options``: of ``OpPalettizerConfig``. ``target``: what is hoped for, in words.

    ``once``: coremltools takes long and runs once only. ``bounded``: the error is held against the least possible too.
    """

    title: str
    layout: str
    options: dict[str, Any]
    target: str
    once: bool = False
    bounded: bool = False


def _groups(size: int) -> dict[str, Any]:
    return {"nbits": 4, "granularity": "per_grouped_channel", "group_size": size}


CASES = {
    "tensor4": Case("4 bits per tensor", "eight", {"nbits": 4}, "25x"),
    "tensor8": Case("8 bits per tensor", "eight", {"nbits": 8}, "80x"),
    "groups16": Case("4 bits, groups of 16", "eight", _groups(16), "100x"),
    "groups4": Case("4 bits, groups of 4", "eight", _groups(4), "300x", once=True),
    "single8": Case("one float32 matrix, 8 bits", "single", {"nbits": 8}, "40x (300x)", bounded=True),
    "small": Case("small constants, 4 bits", "small", {"nbits": 4}, "under 1 s", once=True),
}
QUICK_CASES = ("tensor4", "groups16")
QUICK_PROFILES = ("tensor4", "groups16", "single8", "small")


@dataclass
class Packages:
    """Packages in ``folder``, each made when it is first asked for."""

    folder: Path
    layouts: dict[str, Layout]
    _made: dict[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self._package(name, self.layouts[name])

    def warm_up(self, name: str) -> Path:
        """A little package of the same dtype."""
        dtype = self.layouts[name].dtype
        return self._package(f"warm-{dtype}", WARM_UP[dtype])

    def _package(self, name: str, layout: Layout) -> Path:
        from tools.benchmark.packages import write_package

        if name not in self._made:
            path = self.folder / f"{name.replace(' ', '-')}.mlpackage"
            write_package(path, layout)
            self._made[name] = path
        return self._made[name]
