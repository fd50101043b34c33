"""The attack tool finds what falls: a library that was broken on purpose is told, by a line that replays it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mil_palettize.errors import PackageError
from mil_palettize.expressions.packed import Packed
from mil_palettize.package import replacement
from tools.attack import kills
from tools.attack.cases import FIXTURES, Case, Outcome
from tools.attack.children import Pool, _waits_for_a_processor
from tools.attack.evaluating import EVALUATING, has_pictures
from tools.attack.families import FAMILIES
from tools.attack.kills import SCENARIOS, play_kill
from tools.attack.tracing import can_trace, traced
from tools.attack.verbs import MODES, Attempts

KMEANS = next(mode for mode in MODES if mode.name == "kmeans")


def attempts(folder: Path) -> Attempts:
    sound = FIXTURES / "shared_ios16.mlpackage"
    return Attempts(folder, sound, sound)


def test_sound_library_is_sound(tmp_path: Path) -> None:
    tried = attempts(tmp_path)
    tried.look()
    tried.differ()
    tried.decompress(verify=False)
    tried.palettize(KMEANS)
    assert tried.outcome == Outcome(succeeded=5, refused=0, violations=[])


def test_other_exceptions_are_violations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise KeyError("float128")

    monkeypatch.setattr("tools.attack.verbs.palettize_package", fail)
    tried = attempts(tmp_path)
    tried.palettize(KMEANS)
    (violation,) = tried.outcome.violations
    assert violation.startswith("palettize kmeans: KeyError: 'float128' at ")


def test_wrong_values_are_violations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a reader that the library has no part in."""
    original = Packed.unpack
    tried = attempts(tmp_path)
    monkeypatch.setattr("tools.attack.judging.verify_package", lambda *of: None)
    monkeypatch.setattr("mil_palettize.algorithms.scalar.per_tensor.nearest_sorted", lambda *of: 1.0)
    tried.palettize(KMEANS)
    assert any("decodes with error" in violation for violation in tried.outcome.violations)
    assert Packed.unpack is original


def test_what_is_left_behind_is_a_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def litter(*arguments: object, **keywords: object) -> None:
        (tmp_path / ".out.mlpackage.partial-01234567").mkdir()
        raise PackageError("refused")

    monkeypatch.setattr("tools.attack.verbs.palettize_package", litter)
    tried = attempts(tmp_path)
    tried.palettize(KMEANS)
    (violation,) = tried.outcome.violations
    assert "left something behind" in violation


def test_children_that_die_or_hang_are_put_down_to_their_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(case: Case, folder: Path) -> Outcome:
        if case.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while case.number == 3:
            pass
        return Outcome(succeeded=1)

    monkeypatch.setattr("tools.attack.children.SECONDS", 0.2)
    told: dict[str, Outcome] = {}
    pool = Pool({"family": play}, 1, lambda case, outcome: told.__setitem__(str(case), outcome))
    pool.play(iter([Case("family", number) for number in range(5)]), float("inf"))
    assert {case: outcome.violations for case, outcome in told.items() if outcome.violations} == {
        "family:1": ["the process dies with -9"],
        "family:3": ["the process takes more than 0.2 seconds"],
    }
    assert [told[f"family:{number}"].succeeded for number in (0, 2, 4)] == [1, 1, 1]


def test_children_that_wait_for_a_processor_are_not_hanging() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("the system does not tell")
    assert _waits_for_a_processor(os.getpid())
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    assert not _waits_for_a_processor(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not _waits_for_a_processor(child)


@pytest.mark.slow
@pytest.mark.parametrize("family", EVALUATING)
def test_files_that_models_are_run_on_are_attacked(family: str, tmp_path: Path) -> None:
    """Verbs are tried, and most of them get as far as the damage."""
    pytest.importorskip("torch")
    if family == "pictures" and not has_pictures():
        pytest.skip("pictures need Pillow")
    found = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        found.append(EVALUATING[family](Case(family, number), tmp_path / str(number)))
    assert [outcome.violations for outcome in found] == [[]] * 3
    assert all(outcome.succeeded + outcome.refused for outcome in found)


def test_a_case_is_told_by_its_name() -> None:
    for family in (*FAMILIES, *SCENARIOS):
        case = Case(family, 7)
        assert Case.parse(str(case)) == case
        assert case.random.random() == Case.parse(str(case)).random.random()


def test_kill_finds_a_swap_that_loses_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the old package removed before the new one stands, a kill in between would be told."""
    found = []
    monkeypatch.setattr(replacement, "previous_path", lambda path: path.with_name(f".{path.name}.partial-01234567"))
    monkeypatch.setattr("tools.attack.kills.previous_path", lambda path: path.with_name("nowhere"))
    for number in range(0, 400, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        found += play_kill(Case("kill in place", number), folder).violations
        if found:
            break
    assert any("neither the old package nor the new one is complete" in violation for violation in found)


def test_runs_are_killed_in_place_of_every_change(tmp_path: Path) -> None:
    """Threads are followed; what only reads is not counted."""
    if not can_trace():
        pytest.skip("system calls cannot be seen here")
    file = tmp_path / "x"

    def run() -> None:
        def write() -> None:
            file.write_bytes(b"all")
            file.read_bytes()
            file.rename(tmp_path / "y")

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    whole = traced(run, -1)
    assert (whole.status, list(whole.calls)) == (0, ["openat", "write", "rename"])
    (tmp_path / "y").unlink()
    found = []
    for fatal in range(3):
        assert traced(run, fatal).status == -signal.SIGKILL
        found.append([(path.name, path.read_bytes()) for path in tmp_path.iterdir()])
    assert found == [[], [("x", b"")], [("x", b"all")]]


def test_kills_walk_through_every_place() -> None:
    """So many kills as a campaign has of each scenario, and none is left out."""
    for name in ("kill in place", "kill resume"):
        scenario = SCENARIOS[name]
        for fixture in scenario.fixtures:
            places = kills._whole(name, fixture).places
            turns = [turn for turn in range(250 // len(scenario.fixtures)) if turn % kills.ANY != kills.ANY - 1]
            met = {places[(turn - turn // kills.ANY) % len(places)] for turn in turns}
            assert met == set(places)


@pytest.mark.slow
def test_command_replays_and_says_so() -> None:
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        [sys.executable, "-m", "tools.attack", "--replay", "manifest:3"],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "| manifest | 1 |" in told.stdout
    assert "0 violations" in told.stdout
