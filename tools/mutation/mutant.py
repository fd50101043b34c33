"""One small change to one file, told by the lines it changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """``file``: from the root of the project on. ``function``: the qualified name of the innermost one, "" outside.
    ``first`` to ``last``: the bytes of the file that ``text`` replaces. ``before`` and ``after``: the lines that
    change, with single spaces and without comments. ``nth``: among those of the function that read the same."""

    file: str
    line: int
    function: str
    first: int
    last: int
    text: str
    before: str
    after: str
    nth: int = 1

    @classmethod
    def of(cls, file: str, source: bytes, function: str, first: int, last: int, text: str) -> Mutant:
        start = source.rfind(b"\n", 0, first) + 1
        end = source.find(b"\n", last)
        end = len(source) if end < 0 else end
        changed = source[start:first] + text.encode() + source[last:end]
        line = source.count(b"\n", 0, first) + 1
        return cls(file, line, function, first, last, text, _in_one_line(source[start:end]), _in_one_line(changed))

    @property
    def room(self) -> str:
        """``algorithms/compiled`` of ``mil_palettize/algorithms/compiled/solver.py``."""
        return Path(self.file).parent.as_posix().partition("/")[2]

    @property
    def key(self) -> str:
        """The same in a file whose other lines have changed."""
        return key_of(self.file, self.function, self.before, self.after, self.nth)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} → {self.after}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.first] + self.text.encode() + source[self.last :]


def key_of(file: str, function: str, before: str, after: str, nth: int) -> str:
    return f"{file} {function}: {before} → {after}" + (f" ({nth})" if nth > 1 else "")


def _in_one_line(text: bytes) -> str:
    lines = [line.partition("  # ")[0] for line in text.decode().splitlines()]
    return " ".join(" ".join(lines).split())
