"""Where the time of a palettization goes: the library's own functions are timed from outside, on one thread.

Each moment counts for the innermost timed function only, so that the parts add up to the whole. A function is replaced
where it is looked up when called, never where compiled code may look for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

OTHER = "other"
# Part -> "module:attribute" of what is timed for it. The encode_ functions pack what they assign; the part "program"
# is what is done to the parsed messages: find the constants, plan, put palettes in their places.
PARTS: dict[str, tuple[str, ...]] = {
    "read": ("os:preadv",),
    "histogram": (
        "mil_palettize.algorithms.distribution:_describe_half",
        "mil_palettize.algorithms.distribution:_describe_few_halves",
        "mil_palettize.algorithms.distribution:_describe_sorted",
        "mil_palettize.algorithms.distribution:_describe_distinct",
        "mil_palettize.algorithms.distribution:_describe_cells",
        "mil_palettize.algorithms.scalar.grouped:_sample_half",
        "mil_palettize.algorithms.scalar.grouped:_sample_single",
    ),
    "solve": (
        "mil_palettize.algorithms.scalar.kmeans:optimal_centers_of_groups",
        "mil_palettize.algorithms.scalar.per_tensor:stored_tables",
        "mil_palettize.algorithms.scalar.grouped:stored_tables",
    ),
    "assign": (
        "mil_palettize.algorithms.scalar.per_tensor:nearest_sorted",
        "mil_palettize.algorithms.scalar.per_tensor:encode_patterns",
        "mil_palettize.algorithms.scalar.per_tensor:encode_single",
        "mil_palettize.algorithms.scalar.grouped:assign_patterns",
        "mil_palettize.algorithms.scalar.grouped:assign_single",
    ),
    "pack": ("mil_palettize.algorithms.scalar.grouped:pack_all",),
    "digest": ("mil_palettize.encoding.results:expression_digest",),
    "write": ("mil_palettize.package.blob:BlobWriter._append", "os:pwrite"),
    "sync": ("os:fsync",),
    "protobuf": (
        "mil_palettize.program.model:parse_model",
        "mil_palettize.rewriting.palette_writer:write_other_files",  # serializes; copies a manifest besides
    ),
    "program": (
        "mil_palettize.program.model:Model.blob_uses",
        "mil_palettize.program.model:Model.survey",
        "mil_palettize.program.store:Store.check",
        "mil_palettize.rewriting.palettization:make_plan",
        "mil_palettize.rewriting.palettization:complete",
        "mil_palettize.rewriting.palette_writer:PaletteWriter.__init__",
        "mil_palettize.rewriting.palette_writer:PaletteWriter._put_palettes",
    ),
}


class Profile:
    """Seconds of each part; ``OTHER`` is what is in none. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = dict.fromkeys((*PARTS, OTHER), 0.0)
        self._clock = clock
        self._part = OTHER
        self._since = clock()

    def _switch(self, part: str) -> str:
        """Count for ``part`` from now on; gives the part until now."""
        now = self._clock()
        self.seconds[self._part] += now - self._since
        before, self._part, self._since = self._part, part, now
        return before

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time counted for ``part`` but for what timed functions it calls take."""

        def call(*arguments: Any, **options: Any) -> Any:
            before = self._switch(part)
            try:
                return function(*arguments, **options)
            finally:
                self._switch(before)

        return wraps(function)(call)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time everything in the block. Raises AttributeError for a function the library has no more."""
        places = [(part, *place_of(target)) for part, targets in PARTS.items() for target in targets]
        originals = [(owner, name, getattr(owner, name)) for _, owner, name in places]
        try:
            for part, owner, name in places:
                setattr(owner, name, self.timed(part, getattr(owner, name)))
            self._part, self._since = OTHER, self._clock()
            yield
            self._switch(OTHER)
        finally:
            for owner, name, function in originals:
                setattr(owner, name, function)


def place_of(target: str) -> tuple[Any, str]:
    """The module or class that ``module:attribute`` or ``module:Class.attribute`` is looked up in, and the name."""
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner: Any = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    return owner, name
