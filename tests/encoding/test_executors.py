"""Weights palettized on executors of every kind: the same bytes, whatever happens to the workers."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from form_packages import ALL, WRITTEN, Form
from handmade import contents
from sent_functions import carried_out, elsewhere, killed, killed_once, of_nothing, of_the_extremes
from slow_cases import scaled_vectors, slow_where

from mil_palettize import AlgorithmError, OpPalettizerConfig, OptimizationConfig, PlanError, palettize_package
from mil_palettize.encoding.encoder import Task
from mil_palettize.package.blob import BlobReader
from mil_palettize.program.store import WeightReference
from mil_palettize.rewriting import palette_writer

FORMS = {name: WRITTEN[name] for name in WRITTEN if "fp32" not in name} | {"fp32": Form({"nbits": 4}, dtype="fp32")}
FEW = ("typed", "grouped", "vectors in groups", "sparse", "int8 table", "packed unique", "fp32")
STORED = [name for name in FEW if not FORMS[name].joint]
MOST_BYTES = 4096


# Executors


class Late:
    """``submit`` alone, as of ``mpi4py.futures.MPIPoolExecutor``: tasks travel as bytes and are begun when a result is
    asked for, the last first, in another process. ``payloads``: what was sent, ``answers``: what came back."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.answers: list[bytes] = []
        self._waiting: list[_LateFuture] = []

    def submit(self, task: Callable[[], object]) -> Future[object]:
        self._waiting.append(_LateFuture(self))
        self.payloads.append(pickle.dumps(task))
        return self._waiting[-1]

    def run(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            payloads = self.payloads[-len(waiting) :]
            with multiprocessing.get_context("fork").Pool(1) as pool:
                answers = pool.map(carried_out, payloads[::-1])
            self.answers += answers
            for future, answer in zip(waiting[::-1], answers, strict=True):
                future.set_result(pickle.loads(answer))


class _LateFuture(Future[object]):
    def __init__(self, owner: Late) -> None:
        super().__init__()
        self._owner = owner

    def result(self, timeout: float | None = None) -> object:
        self._owner.run()
        return super().result(timeout)


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, Executor]]:
    with (
        ThreadPoolExecutor(2) as threads,
        ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as fork,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as spawn,
    ):
        yield {"threads": threads, "fork": fork, "spawn": spawn}


@pytest.fixture(params=["threads", "fork", "spawn", "dask", "late"])
def executor(request: pytest.FixtureRequest, pools: dict[str, Executor]) -> Any:
    if request.param == "dask":
        return request.getfixturevalue("dask_client").get_executor()
    return pools[request.param] if request.param in pools else Late()


class Through:
    """``submit`` of another executor, of tasks that ``change(number, task)`` has changed; keeps the futures."""

    def __init__(self, executor: Any, change: Callable[[int, Any], Any] = lambda number, task: task) -> None:
        self.executor = executor
        self.change = change
        self.futures: list[Future[object]] = []

    def submit(self, task: Callable[[], object]) -> Future[object]:
        self.futures.append(self.executor.submit(self.change(len(self.futures), task)))
        return self.futures[-1]

    @property
    def queued(self) -> int:
        return sum(not (future.done() or future.running()) for future in self.futures)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the library has logged so far."""
    caplog.set_level(logging.WARNING, "mil_palettize")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "mil_palettize"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """The package of a form as one thread makes it, file by file."""

    @functools.cache
    def made(name: str) -> dict[str, bytes]:
        destination = tmp_path_factory.mktemp("alone") / "out.mlpackage"
        report = FORMS[name].palettize(destination, workers=1)
        assert report.palettized
        return contents(destination)

    return made


# The same bytes


@pytest.mark.parametrize("name", FEW)
def test_same_bytes_on_every_executor(
    name: str, executor: Any, alone: Callable[..., Any], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    FORMS[name].palettize(tmp_path / "out.mlpackage", executor=executor, verify=True)
    assert contents(tmp_path / "out.mlpackage") == alone(name)
    assert said() == []


@pytest.mark.parametrize("name", slow_where(scaled_vectors, [name for name in FORMS if name not in FEW]))
def test_same_bytes_of_every_form(
    name: str, pools: dict[str, Executor], alone: Callable[..., Any], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    FORMS[name].palettize(tmp_path / "out.mlpackage", executor=pools["fork"])
    assert contents(tmp_path / "out.mlpackage") == alone(name)
    assert said() == []


def test_redo(pools: dict[str, Executor], said: Callable[[], list[str]], tmp_path: Path) -> None:
    """What is made dense first is not sent: its weights are open files here."""
    FORMS["typed"].palettize(tmp_path / "once.mlpackage")
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, **ALL))
    outs = []
    for name, keywords in (("a", {"workers": 1}), ("b", {"executor": Through(pools["fork"])})):
        outs.append(tmp_path / f"{name}.mlpackage")
        report = palettize_package(tmp_path / "once.mlpackage", outs[-1], config, redo=True, **keywords)
        assert len(report.palettized) == 4
    assert contents(outs[0]) == contents(outs[1])
    assert len(keywords["executor"].futures) == 4
    assert said() == []


def test_custom_function_that_others_can_import(
    pools: dict[str, Executor], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    check_custom(of_the_extremes, pools["spawn"], tmp_path)
    assert said() == []


def test_task_that_cannot_be_sent_is_done_here(
    pools: dict[str, Executor], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    check_custom(lambda array: of_the_extremes(array), pools["fork"], tmp_path)
    assert len(said()) == 1
    assert "pickle" in said()[0]


def check_custom(function: Callable[..., Any], executor: Executor, folder: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(mode="custom", lut_function=function, **ALL))
    for name, keywords in (("a", {"workers": 1}), ("b", {"executor": executor})):
        report = palettize_package(FORMS["typed"].source(), folder / f"{name}.mlpackage", config, **keywords)
        assert len(report.palettized) == 4
    assert contents(folder / "a.mlpackage") == contents(folder / "b.mlpackage")


# What is sent


@pytest.mark.parametrize("name", STORED)
def test_weights_go_out_as_references_and_come_back_as_palettes(name: str, tmp_path: Path) -> None:
    executor = Late()
    report = FORMS[name].palettize(tmp_path / "out.mlpackage", executor=executor)
    assert len(executor.payloads) == len(report.palettized) == 4
    assert max(map(len, executor.payloads)) < MOST_BYTES
    for answer, weight in zip(executor.answers[::-1], report.palettized, strict=True):
        assert len(answer) < weight.bytes_after + MOST_BYTES
    source = pickle.loads(executor.payloads[0]).source
    assert isinstance(source, WeightReference)
    assert os.path.isabs(source.path)


def test_worker_that_sees_another_file(
    pools: dict[str, Executor], alone: Callable[..., Any], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Of the same architecture, so that every weight is where it should be: its values are not taken."""
    (weight_file,) = FORMS["typed"].source().rglob("weight.bin")
    other = bytearray(weight_file.read_bytes())
    with BlobReader(weight_file) as reader:
        for record in reader.all_records():
            other[record.offset] ^= 1
    for data in (bytes(other), b"", None):
        (tmp_path / "weight.bin").unlink(missing_ok=True)
        if data is not None:
            (tmp_path / "weight.bin").write_bytes(data)
        change = functools.partial(functools.partial, elsewhere, str(tmp_path / "weight.bin"))
        through = Through(pools["fork"], lambda number, task, change=change: change(task))
        FORMS["typed"].palettize(tmp_path / "out.mlpackage", executor=through, overwrite=True)
        assert contents(tmp_path / "out.mlpackage") == alone("typed")
        assert len(through.futures) == 4
        assert "weight.bin" in said()[-1]
    assert len(said()) == 3


# Errors


@pytest.mark.parametrize("kind", ["threads", "fork", "dask"])
def test_error_of_a_task_comes_through(
    kind: str, pools: dict[str, Executor], request: pytest.FixtureRequest, said: Callable[[], list[str]], tmp_path: Path
) -> None:
    """In the same words as without an executor; nothing is left, in the folder or the executor, which goes on."""
    inner = pools[kind] if kind in pools else request.getfixturevalue("dask_client").get_executor()
    executor = Through(inner)
    config = OptimizationConfig(OpPalettizerConfig(mode="custom", lut_function=of_nothing, **ALL))
    lines = []
    for keywords in ({"workers": 1}, {"executor": executor}):
        with pytest.raises(AlgorithmError, match="lut_function returned 3 indices for 2560 elements") as raised:
            palettize_package(FORMS["typed"].source(), tmp_path / "out.mlpackage", config, **keywords)
        lines.append(str(raised.value))
        assert os.listdir(tmp_path) == []
    assert lines[0] == lines[1]
    assert executor.queued == 0
    assert said() == []
    assert inner.submit(of_the_extremes, np.arange(3)).result()[0].tolist() == [0, 2]


def test_strict(pools: dict[str, Executor], tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(mode="unique", **ALL))
    lines = []
    for keywords in ({"workers": 1}, {"executor": pools["fork"]}):
        with pytest.raises(PlanError) as raised:
            palettize_package(FORMS["typed"].source(), tmp_path / "out.mlpackage", config, strict=True, **keywords)
        lines.append(str(raised.value))
    assert lines[0] == lines[1]
    assert os.listdir(tmp_path) == []


def test_error_while_writing_takes_back_what_is_queued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Never:
        """Carries out the task of the first weight and queues the others."""

        def submit(self, task: Task) -> Future[object]:
            future: Future[object] = Future()
            if task.source.name.endswith("conv_weight"):
                future.set_result(task())
            return future

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(palette_writer, "store_palette", full)
    executor = Through(Never())
    with pytest.raises(OSError, match="No space left"):
        FORMS["typed"].palettize(tmp_path / "out.mlpackage", executor=executor)
    assert sorted(future.cancelled() for future in executor.futures) == [False, True, True, True]
    assert os.listdir(tmp_path) == []


def test_several_windows(
    pools: dict[str, Executor], monkeypatch: pytest.MonkeyPatch, alone: Callable[..., Any], tmp_path: Path
) -> None:
    monkeypatch.setattr("mil_palettize.encoding.workers.BYTES_SENT_OUT", 4000)
    FORMS["grouped"].palettize(tmp_path / "out.mlpackage", executor=pools["fork"])
    assert contents(tmp_path / "out.mlpackage") == alone("grouped")


@pytest.mark.skipif(sys.platform != "linux", reason="lists the open files of a process")
def test_references_leave_no_file_open(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        before = len(os.listdir("/proc/self/fd"))
        FORMS["typed"].palettize(tmp_path / "out.mlpackage", executor=threads)
        assert len(os.listdir("/proc/self/fd")) == before


# Workers that are killed


@pytest.mark.parametrize("victim", [0, 2, 3])
def test_killed_worker_of_a_pool(
    victim: int, alone: Callable[..., Any], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    """The pool is broken for good: the rest, and all of the next run with it, is done here."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        through = Through(pool, lambda number, task: functools.partial(killed, task) if number == victim else task)
        for run in range(2):
            FORMS["grouped"].palettize(tmp_path / f"{run}.mlpackage", executor=through)
            assert contents(tmp_path / f"{run}.mlpackage") == alone("grouped")
            assert len(said()) == run + 1
            assert "BrokenProcessPool" in said()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("fatal", [False, True])
def test_killed_worker_of_dask(
    fatal: bool, dask_client: Any, alone: Callable[..., Any], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Dask gives the task to another worker, unless it takes the task to be fatal."""
    once = functools.partial(killed_once, str(tmp_path / "killed"))
    scheduler = dask_client.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0 if fatal else 3
    try:
        through = Through(
            dask_client.get_executor(), lambda number, task: functools.partial(once, task) if number == 1 else task
        )
        FORMS["grouped"].palettize(tmp_path / "out.mlpackage", executor=through)
    finally:
        scheduler.allowed_failures = allowed
    assert (tmp_path / "killed").exists()
    assert contents(tmp_path / "out.mlpackage") == alone("grouped")
    assert len(said()) == fatal
    assert all("KilledWorker" in line for line in said())
