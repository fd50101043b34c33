"""The benchmark's parts on tiny packages: what it writes, compares, counts and prints. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from packages import constants

from tools.benchmark import __main__ as command
from tools.benchmark import cases, measurement, runs
from tools.benchmark.layouts import Layout
from tools.benchmark.optimum import least_error
from tools.benchmark.packages import write_package
from tools.benchmark.profile import OTHER, PARTS, Profile, place_of
from tools.benchmark.tables import document, ranged

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "eight": Layout(((72, 64), (64, 72))),
    "single": Layout(((64, 64),), "float32"),
    "small": cases.QUICK_LAYOUTS["small"],
    "600 MB": Layout(((64, 64),) * 2),
    "2.4 GB": Layout(((64, 64),) * 3),
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cases.Packages:
    monkeypatch.setattr(cases, "WARM_UP", {name: Layout(((64, 64),), name) for name in ("float16", "float32")})
    return cases.Packages(tmp_path, TINY)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict]]:
    """Measurements are made in this process, and listed."""
    asked: list[tuple[str, dict]] = []

    def measure(what: str, *, environment: dict | None = None, **job: object) -> dict:
        asked.append((what, job | {"environment": environment}))
        folder = tmp_path / f"measured-{len(asked)}"
        folder.mkdir()
        return json.loads(json.dumps(measurement.VERBS[what]({"began": time.time(), **job}, folder / "out.mlpackage")))

    monkeypatch.setattr(runs, "measure", measure)
    return asked


def bench(packages: cases.Packages, *, times: int = 1, large: bool = False, only: tuple[str, ...] = ()) -> dict:
    """The results, through JSON."""
    of_cases = [name for name in cases.CASES if name in only]
    of_parts = [name for name in runs.PARTS if name in only]
    run = runs.Bench(packages, of_cases, of_parts, runs=times, quick=True, large=large)
    return json.loads(json.dumps(run.results()))


# Packages


@pytest.mark.parametrize("name", TINY)
def test_packages_hold_what_is_said_and_load_in_coremltools(name: str, tmp_path: Path) -> None:
    layout, path = TINY[name], tmp_path / "p.mlpackage"
    write_package(path, layout)
    stored = {key[3]: decode() for key, (_, decode) in constants(path).items()}
    assert [stored[f"weight_{i}"].shape for i in range(len(layout.shapes))] == list(layout.shapes)
    assert {array.dtype for array in stored.values()} == {np.dtype(layout.dtype)}
    assert sum(array.nbytes for array in stored.values()) == layout.nbytes
    assert np.std(stored["weight_0"].astype(float)) == pytest.approx(0.02, rel=0.1)
    model = ct.models.MLModel(str(path), skip_model_load=True)
    loaded = ct.optimize.coreml.get_weights_metadata(model, weight_threshold=0)
    for weight, array in stored.items():  # coremltools adds biases
        assert np.array_equal(loaded[weight].val, array)


@pytest.mark.parametrize("layouts", [cases.LAYOUTS, cases.QUICK_LAYOUTS])
def test_layouts_are_chains_of_the_sizes_they_are_for(layouts: dict[str, Layout]) -> None:
    for layout in layouts.values():
        assert all(rows == columns for (rows, _), (_, columns) in zip(layout.shapes, layout.shapes[1:], strict=False))
    sizes = [rows * columns for rows, columns in layouts["small"].shapes]
    assert set(sizes) == {2025, 2070}
    assert sizes.count(2025) == sizes.count(2070)


def test_full_layouts_are_those_asked_for() -> None:
    layouts = cases.LAYOUTS
    assert len(layouts["small"].shapes) == 2000
    assert layouts["eight"].nbytes == 8 * 4096 * 1024 * 2
    assert layouts["single"].nbytes == 4_000_000
    assert layouts["600 MB"].nbytes == pytest.approx(6e8, rel=0.01)
    assert layouts["2.4 GB"].nbytes == pytest.approx(2.4e9, rel=0.01)
    assert {case.layout for case in cases.CASES.values()} <= set(layouts)


# The bound


def optimum(values: np.ndarray, k: int) -> float:
    """By trying every last cut."""
    x, counts = np.unique(values.astype(float), return_counts=True)
    best = np.full((k + 1, len(x) + 1), np.inf)
    best[0, 0] = 0
    for m in range(1, k + 1):
        for j in range(1, len(x) + 1):
            for i in range(j):
                mean = np.average(x[i:j], weights=counts[i:j])
                best[m, j] = min(best[m, j], best[m - 1, i] + counts[i:j] @ (x[i:j] - mean) ** 2)
    return best[1:, -1].min()


@pytest.mark.parametrize("seed", range(24))
def test_the_bound_is_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, k = int(rng.integers(2, 30)), int(rng.integers(1, 8))
    draws = rng.normal(size=size), rng.integers(0, 12, size), rng.standard_cauchy(size) * 1e3 + 50
    values = draws[seed % 3].astype(np.float32)
    best = optimum(values, k)
    assert least_error(values, k) == pytest.approx(best, rel=1e-9, abs=1e-12)


# The profile


def test_every_timed_function_is_there() -> None:
    for target in (target for targets in PARTS.values() for target in targets):
        owner, name = place_of(target)
        assert callable(getattr(owner, name)), target


def test_a_moment_counts_for_the_innermost_part_only() -> None:
    now = [0.0]
    profile = Profile(lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    inner = profile.timed("read", wait)

    def work() -> None:
        wait(1)
        inner(10)
        wait(100)

    profile.timed("histogram", work)()
    assert (profile.seconds["histogram"], profile.seconds["read"]) == (101, 10)
    with pytest.raises(ZeroDivisionError):
        profile.timed("solve", lambda: 1 / 0)()
    wait(1000)
    with profile.running():
        wait(10000)
    assert profile.seconds[OTHER] == 10000
    assert sum(profile.seconds.values()) == 10111


def test_the_parts_of_a_profile_are_found_and_the_library_is_left_as_it_was(
    packages: cases.Packages, in_process: list
) -> None:
    places = [place_of(target) for targets in PARTS.values() for target in targets]
    before = [getattr(owner, name) for owner, name in places]
    profiles = bench(packages, only=("profile",))["profile"]
    assert [getattr(owner, name) for owner, name in places] == before
    assert [run["case"] for run in profiles] == [cases.CASES[name].title for name in cases.QUICK_PROFILES]
    for run in profiles:
        assert list(run["seconds"]) == [*PARTS, OTHER]
        grouped = "groups" in run["case"]
        absent = {part for part, seconds in run["seconds"].items() if not seconds}
        assert absent == (set() if grouped else {"pack"})


# Comparisons and the rest


@pytest.mark.slow
def test_a_comparison(packages: cases.Packages, in_process: list[tuple[str, dict]]) -> None:
    results = bench(packages, times=2, only=("tensor4", "single8", "small"))
    assert [what for what, _ in in_process] == [
        *("ours", "coremltools") * 2,
        *("ours", "coremltools") * 2,
        "optimum",
        *("ours", "coremltools", "ours"),
    ]
    four, single, small = results["comparisons"]
    assert (four["palettized"], single["palettized"], small["palettized"]) == (2, 1, 10)
    assert all(0.5 < row["error_ratio"] < 1.000001 for row in results["comparisons"])
    assert 0 <= single["optimum_gap"] + 1e-9 < 1e-6
    assert four["optimum_gap"] is small["optimum_gap"] is None
    assert [row["coremltools_runs"] for row in results["comparisons"]] == [2, 2, 1]
    assert [len(row["ratios"]) for row in results["comparisons"]] == [2, 2, 2]
    assert all(row["limit_share"] > 0 and row["limit_share_as_written"] > 0 for row in results["comparisons"])
    text = document(results)
    assert "Little packages" in text
    assert "float32 matrix, 8 bits: the squared error is" in text
    assert "(once)" in text
    assert not list(packages.folder.rglob("*.copy"))


@pytest.mark.parametrize("verb", ["ours", "coremltools"])
def test_the_error_is_that_of_the_package_written(verb: str, packages: cases.Packages, tmp_path: Path) -> None:
    source, destination = packages.path("eight"), tmp_path / "out.mlpackage"
    job = {"source": str(source), "options": {"nbits": 2}, "workers": 1, "warm_up": str(packages.warm_up("eight"))}
    result = measurement.VERBS[verb](job, destination)
    before, after = ({key[3]: of() for key, (_, of) in constants(path).items()} for path in (source, destination))
    suffix = "_palettized" if verb == "coremltools" else ""
    pairs = [(before[name].astype(float), after[name + suffix].astype(float)) for name in ("weight_0", "weight_1")]
    assert result["error"] == pytest.approx(sum(np.sum((a - b) ** 2) for a, b in pairs), rel=1e-9)
    assert result["error"] > 0


def test_memory_and_start_and_workers(packages: cases.Packages, in_process: list[tuple[str, dict]]) -> None:
    results = bench(packages, large=True, only=("memory", "start", "workers"))
    memory = results["memory"]
    assert [row["case"] for row in memory] == ["ours, 4 bits per tensor", "coremltools, load and save only"] * 2
    assert [row["package"] for row in memory] == [TINY[name].text for name in ("600 MB", "600 MB", "2.4 GB", "2.4 GB")]
    assert all(row["peak_mb"] >= row["idle_mb"] > 0 for row in memory)
    assert all(row["growth_mb"] == row["peak_mb"] - row["idle_mb"] for row in memory)
    assert list(results["start"]) == ["empty cache", "filled cache"]
    assert all(0 < run["imported"] <= run["finished"] for run in results["start"].values())
    folders = [job["environment"]["NUMBA_CACHE_DIR"] for what, job in in_process if what == "start"]
    assert len(folders) == 2
    assert len(set(folders)) == 1
    assert not Path(folders[0]).exists()
    assert [job["workers"] for what, job in in_process if what == "ours"] == [None, None, 1, 2]
    assert results["workers"]["speed_up"] == results["workers"]["speed_ups"][0] > 0
    text = document(results)
    assert all(word in text for word in ("growth over an idle import", "empty cache", "Two workers"))


@pytest.mark.slow
def test_imports_are_left_out_of_the_time(packages: cases.Packages, tmp_path: Path) -> None:
    """What a palettization imports is there before the clock starts."""
    code = f"""
import sys
from pathlib import Path
from tools.benchmark.measurement import import_ours, palettize
import_ours()
before = set(sys.modules)
palettize({str(packages.path("eight"))!r}, Path({str(tmp_path / "out.mlpackage")!r}), {{"nbits": 4}}, 1)
print(*sorted(name for name in set(sys.modules) - before if name.startswith(("mil_palettize", "coremltools"))))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.slow
def test_the_command_measures_in_other_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    command.main(["--quick", "--only", "workers", "--json", str(figures), "--folder", str(tmp_path)])
    results = json.loads(figures.read_text())
    assert set(results) == {"machine", "quick", "runs", "comparisons", "workers"}
    assert results["quick"]
    assert not results["comparisons"]
    assert f"coremltools {results['machine']['coremltools']}" in capsys.readouterr().out
    assert len(results["workers"]["speed_ups"]) == 1
    assert os.listdir(tmp_path) == ["figures.json"]


@pytest.mark.slow
def test_a_measurement_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the measurement 'ours' of .*nothing\.mlpackage"):
        measurement.measure("ours", source=str(tmp_path / "nothing.mlpackage"), options={}, workers=1, warm_up=None)


# Tables


def test_ranges() -> None:
    assert ranged(64, [48, 64, 99]) == "64 (48–99)"
    assert ranged(64, [64]) == "64"
    assert ranged(1.666, [1.5, 1.666], ".2f") == "1.67 (1.50–1.67)"


def figures(**changes: object) -> dict:
    row = {
        "case": "4 bits", "target": "25x", "package": "8 weights", "runs": 3, "coremltools_runs": 3,
        "ours_seconds": 0.0912, "coremltools_seconds": 5.04, "ratio": 55.3, "ratios": [50.0, 55.3, 60.0],
        "ours_peak_mb": 499.4, "coremltools_peak_mb": 610.0, "error_ratio": 1.0, "limit_share": 0.5,
        "limit_share_as_written": 0.25, "optimum_gap": None, "import_seconds": 3.0, "warm_up_seconds": 0.2,
    }  # fmt: skip
    machine = {
        "system": "Linux", "architecture": "x86_64", "processors": 2, "python": "3.11.7", "coremltools": "9.0",
        "scikit-learn": "1.9.1",
    }  # fmt: skip
    return {"machine": machine, "runs": 3, "quick": False, "comparisons": [row | changes]}


def test_the_table_of_comparisons() -> None:
    lines = document(figures()).splitlines()
    assert lines[0].endswith("coremltools 9.0, scikit-learn 1.9.1; runs: 3")
    row = "| 4 bits | 0.091 s | 5.0 s | 55 (50–60) | 25x | 499 / 610 MB | 1.000000 | 0.50 (0.25) |"
    assert row in lines
    head = lines.index(row) - 2
    assert {lines[head + i].count("|") for i in range(3)} == {row.count("|")}
    once = document(figures(coremltools_runs=1, optimum_gap=1.5e-9))
    assert "| 5.0 s (once) |" in once
    assert "the squared error is 1.5e-09 above the least possible" in once


def test_parts_that_take_no_time_have_no_column() -> None:
    seconds = dict.fromkeys([*PARTS, OTHER], 0.0) | {"solve": 3.0, OTHER: 1.0}
    results = figures() | {"comparisons": [], "profile": [{"case": "c", "untimed_seconds": 4.1, "seconds": seconds}]}
    lines = document(results).splitlines()
    assert "| work | one worker | with timers | solve | other |" in lines
    assert "| c | 4.100 s | 4.000 s | 75% | 25% |" in lines
