"""A calibration on executors: the same bytes as alone, whatever becomes of the workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.errors import EvaluationError  # noqa: E402
from mil_palettize.torch.calibration import links, part, workers  # noqa: E402
from mil_palettize.torch.calibration.walk import Collected, WalkOptions, walk  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

CONFIG = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, SPAWN) as pool:
        yield pool


@pytest.fixture(scope="module")
def dask(dask_client: Any) -> Any:
    return dask_client.get_executor()


def written(source: Path, out: Path, calibration: Calibration, **options: Any) -> list[bytes]:
    palettize_package(source, out, CONFIG, calibration=calibration, **options)
    return [file.read_bytes() for file in sorted(out.rglob("*")) if file.suffix in (".bin", ".mlmodel")]


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workers walked along, for each walk."""
    found: list[int] = []
    call = workers.call_workers

    def counted(some: Any, *given: Any) -> None:
        call(some, *given)
        found.append(len(some.workers))

    monkeypatch.setattr("mil_palettize.torch.calibration.walk.call_workers", counted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "dask"])
@pytest.mark.parametrize("name", ["conv_fp32_ios18", "loop_ios16", "stateful_ios18", "recurrent_fp32_ios16"])
def test_the_same_bytes_as_alone(
    fixtures: Path, tmp_path: Path, name: str, kind: str, came: list[int], request: pytest.FixtureRequest
) -> None:
    source, executor = fixtures / f"{name}.mlpackage", request.getfixturevalue(kind)
    alone = written(source, tmp_path / "alone.mlpackage", Calibration(samples=20))
    shared = written(source, tmp_path / "shared.mlpackage", Calibration(samples=20), executor=executor)
    assert alone == shared
    assert came[1] == 2


@pytest.mark.parametrize("name", ["pipeline_ios17", "multifunction_ios18"])
def test_on_threads_too(fixtures: Path, tmp_path: Path, name: str, came: list[int]) -> None:
    source = fixtures / f"{name}.mlpackage"
    alone = written(source, tmp_path / "alone.mlpackage", Calibration(samples=10))
    count = len(came)
    with ThreadPoolExecutor(3) as pool:
        shared = written(source, tmp_path / "shared.mlpackage", Calibration(samples=10), executor=pool)
    assert alone == shared
    assert came[count:] == [3] * count
    assert not any(came[:count])


def test_the_weights_alone_go_to_an_executor(fixtures: Path, tmp_path: Path) -> None:
    source, sent = fixtures / "conv_fp32_ios18.mlpackage", []

    class Counting(ThreadPoolExecutor):
        def submit(self, *given: Any, **options: Any) -> Future[Any]:
            sent.append(given)
            return super().submit(*given, **options)

    alone = written(source, tmp_path / "alone.mlpackage", Calibration(method="weights"))
    with Counting(2) as pool:
        shared = written(source, tmp_path / "shared.mlpackage", Calibration(method="weights"), executor=pool)
    assert alone == shared
    assert sent


def streams(
    module: MILModule, samples: list[Any], executor: Executor | None, memory: int = 1 << 30
) -> tuple[list[np.ndarray], list[Any]]:
    squares: list[np.ndarray] = []
    weights = {slot: weight.detach().numpy().copy() for slot, weight in module.weights.items()}

    def solve(found: Collected) -> np.ndarray:
        squares.extend(m.square for m in found.moments)
        return np.round(weights[found.slot] * 2) / 2

    options = WalkOptions(held=frozenset({2, 7}), memory=memory)
    walked = walk(module, samples, list(weights), solve, options, executor=executor)
    return squares, [*walked.before, *walked.after]


@pytest.mark.parametrize("command", ["begin", "collect", "replace", "advance", "outputs"])
def test_what_a_lost_worker_had_is_done_here(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, command: str, temporary: Path
) -> None:
    """One of two stops at some request of each kind, with values on disk."""
    module = MILModule.from_package(fixtures / "conv_fp32_ios18.mlpackage")
    samples = [module.features.tensors(sample) for sample in plausible_inputs(module, 12)]
    wanted = streams(module, samples, None)
    carry_out, lock, stopped = workers._Walker.carry_out, threading.Lock(), []

    def failing(self: Any, asked: str, *arguments: Any) -> Any:
        with lock:
            if asked == command and not stopped:
                stopped.append(self)
                raise OSError("no more")
        return carry_out(self, asked, *arguments)

    monkeypatch.setattr(workers._Walker, "carry_out", failing)
    with ThreadPoolExecutor(2) as pool:
        found = streams(module, samples, pool, memory=1)
    assert stopped
    assert "which is done here: OSError: no more" in caplog.text
    assert all(np.array_equal(one, two) for one, two in zip(found[0], wanted[0], strict=True))
    for one, two in zip(found[1], wanted[1], strict=True):
        assert all(torch.equal(one[name], two[name]) for name in two)
    assert not list(temporary.iterdir())


class Never:
    """An executor that begins nothing, or takes nothing."""

    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses

    def submit(self, *given: Any) -> Future[Any]:
        if self.refuses:
            raise RuntimeError("closed")
        future: Future[Any] = Future()
        if given:
            future.set_exception(ValueError("cannot be sent"))
        return future


@pytest.mark.parametrize("refuses", [False, True])
def test_an_executor_that_does_nothing(fixtures: Path, caplog: pytest.LogCaptureFixture, refuses: bool) -> None:
    module = MILModule.from_package(fixtures / "conv_fp32_ios18.mlpackage")
    samples = [module.features.tensors(sample) for sample in plausible_inputs(module, 10)]
    found = streams(module, samples, Never(refuses))  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(found[0], streams(module, samples, None)[0], strict=True))
    assert ("closed" if refuses else "cannot be sent") in caplog.text


def test_an_error_of_a_sample_is_the_same_as_alone(fixtures: Path) -> None:
    module = MILModule.from_package(fixtures / "conv_fp32_ios18.mlpackage")
    samples = [module.features.tensors(sample) for sample in plausible_inputs(module, 10)]
    samples[0] = {name: tensor[..., :3] for name, tensor in samples[0].items()}
    with ThreadPoolExecutor(2) as pool, pytest.raises(EvaluationError, match="has shape"):
        streams(module, samples, pool)


def test_an_interrupt_lets_the_workers_go(fixtures: Path, temporary: Path) -> None:
    module = MILModule.from_package(fixtures / "conv_fp32_ios18.mlpackage")
    samples = [module.features.tensors(sample) for sample in plausible_inputs(module, 10)]

    def stop(found: Collected) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:  # leaving it waits for its threads
        walked = pool.submit(walk, module, samples, list(module.weights), stop, WalkOptions(memory=1), executor=pool)
        assert isinstance(walked.exception(), KeyboardInterrupt)
    assert not list(temporary.iterdir())


def test_who_does_not_know_the_key_is_no_worker() -> None:
    taken: list[Any] = []

    def task(invitation: links.Invitation) -> None:
        wrong = links.Invitation(invitation.hosts, invitation.machine, invitation.port, os.urandom(32))
        taken.append(wrong.accept())
        taken.append(invitation.accept())

    with ThreadPoolExecutor(1) as pool:
        found, _ = links.links_to(pool, 1, task)
    assert len(found) == 1
    assert taken[0] is None
    found[0].close()
    taken[1].close()


@pytest.mark.parametrize("count", range(20))
def test_blocks_follow_from_the_number_of_samples(count: int) -> None:
    blocks = part.blocks_of(range(count))
    assert [number for block in blocks for number in block] == list(range(count))
    assert len(blocks) == min(count, 8)
    assert all(blocks)
