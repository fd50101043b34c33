"""Runs that are interrupted, and the folder from which a later one goes on."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from form_packages import ALL, GROUPS, WRITTEN, Form
from handmade import contents
from replacing_runs import acting

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PlanError,
    Report,
    palettize_package,
)
from mil_palettize.algorithms.making import ArraySource, describe
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.cli import main as cli
from mil_palettize.encoding import encoder as encode
from mil_palettize.encoding import palette_cache as clustered
from mil_palettize.encoding.palette_cache import Clustered, palette_key
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, lut_of
from mil_palettize.program.forms import FORMS
from mil_palettize.program.forms import Form as OpForm
from mil_palettize.request.importance import Importance, checked_importance

PLAIN = WRITTEN["typed"]
WEIGHTS = 4
IOS18 = FORMS["CoreML8"]
assert IOS18 is not None
PLAN = PaletteSpecification("kmeans", 4, (1, 2, 4, 8), None, None)


class Counts(dict[str, int]):
    """How often palettes were made, and distinct values found."""

    def since(self, before: dict[str, int]) -> tuple[int, int]:
        return self["make_palette"] - before["make_palette"], self["describe"] - before["describe"]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counted = Counts(make_palette=0, describe=0)

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(encode, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            counted[name] += 1
            return original(*arguments, **keywords)

        return call

    for name in counted:
        monkeypatch.setattr(encode, name, counting(name))
    return counted


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def told(report: Report) -> dict[str, Any]:
    """A report without what differs from run to run."""
    as_dict = json.loads(report.to_json())
    for part in (as_dict, *as_dict["weights"]):
        part.pop("seconds")
    return {name: value for name, value in as_dict.items() if name != "destination"}


# Taken from the folder


@pytest.mark.parametrize("name", WRITTEN)
def test_second_run_makes_nothing_anew(name: str, counts: Counts, tmp_path: Path) -> None:
    form, kept = WRITTEN[name], tmp_path / "kept"
    reports = [form.palettize(tmp_path / "plain.mlpackage", workers=1)]
    plain = counts["make_palette"]
    for number in range(2):
        reports.append(form.palettize(tmp_path / f"{number}.mlpackage", workers=1, resume=kept))
    assert counts["make_palette"] == 2 * plain >= 8
    assert contents(tmp_path / "0.mlpackage") == contents(tmp_path / "plain.mlpackage")
    assert contents(tmp_path / "1.mlpackage") == contents(tmp_path / "plain.mlpackage")
    assert told(reports[0]) == told(reports[1]) == told(reports[2])


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_sweep_finds_distinct_values_once(dtype: str, counts: Counts, tmp_path: Path) -> None:
    for nbits in (2, 4, 6):
        form = Form({"nbits": nbits}, dtype=dtype)
        form.palettize(tmp_path / f"{nbits}.mlpackage", workers=1, resume=tmp_path / "kept")
        assert counts["describe"] == WEIGHTS
    assert counts["make_palette"] == 3 * WEIGHTS
    for nbits in (2, 4, 6):
        Form({"nbits": nbits}, dtype=dtype).palettize(tmp_path / "plain.mlpackage", workers=1, overwrite=True)
        assert contents(tmp_path / "plain.mlpackage") == contents(tmp_path / f"{nbits}.mlpackage")


def test_same_content_in_another_package(counts: Counts, tmp_path: Path) -> None:
    """The content counts, not where it is; on threads, too."""
    PLAIN.palettize(tmp_path / "out.mlpackage", resume=str(tmp_path / "kept"), workers=2)
    shutil.copytree(PLAIN.source(), tmp_path / "copy.mlpackage")
    before = dict(counts)
    palettize_package(
        tmp_path / "copy.mlpackage", tmp_path / "2.mlpackage", PLAIN.config, select="all", resume=tmp_path / "kept"
    )
    assert counts.since(before) == (0, 0)
    assert contents(tmp_path / "out.mlpackage") == contents(tmp_path / "2.mlpackage")


def test_redo_is_kept(counts: Counts, tmp_path: Path) -> None:
    PLAIN.palettize(tmp_path / "once.mlpackage", workers=1)
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, **ALL))
    for name, resume in (("plain", None), ("a", tmp_path / "kept"), ("b", tmp_path / "kept")):
        before = dict(counts)
        palettize_package(
            tmp_path / "once.mlpackage", tmp_path / f"{name}.mlpackage", config, redo=True, workers=1, resume=resume
        )
        assert counts.since(before)[0] == (0 if name == "b" else WEIGHTS)
        assert contents(tmp_path / f"{name}.mlpackage") == contents(tmp_path / "plain.mlpackage")


def test_strict_says_the_same_again(tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(mode="unique", **ALL))
    lines = []
    for resume in (None, tmp_path / "kept", tmp_path / "kept"):
        with pytest.raises(PlanError) as raised:
            palettize_package(PLAIN.source(), tmp_path / "out.mlpackage", config, strict=True, resume=resume)
        lines.append(str(raised.value))
    assert len(set(lines)) == 1
    assert not (tmp_path / "out.mlpackage").exists()


def test_dry_run_keeps_nothing(tmp_path: Path) -> None:
    report = PLAIN.palettize(None, dry_run=True, resume=tmp_path / "kept")
    assert len(report.palettized) == WEIGHTS
    assert os.listdir(tmp_path) == []


def test_custom_functions_are_never_kept(tmp_path: Path) -> None:
    calls = []

    def function(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(array.shape)
        return np.array([len(calls), 0.0]), np.zeros(array.size, int)

    config = OptimizationConfig(OpPalettizerConfig(mode="custom", lut_function=function, **ALL))
    for name in "ab":
        palettize_package(PLAIN.source(), tmp_path / f"{name}.mlpackage", config, resume=tmp_path / "kept")
    assert len(calls) == 2 * WEIGHTS
    assert contents(tmp_path / "a.mlpackage") != contents(tmp_path / "b.mlpackage")
    assert not (tmp_path / "kept").exists()


def test_executors_processes_keep_and_find(counts: Counts, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        PLAIN.palettize(tmp_path / "a.mlpackage", executor=pool, resume=tmp_path / "kept")
    PLAIN.palettize(tmp_path / "b.mlpackage", workers=1, resume=tmp_path / "kept")
    assert counts["make_palette"] == 0
    assert contents(tmp_path / "a.mlpackage") == contents(tmp_path / "b.mlpackage")


# Keys

OTHER_PLANS: dict[str, object] = {
    "mode": "uniform",
    "nbits": 2,
    "allowed_nbits": (1, 2, 3, 4, 6, 8),
    "axis": 0,
    "group_size": 4,
    "cluster_dim": 2,
    "scale_axis": 0,
    "lut_dtype": "int8",
    "spread_axis": 0,
}


def palette(seed: int = 0) -> Encoded:
    draw = np.random.default_rng(seed)
    indices = Packed.pack(draw.integers(0, 16, (6, 8)).astype(np.uint8), 4)
    lut = np.sort(draw.standard_normal(16)).astype(np.float16).reshape(1, 1, 16, 1)
    expr = Lut(indices, lut)
    decoded = expr.decode().astype(np.float64)
    return Encoded(expr, float(np.vdot(decoded, decoded)), 0.0, PLAN, "a note")


WEIGHT = ArraySource("w", np.zeros((6, 8), np.float16))  # which palette() could be of


def key(
    content: str,
    plan: PaletteSpecification = PLAN,
    form: OpForm = IOS18,
    importance: Importance | None = None,
) -> str:
    return palette_key(content, plan, form, importance)


def checked(array: np.ndarray) -> Importance:
    return checked_importance({"w": array})["w"]


def same(found: Encoded | None, kept: Encoded) -> bool:
    if found is None or expression_digest(found.expr) != expression_digest(kept.expr):
        return False
    return dataclasses.replace(found, expr=kept.expr) == kept


def test_every_part_of_a_plan_and_form_tells_palettes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OTHER_PLANS.keys() == {f.name for f in dataclasses.fields(PaletteSpecification)} - {"lut_function"}
    folder, kept = Clustered(str(tmp_path)), palette()
    plans = [dataclasses.replace(PLAN, **{name: value}) for name, value in OTHER_PLANS.items()]
    forms = [form for form in FORMS.values() if form is not None and form != IOS18]
    assert forms
    folder.keep_palette(key("content"), kept)
    assert same(folder.palette(key("content"), PLAN, WEIGHT), kept)
    weighed = [checked(given) for given in (np.ones((1, 1)), np.ones((1, 8)), np.full((1, 8), 2.0))]
    others = [
        (key("another"), PLAN),
        *((key("content", plan), plan) for plan in plans),
        *((key("content", PLAN, form), PLAN) for form in forms),
        *((key("content", PLAN, IOS18, importance), PLAN) for importance in weighed),
    ]
    assert [folder.palette(*other, WEIGHT) for other in others] == [None] * len(others)
    monkeypatch.setattr(clustered, "_code", lambda: "of another version")
    assert folder.palette(key("content"), PLAN, WEIGHT) is None


def test_weighted_error_is_kept(tmp_path: Path) -> None:
    importance, folder = checked(np.full((1, 1), 2.0)), Clustered(str(tmp_path))
    weighed = dataclasses.replace(palette(), weighted_error=2 * palette().sse)
    folder.keep_palette(key("content"), weighed)
    assert same(folder.palette(key("content"), PLAN, WEIGHT, importance=importance), weighed)
    assert folder.palette(key("content"), PLAN, WEIGHT) is None  # of another run, whatever its file is called


def test_plan_that_was_carried_out_otherwise(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, spread_axis=1)
    lut = lut_of(palette().expr)
    spread = dataclasses.replace(lut, lut=np.repeat(lut.table, 8, axis=1))
    made = dataclasses.replace(palette(), expr=spread, specification=dataclasses.replace(plan, axis=1, group_size=1))
    Clustered(str(tmp_path)).keep_palette(key("content", plan), made)
    assert same(Clustered(str(tmp_path)).palette(key("content", plan), plan, WEIGHT), made)


def test_content_is_values_shape_and_dtype() -> None:
    array = np.arange(64, dtype=np.float16).reshape(8, 8)
    changed = array.copy()
    changed[7, 7] += 1
    distinct = [array, changed, array.reshape(4, 16), array.T, array.astype(np.float32), array.view(np.float32)]
    folder = Clustered("nowhere")
    contents_of = [folder.content(ArraySource("w", each), None) for each in distinct]
    assert len(set(contents_of)) == len(distinct)
    assert folder.content(ArraySource("under another name", array.copy()), None) == contents_of[0]
    assert folder.content(ArraySource("w", array), palette().expr) == folder.content(
        ArraySource("v", changed), palette().expr
    )
    assert folder.content(ArraySource("w", array), palette(1).expr) != folder.content(
        ArraySource("w", array), palette().expr
    )


def distributions() -> Iterator[np.ndarray]:
    draw = np.random.default_rng(5)
    yield draw.standard_normal(3000).astype(np.float16)
    yield np.array([-0.0, 0.0, 65504, -65504, 6e-8], np.float16)
    yield draw.standard_normal(3000).astype(np.float32)
    yield draw.standard_normal((1 << 20) + 1).astype(np.float32)  # in cells
    yield np.repeat(np.array([1e-30, 3e38, -5], np.float32), 100_000)


@pytest.mark.parametrize("array", list(distributions()), ids=["fp16", "extremes", "fp32", "cells", "many equal"])
def test_distinct_values_come_back_as_they_were(array: np.ndarray, tmp_path: Path) -> None:
    found, folder = describe(ArraySource("w", array)), Clustered(str(tmp_path))
    assert folder.distribution("content", ArraySource("w", array)) is None
    folder.keep_distribution("content", found)
    again = folder.distribution("content", ArraySource("v", array))
    assert again is not None
    for part in ("values", "weights"):
        assert getattr(again, part).dtype == np.float64
        assert getattr(again, part).tobytes() == getattr(found, part).tobytes()
    assert (again.name, again.dtype, again.size, again.exact) == ("v", found.dtype, found.size, found.exact)
    assert again.signal == found.signal
    # Not larger than the weight by more than the counts.
    assert sum(file.stat().st_size for file in files(tmp_path)) < 2 * array.nbytes + 4096


# Files that are not as they were written


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def rewritten(data: bytes, path: Path, **changes: object) -> None:
    """The file with other entries in its header."""
    path.write_bytes(data)
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("header").tobytes()) | changes
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def damages(data: bytes, path: Path, other: bytes) -> Iterator[str]:
    """Put something else at ``path``, again and again; yields what."""
    for length in (0, 1, 21, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        yield f"cut to {length}"
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        yield f"byte {place}"
    path.write_bytes(other)
    yield "of another palette"
    for version in (clustered.VERSION + 1, None, "1"):
        rewritten(data, path, version=version)
        yield f"version {version}"
    rewritten(data, path, expr={"kind": "Lut", "fields": {}})
    yield "incomplete"
    rewritten(data, path, expr={"kind": "system", "fields": {"command": {"value": "true"}}})
    yield "of an unknown kind"
    path.write_bytes(b"not an archive" * 100)
    yield "text"
    with path.open("wb") as file:
        np.save(file, np.arange(5))
    yield "an array"
    trap = path.parent / "trap"
    path.write_bytes(pickle.dumps(Malicious(trap)))
    yield "a pickle"
    for name in ("header", "a0"):
        np.savez(path, **{name: np.array([Malicious(trap)], object)})
        yield f"an object as {name}"
    path.unlink()
    path.symlink_to(path.name)
    yield "a link to itself"
    path.unlink()
    os.mkfifo(path)
    yield "a pipe"
    path.unlink()
    assert not trap.exists()


def test_damaged_palettes_are_as_good_as_none(tmp_path: Path) -> None:
    """Or, where the damage is to nothing that counts, as good as they were. The next run mends them."""
    folder, kept = Clustered(str(tmp_path)), palette()
    folder.keep_palette(key("other"), palette(1))
    other = files(tmp_path)[0].read_bytes()
    shutil.rmtree(files(tmp_path)[0].parent)
    folder.keep_palette(key("content"), kept)
    (path,) = files(tmp_path)
    data, refused = path.read_bytes(), 0
    for what in damages(data, path, other):
        found = folder.palette(key("content"), PLAN, WEIGHT)
        assert found is None or (what.startswith("byte") and same(found, kept)), what
        refused += found is None
    assert refused > 50
    folder.keep_palette(key("content"), kept)
    assert same(folder.palette(key("content"), PLAN, WEIGHT), kept)


def test_damaged_distinct_values_are_as_good_as_none(tmp_path: Path) -> None:
    folder = Clustered(str(tmp_path))
    found, another = (describe(ArraySource("w", np.arange(n, dtype=np.float16))) for n in (50, 60))
    folder.keep_distribution("other", another)
    other = files(tmp_path)[0].read_bytes()
    shutil.rmtree(files(tmp_path)[0].parent)
    folder.keep_distribution("content", found)
    (path,) = files(tmp_path)
    for what in damages(path.read_bytes(), path, other):
        again = folder.distribution("content", ArraySource("w", np.arange(50, dtype=np.float16)))
        assert again is None or not what.startswith("cut"), what
        if again is not None:
            assert again.values.tolist() == found.values.tolist()
            assert (again.weights.tolist(), again.size, again.signal) == (found.weights.tolist(), 50, found.signal)


def test_run_over_damaged_files(counts: Counts, tmp_path: Path) -> None:
    PLAIN.palettize(tmp_path / "a.mlpackage", workers=1, resume=tmp_path / "kept")
    for number, path in enumerate(files(tmp_path / "kept")):
        path.write_bytes(path.read_bytes()[: 100 * number])
    for made in (WEIGHTS, 0):
        before = dict(counts)
        PLAIN.palettize(tmp_path / "b.mlpackage", workers=1, resume=tmp_path / "kept", overwrite=True)
        assert counts.since(before) == (made, made)
        assert contents(tmp_path / "a.mlpackage") == contents(tmp_path / "b.mlpackage")


# The folder itself


def test_folder_that_cannot_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(place, tmp_path, PackageError, rf"^cannot keep what was clustered in {place}: .*/file is not a folder")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    refused(tmp_path / "new" / "er", tmp_path, PackageError, "no permission to write there; choose another$")


@pytest.mark.parametrize("resume", ["", "a\0b", 5, b"kept"])
def test_what_is_no_path(resume: object, tmp_path: Path) -> None:
    refused(resume, tmp_path, ConfigError, "^resume is ")


def test_folder_inside_a_package(tmp_path: Path) -> None:
    source, link = tmp_path / "in.mlpackage", tmp_path / "link"
    shutil.copytree(PLAIN.source(), source)
    link.symlink_to(source / "Data")
    for place in (source, source / "kept", source / "a" / "b", link / "kept", tmp_path / "out.mlpackage" / "kept"):
        with pytest.raises(
            ConfigError, match=rf"^the folder to resume from, {place}, is inside .*; choose a place out"
        ):
            palettize_package(source, tmp_path / "out.mlpackage", PLAIN.config, resume=place)
    assert contents(source) == contents(PLAIN.source())
    assert sorted(os.listdir(tmp_path)) == ["in.mlpackage", "link"]
    # One around the packages is fine.
    palettize_package(source, tmp_path / "out.mlpackage", PLAIN.config, resume=tmp_path)


def refused(resume: object, folder: Path, kind: type[Exception], line: str) -> None:
    before = sorted(os.listdir(folder))
    with pytest.raises(kind, match=line) as raised:
        PLAIN.palettize(folder / "out.mlpackage", resume=resume)
    assert len(str(raised.value).splitlines()) == 1
    assert sorted(os.listdir(folder)) == before


def test_broken_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.write_bytes

    def broken(path: Path, data: bytes) -> None:
        original(path, data[:100])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(PackageError, match=rf"^cannot keep .* in {tmp_path}/kept: Input/output error$"):
        PLAIN.palettize(tmp_path / "out.mlpackage", resume=tmp_path / "kept")
    assert os.listdir(tmp_path) == ["kept"]
    assert files(tmp_path / "kept") == []


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    PLAIN.palettize(tmp_path / "out.mlpackage", resume="~/kept")
    assert files(tmp_path / "kept")


def test_two_runs_at_the_same_time(tmp_path: Path) -> None:
    PLAIN.source()  # made once
    children = [child(lambda n=n: PLAIN.palettize(tmp_path / f"{n}.mlpackage", resume=tmp_path / "kept")) for n in "ab"]
    assert [ended(process) for process in children] == [0, 0]
    PLAIN.palettize(tmp_path / "plain.mlpackage")
    for name in "ab":
        assert contents(tmp_path / f"{name}.mlpackage") == contents(tmp_path / "plain.mlpackage")
    assert {path.suffix for path in files(tmp_path / "kept")} == {".npz"}


def test_another_run_keeps_the_same_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done first, and removes what it takes for left over."""
    folder, write_bytes = Clustered(str(tmp_path)), Path.write_bytes

    def interleaved(path: Path, data: bytes) -> int:
        written = write_bytes(path, data)
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        folder.keep_palette(key("content"), palette())
        return written

    monkeypatch.setattr(Path, "write_bytes", interleaved)
    folder.keep_palette(key("content"), palette())
    assert same(folder.palette(key("content"), PLAN, WEIGHT), palette())
    assert len(files(tmp_path)) == 1


# Runs that are killed or interrupted


def child(work: Callable[[], object]) -> int:
    """A process that works and ends with 0, or what ``work`` gives."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            result = work()
            code = result if isinstance(result, int) else 0
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def signalled(number: int, sent: signal.Signals, what: str) -> None:
    """Send this process a signal at the call ``number`` (from 0) of ``what``."""
    module: Any = Path if what == "write_bytes" else encode
    original, calls = getattr(module, what), iter(range(10**6))

    def call(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == number:
            if what == "write_bytes":
                original(arguments[0], b"half of it")
            os.kill(os.getpid(), sent)
        return original(*arguments, **keywords)

    setattr(module, what, call)


@pytest.mark.parametrize(
    ("what", "number", "left"),
    [
        ("make_palette", 0, 4),
        ("make_palette", 2, 2),
        ("write_bytes", 0, 4),
        ("write_bytes", 1, 4),
        ("write_bytes", 7, 1),
    ],
)
def test_killed_run_is_resumed(what: str, number: int, left: int, counts: Counts, tmp_path: Path) -> None:
    out, kept = tmp_path / "out.mlpackage", tmp_path / "kept"

    def run() -> None:
        signalled(number, signal.SIGKILL, what)
        PLAIN.palettize(out, workers=1, resume=kept)

    assert ended(child(run)) == -signal.SIGKILL
    assert not out.exists()
    partial = [path for path in files(kept) if path.name.startswith(".")]
    assert len(partial) == (what == "write_bytes")
    PLAIN.palettize(out, workers=1, resume=kept)
    assert counts["make_palette"] == left
    PLAIN.palettize(tmp_path / "plain.mlpackage", workers=1)
    assert contents(out) == contents(tmp_path / "plain.mlpackage")
    assert sorted(os.listdir(tmp_path)) == ["kept", "out.mlpackage", "plain.mlpackage"]
    assert {path.suffix for path in files(kept)} == {".npz"}


def command(*arguments: object) -> list[str]:
    return ["palettize", str(PLAIN.source()), *map(str, arguments), "--nbits=4", "--weight-threshold=100", "--quiet"]


@pytest.mark.parametrize(("what", "number"), [("make_palette", 0), ("make_palette", 3), ("write_bytes", 2)])
def test_interrupted_command_is_resumed(
    what: str, number: int, counts: Counts, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, kept = tmp_path / "out.mlpackage", tmp_path / "kept"
    arguments = command(out, "--resume", kept, "--workers", 1)  # a fork has one thread

    def run() -> int:
        signalled(number, signal.SIGINT, what)
        return cli.main(arguments)

    assert ended(child(run)) == cli.EXIT_INTERRUPTED
    assert capfd.readouterr().err.endswith(
        "mil-palettize: stopping; once more to end at once\nmil-palettize: error: interrupted; nothing was written\n"
    )
    assert os.listdir(tmp_path) in ([], ["kept"])
    done = {path.suffix for path in files(kept)}
    assert done <= {".npz"}
    assert cli.main(arguments) == 0
    assert counts["make_palette"] <= WEIGHTS - (number == 3)
    before = dict(counts)
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert counts.since(before) == (0, 0)
    assert cli.main(command(tmp_path / "plain.mlpackage")) == 0
    assert contents(out) == contents(tmp_path / "plain.mlpackage")


def test_interrupt_at_any_change_of_files(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Up to the end of the swap nothing, or all of it, is there."""
    assert cli.main(command(tmp_path / "plain.mlpackage")) == 0
    with acting(10**9, lambda: None) as operations:
        assert cli.main(command(tmp_path / "count.mlpackage")) == 0
    for number in range(0, len(operations), 3):
        folder = tmp_path / str(number)
        folder.mkdir()

        def run(number: int = number, folder: Path = folder) -> int:
            with acting(number, lambda: os.kill(os.getpid(), signal.SIGINT)):
                return cli.main(command(folder / "out.mlpackage", "--resume", folder / "kept", "--workers", 1))

        assert ended(child(run)) == cli.EXIT_INTERRUPTED, operations[number]
        complete = "is complete" in capfd.readouterr().err
        assert set(os.listdir(folder)) - {"kept"} == ({"out.mlpackage"} if complete else set()), operations[number]
        if complete:
            assert contents(folder / "out.mlpackage") == contents(tmp_path / "plain.mlpackage")


def test_real_command_interrupted_and_resumed(tmp_path: Path) -> None:
    """As from a terminal, at whatever moment it is when the first palette has been kept."""
    out, kept = tmp_path / "out.mlpackage", tmp_path / "kept"
    line = [sys.executable, "-m", "mil_palettize", *command(out, "--resume", kept, "--workers", 1, "--granularity")]
    line.insert(line.index("--granularity") + 1, "per_grouped_channel")
    line += ["--group-size=4"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (kept.exists() and files(kept)):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, cli.EXIT_INTERRUPTED)
    if process.returncode == cli.EXIT_INTERRUPTED and "is complete" not in errors:
        stopping = "mil-palettize: stopping; once more to end at once\n"  # not while modules are imported
        assert errors.removeprefix(stopping) == "mil-palettize: error: interrupted; nothing was written\n"
        assert os.listdir(tmp_path) == ["kept"]
    arguments = [*line[3:], "--overwrite"]
    assert cli.main(arguments) == 0
    Form({"nbits": 4} | GROUPS).palettize(tmp_path / "plain.mlpackage", workers=1)
    assert contents(out) == contents(tmp_path / "plain.mlpackage")
