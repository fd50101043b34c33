"""Changes the library a little, many times, and says which changes no test notices.

``python -m tools.mutation --sample 300`` tries 300 of all mutants of ``algorithms``, ``encoding`` and ``planning``,
stratified by file, before the tests that concern them; ``--minutes 60`` ends after an hour, and ``--resume state.json``
goes on where a run with that file ended. The mutants of ``named.yaml`` come first. Nothing is changed in place: mutants
live in a copy. Survivors that ``equivalent.yaml`` argues away are not tried. Exit code 1 with any survivor.

Written here and not taken: mutmut wraps each function in one that chooses a mutant, which numba cannot compile;
cosmic-ray changes files in place, and knows nothing of loops that need not be compiled again.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.mutation.lists import ListError, named, reasons
from tools.mutation.mutant import Mutant
from tools.mutation.operators import mutants_of
from tools.mutation.reach import ReachError, reach_of
from tools.mutation.results import Results
from tools.mutation.sampling import in_turns
from tools.mutation.tree import Tree
from tools.mutation.trial import SURVIVED, UNREACHED, load_heavy, tried

PROJECT = Path(__file__).resolve().parents[2]
ROOMS = ("algorithms", "encoding", "planning")
_SURVIVORS = (SURVIVED, UNREACHED)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__.splitlines()[0])
    paths = [f"mil_palettize/{room}" for room in ROOMS]
    parser.add_argument("--paths", nargs="+", default=paths, metavar="PATH", help="folders or files to change")
    parser.add_argument(
        "--tests", nargs="+", default=[f"tests/{room}" for room in ROOMS], metavar="PATH", help="those that may kill"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="try so many mutants [all]")
    parser.add_argument("--seed", type=int, default=0, help="of the sample [0]")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="stop after so many")
    parser.add_argument("--most", type=float, default=60, metavar="S", help="seconds of tests for each mutant [60]")
    parser.add_argument("--resume", type=Path, metavar="JSON", help="what was done before, and now")
    parser.add_argument("--again", action="store_true", help="with --resume: only what survived, as tests may be new")
    options = parser.parse_args()
    for path in (*options.paths, *options.tests):
        if not (PROJECT / path).exists():
            parser.error(f"{path} is not there; give folders or files, from {PROJECT} on")
    if options.again and options.resume is None:
        parser.error("--again tries what survived before, which is in the file of --resume; give that too")
    return options


@contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    """Where mutants live: beside the state, so that loops need not be compiled again, else for this run alone."""
    if state is not None:
        folder = state.resolve().with_name(f"{state.name}.work")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="mutation-") as name:
            yield Path(name)


def _tests(tree: Tree, paths: list[str]) -> list[str]:
    """All files of tests."""
    found = [tree.root / path for path in paths]
    files = {file for path in found for file in ([path] if path.is_file() else path.rglob("test_*.py"))}
    return sorted(file.relative_to(tree.root).as_posix() for file in files)


def _chosen(options: argparse.Namespace, every: list[Mutant], first: list[Mutant], results: Results) -> list[Mutant]:
    """What is to be tried now, in order."""
    sample = in_turns(every, options.seed)[: options.sample]
    wanted = [*first, *sample]
    if options.again:
        return [m for m in wanted if m.key in results.verdicts and results.verdicts[m.key].outcome in _SURVIVORS]
    return [mutant for mutant in wanted if mutant.key not in results.verdicts]


def main() -> int:
    options = _options()
    until = time.monotonic() + 60 * options.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with the child, and without the copy
    results = Results(options.resume)
    load_heavy()
    with _folder(options.resume) as folder:
        tree = Tree(PROJECT, folder)
        every = [mutant for file in tree.files(options.paths) for mutant in mutants_of(file, tree.source(file))]
        if not every:
            raise SystemExit(f"nothing to change in {', '.join(options.paths)}")
        argued = reasons(every)
        wanted = [(what, mutant) for what, mutant in named(tree.root) if mutant.file in tree.files(options.paths)]
        of_name, first = {mutant.key: what for what, mutant in wanted}, [mutant for _, mutant in wanted]
        every = [mutant for mutant in every if mutant.key not in of_name]
        chosen = [one for one in _chosen(options, every, first, results) if one.key not in argued]
        reach = reach_of(tree, _tests(tree, options.tests), folder / "traces.json")
        sound = tree.sound_loops()
        for mutant in chosen:
            if time.monotonic() > until:
                break
            started = time.monotonic()
            verdict = tried(tree, reach, sound, mutant, options.most)
            results.verdicts[mutant.key] = verdict
            results.keep()
            what = f" [{of_name[mutant.key]}]" if mutant.key in of_name else ""
            print(f"{mutant}{what}: {verdict}, {time.monotonic() - started:.0f} s", flush=True)
    sample = [*first, *in_turns(every, options.seed)[: options.sample]]
    survivors = [m for m in sample if m.key in results.verdicts and results.verdicts[m.key].outcome in _SURVIVORS]
    survivors = [mutant for mutant in survivors if mutant.key not in argued]
    print("\n".join(["", "Survivors:", *(str(mutant) for mutant in survivors)] if survivors else ["", "No survivors."]))
    print(results.table([*first, *every], argued))
    return 1 if survivors else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ListError, ReachError) as error:
        sys.exit(str(error))
