"""What people wrote down: mutants of more than one token (``named.yaml``), and those that change nothing that anyone
could see (``equivalent.yaml``)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.mutation.mutant import Mutant, key_of

_HERE = Path(__file__).parent


class ListError(Exception):
    """An entry that does not fit the sources any more."""


@dataclass(frozen=True)
class Equivalent:
    """``why`` a mutant is equivalent; the other fields are those of :class:`Mutant`."""

    file: str
    function: str
    before: str
    after: str
    why: str
    nth: int = 1

    @property
    def key(self) -> str:
        return key_of(self.file, self.function, self.before, self.after, self.nth)


def equivalents() -> list[Equivalent]:
    return [Equivalent(**entry) for entry in yaml.safe_load((_HERE / "equivalent.yaml").read_text(encoding="utf-8"))]


def reasons(mutants: Collection[Mutant]) -> dict[str, str]:
    """Why a mutant is equivalent, by its key. ``mutants``: all of some files. Raises ``ListError`` for an entry of one
    of these files that is no mutant's."""
    known, files = {mutant.key for mutant in mutants}, {mutant.file for mutant in mutants}
    found = [entry for entry in equivalents() if entry.file in files]
    for entry in found:
        if entry.key not in known:
            raise ListError(f"equivalent.yaml: there is no mutant {entry.key}; take the entry out, or write it anew")
    return {entry.key: entry.why for entry in found}


def named(root: Path) -> list[tuple[str, Mutant]]:
    """(what it does, mutant) of ``named.yaml``. Raises ``ListError`` where ``before`` stands not once in its file."""
    found = []
    for entry in yaml.safe_load((_HERE / "named.yaml").read_text(encoding="utf-8")):
        source = (root / entry["file"]).read_bytes()
        before = entry["before"].encode()
        if source.count(before) != 1:
            raise ListError(
                f"named.yaml: {entry['before']!r} stands {source.count(before)} times in {entry['file']}, not once"
            )
        first = source.index(before)
        mutant = Mutant.of(
            entry["file"], source, entry["function"], first, first + len(before), entry["after"].rstrip("\n")
        )
        found.append((entry["what"], mutant))
    return found
