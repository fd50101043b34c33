"""The mutation tool: what it changes, which tests it asks, and that a test that looks kills what a test that does not
look lets live."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tools.mutation.__main__ import main
from tools.mutation.children import in_child
from tools.mutation.lists import ListError, equivalents, named, reasons
from tools.mutation.mutant import Mutant
from tools.mutation.operators import mutants_of
from tools.mutation.results import Results
from tools.mutation.sampling import in_turns
from tools.mutation.trial import KILLED, SURVIVED, UNREACHED, Verdict

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("algorithms", "encoding", "planning")
    for path in (ROOT / "mil_palettize" / room).rglob("*.py")
)


def changes(source: str) -> list[tuple[str, str]]:
    return [(mutant.before, mutant.after) for mutant in mutants_of("m.py", textwrap.dedent(source).encode())]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = b < c", ["a = b <= c"]),
        ("a = b < c <= d", ["a = b <= c <= d", "a = b < c < d"]),
        ("a = b is not None", ["a = b is None"]),
        ("a = (b) + (c * 2)", ["a = (b) - (c * 2)", "a = (b) + (c / 2)", "a = (b) + (c * 3)"]),
        ("a = b ** c", ["a = b * c"]),
        ("a = not b", ["a = (b)"]),
        ("a = -b", ["a = (b)"]),
        ("a = b and c or d", ["a = b or c or d", "a = b and c and d"]),
        ("a = np.minimum(b, c)", ["a = np.maximum(b, c)"]),
        ("a = f(b, c)", ["a = f(c, b)"]),
        ("a = f(b, b)", []),
        ("a = f(b, 'left')", ["a = f('left', b)", 'a = f(b, "right")']),
        ("a = 'é' if b else True", ["a = 'é' if (not (b)) else True", "a = 'é' if b else False"]),
        ("a[b] = c", ["pass"]),
        ("a += b", ["a -= b", "pass"]),
        ("f(a)", ["pass"]),
        ("raise E(a + 1)", ["pass"]),
        ("return_ = f'{a + 1}'", []),
        ("logger.warning('a', 1)", []),
        ("assert a < b", []),
        ("a: int | None = 1", ["a: int | None = 2"]),
        ("f(a)  # as told", ["pass"]),
    ],
)
def test_what_is_changed(before: str, after: list[str]) -> None:
    assert Counter(changes(before)) == Counter((before.partition("  #")[0], one) for one in after)


def test_functions_are_named_and_their_headers_left_alone() -> None:
    source = b'''
class A:
    @decorated(1)
    def f(self, x: int | None, y=1) -> tuple[int, int]:
        """1 + 1"""
        def g():
            return x, y
        if g():
            return y, (
                x
            )
'''
    found = mutants_of("m.py", source)
    assert [(mutant.function, mutant.line, mutant.after) for mutant in found] == [
        ("A.f", 4, "def f(self, x: int | None, y=2) -> tuple[int, int]:"),
        ("A.f.<locals>.g", 7, "return y, x"),
        ("A.f", 8, "if (not (g())):"),
        ("A.f", 9, "return x, ( y"),
    ]
    for mutant in found:
        compile(mutant.applied(source), "m.py", "exec")


def test_every_mutant_of_the_library_can_be_read_and_has_a_name_of_its_own() -> None:
    every = [mutant for file in FILES for mutant in mutants_of(file, (ROOT / file).read_bytes())]
    assert len(every) > 5000
    assert len({mutant.key for mutant in every}) == len(every)
    for mutant in in_turns(every, 0)[:300]:
        compile(mutant.applied((ROOT / mutant.file).read_bytes()), mutant.file, "exec")


def test_the_lists_fit_the_library() -> None:
    every = [mutant for file in FILES for mutant in mutants_of(file, (ROOT / file).read_bytes())]
    known = reasons(every)
    assert len(known) == len(equivalents())
    assert all(len(why.split()) > 3 for why in known.values())
    for what, mutant in named(ROOT):
        source = (ROOT / mutant.file).read_bytes()
        compile(mutant.applied(source), mutant.file, "exec")
        functions = {one.function for one in mutants_of(mutant.file, source)}
        assert mutant.function in functions, what
    with pytest.raises(ListError, match=r"equivalent\.yaml: there is no mutant"):
        reasons([mutant for mutant in every if mutant.key not in known])
    assert reasons([mutant for mutant in every if mutant.file == "mil_palettize/planning/sizes.py"]) == {}


def test_samples_have_of_each_file_its_part() -> None:
    every = [Mutant(file, line, "", 0, 0, "", "", "") for file, n in (("a.py", 300), ("b.py", 30)) for line in range(n)]
    sample = in_turns(every, 0)[:110]
    counts = Counter(mutant.file for mutant in sample)
    assert abs(counts["b.py"] - 10) <= 1
    assert in_turns(every[::-1], 0) != in_turns(every, 1)
    assert sorted(mutant.line for mutant in in_turns(every, 0)) == sorted(mutant.line for mutant in every)
    assert in_turns(every, 0)[:50] == sample[:50]


def test_results_are_kept_and_told_by_room(tmp_path: Path) -> None:
    mutants = mutants_of("mil_palettize/planning/m.py", b"a = 1\nb = 2\nc = 3\n")
    results = Results(tmp_path / "state.json")
    results.verdicts[mutants[0].key] = Verdict(KILLED, "tests/test_m.py::test", 3, 3)
    results.verdicts[mutants[1].key] = Verdict(SURVIVED, "", 2, 3)
    results.keep()
    again = Results(tmp_path / "state.json")
    assert again.verdicts == results.verdicts
    assert [str(verdict) for verdict in again.verdicts.values()] == [
        "killed by tests/test_m.py::test",
        "survived (2 of 3 tests)",
    ]
    table = again.table(mutants, {}).splitlines()
    assert table[2] == "| planning | 3 | 2 | 1 | 0 | 0 | 1 | 0 |"
    assert table[3] == "| all | 3 | 2 | 1 | 0 | 0 | 1 | 0 |"
    argued = again.table(mutants, {mutants[1].key: "nobody reads it"}).splitlines()
    assert argued[2] == "| planning | 3 | 2 | 1 | 0 | 1 | 0 | 0 |"


def spin() -> None:
    while True:
        pass


def test_children_end() -> None:
    assert in_child(lambda: [1, "é"], 30).value == [1, "é"]
    assert in_child(spin, 1).status == "timed out"
    assert in_child(lambda: os._exit(3), 30).status == "crashed"
    failed = in_child(lambda: 1 / 0, 30)
    assert failed.status == "crashed"
    assert "ZeroDivisionError" in failed.told


PLANNED = """
def larger(a, b):
    if a > b:
        return a
    return b
"""
LOOKING = """
from mil_palettize.planning.made import larger


def test_larger():
    assert larger(1, 2) == 2
    assert larger(2, 1) == 2
"""


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """Like this one in what the tool looks at, and no larger than that."""
    files = {
        "mil_palettize/__init__.py": "",
        "mil_palettize/algorithms/__init__.py": "",
        "mil_palettize/algorithms/compiled/__init__.py": "",
        "mil_palettize/algorithms/compiled/jit.py": (ROOT / "mil_palettize/algorithms/compiled/jit.py").read_text(
            encoding="utf-8"
        ),
        "mil_palettize/planning/__init__.py": "",
        "mil_palettize/planning/made.py": PLANNED,
        "mil_palettize/planning/alone.py": "WIDTH = 1\n",
        "tests/test_made.py": LOOKING,
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "project"


TRIED = """
import sys
from pathlib import Path
from tools.mutation.operators import mutants_of
from tools.mutation.reach import reach_of
from tools.mutation.tree import Tree
from tools.mutation.trial import tried
tree = Tree(Path(sys.argv[1]), Path(sys.argv[2]))
reach = reach_of(tree, ["tests/test_made.py"], Path(sys.argv[2], "traces.json"))
sound = tree.sound_loops()
for file in tree.files(["mil_palettize/planning"]):
    source = tree.source(file)
    for mutant in mutants_of(file, source):
        print(mutant, tried(tree, reach, sound, mutant, 60).outcome, sep="; ")
    assert tree.source(file) == source
"""


def test_mutants_before_their_tests(small_project: Path, tmp_path: Path) -> None:
    """``>=`` gives the same."""
    done = subprocess.run(
        [sys.executable, "-c", TRIED, small_project, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "traced tests/test_made.py",
        f"mil_palettize/planning/alone.py:1: WIDTH = 1 → WIDTH = 2; {UNREACHED}",
        f"mil_palettize/planning/made.py:3: if a > b: → if (not (a > b)):; {KILLED}",
        f"mil_palettize/planning/made.py:3: if a > b: → if a >= b:; {SURVIVED}",
    ], done.stderr
    assert (small_project / "mil_palettize/planning/made.py").read_text(encoding="utf-8") == PLANNED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--paths", "mil_palettize/nowhere"], "mil_palettize/nowhere is not there"),
        (["--tests", "tests/test_nothing.py"], "tests/test_nothing.py is not there"),
        (["--again"], "--again tries what survived before"),
    ],
)
def test_wrong_options(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mutation", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
