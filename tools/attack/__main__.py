"""Attacks the library and says what falls.

``python -m tools.attack --seconds 60`` mutates packages and all that goes with them, and kills runs, for a minute;
``--mutations 20000 --kills 2000`` is a campaign. The same numbers do the same wherever they run. A violation is one
line, which ends in the option that replays it: ``python -m tools.attack --replay FAMILY:NUMBER``. Exit code 1 with any.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from tools.attack.cases import Case, Outcome, Play
from tools.attack.children import Pool
from tools.attack.families import FAMILIES, SHARES
from tools.attack.kills import SCENARIOS, play_kill
from tools.attack.tracing import can_trace
from tools.attack.warming import warm_up

KILL_SHARE = 4  # without counts: mutations for each kill


class Tally:
    """What came of all cases, by family."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.violations = 0

    def add(self, case: Case, outcome: Outcome) -> None:
        row = self.rows.setdefault(case.family, [0, 0, 0, 0])
        for index, count in enumerate((1, outcome.succeeded, outcome.refused, len(outcome.violations))):
            row[index] += count
        for what in outcome.violations:
            self.violations += 1
            print(f"VIOLATION {what} --replay '{case}'", flush=True)

    def table(self) -> str:
        lines = [
            "| attacked | cases | verbs that succeeded | refused in one line | violations |",
            "|---|---|---|---|---|",
        ]
        order = [name for name in (*FAMILIES, *SCENARIOS) if name in self.rows]
        for name in order:
            lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in self.rows[name]) + " |")
        total = [sum(row[i] for row in self.rows.values()) for i in range(4)]
        return "\n".join([*lines, "| all | " + " | ".join(f"{count:,}" for count in total) + " |"])


def _mutations(first: int, only: str | None) -> Iterator[Case]:
    """In turn, each family by its share; numbers from ``first`` up."""
    shares = {name: share for name, share in SHARES.items() if name in FAMILIES and only in (None, name)}
    numbers = {name: itertools.count(first) for name in shares}
    owed = dict.fromkeys(shares, 0.0)
    while True:
        for name, share in shares.items():
            owed[name] += share / sum(shares.values())
        name = max(owed, key=lambda one: owed[one])
        owed[name] -= 1
        yield Case(name, next(numbers[name]))


def _kills(first: int, only: str | None) -> Iterator[Case]:
    for number in itertools.count(first):
        for name in SCENARIOS:
            if only in (None, name):
                yield Case(name, number)


def _mixed(mutations: Iterator[Case], kills: Iterator[Case]) -> Iterator[Case]:
    while True:
        yield from itertools.islice(mutations, KILL_SHARE)
        yield from itertools.islice(kills, 1)


def _chosen(options: argparse.Namespace) -> Iterator[Case]:
    if options.replay:
        return iter([Case.parse(options.replay)])
    kinds = (options.only in (None, *FAMILIES), options.only in (None, *SCENARIOS))
    mutations, kills = _mutations(options.first, options.only), _kills(options.first, options.only)
    if options.mutations is None and options.kills is None:
        return _mixed(mutations, kills) if all(kinds) else (mutations if kinds[0] else kills)
    return itertools.chain(
        itertools.islice(mutations, options.mutations or 0), itertools.islice(kills, options.kills or 0)
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.attack", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="stop after so many, whatever is left [60 without counts]")
    parser.add_argument("--mutations", type=int, help="how many damaged packages and files")
    parser.add_argument("--kills", type=int, help="how many runs that are killed")
    parser.add_argument("--first", type=int, default=0, help="number to begin with; others than before are other cases")
    parser.add_argument("--only", choices=(*FAMILIES, *SCENARIOS), help="one family")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="children at a time [all processors]")
    parser.add_argument(
        "--folder", type=Path, help="where cases are played [memory, where there is a file system of it]"
    )
    parser.add_argument("--replay", metavar="FAMILY:NUMBER", help="one case again")
    return parser.parse_args()


def main() -> int:
    options = _options()
    warnings.simplefilter("ignore")
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    memory = Path("/dev/shm")
    tempfile.tempdir = str(options.folder or (memory if os.access(memory, os.W_OK) else tempfile.gettempdir()))
    counted = options.mutations is not None or options.kills is not None or options.replay
    seconds = options.seconds if options.seconds is not None else (float("inf") if counted else 60.0)
    warm_up()  # on a machine that is busy, longer than all that follows
    until = time.monotonic() + seconds
    tally = Tally()
    plays: dict[str, Play] = {**FAMILIES, **dict.fromkeys(SCENARIOS, play_kill)}
    started = time.monotonic()
    Pool(plays, 1 if options.replay else options.jobs, tally.add).play(_chosen(options), until)
    print(tally.table())
    print(f"kills at {'system calls' if can_trace() else 'operations of Python: system calls cannot be seen here'}")
    print(f"{tally.violations} violations, {time.monotonic() - started:.0f} seconds on {options.jobs} processes")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
