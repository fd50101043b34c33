"""Order, memory and failure of work on threads and on executors, with tasks and executors made for it."""

from __future__ import annotations

import importlib
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mil_palettize
from mil_palettize.algorithms.making import NonFiniteError, TooManyValuesError, UnquantizableError
from mil_palettize.encoding import workers as parallel
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import AlgorithmError, ConfigError, PackageError, PalettizeError, UnsupportedModeError


class Queue:
    """An executor with ``submit`` alone. A task is begun when its result is asked for, and every later one before it:
    the last first. ``taken``: tasks in the order they came."""

    def __init__(self) -> None:
        self.taken: list[Callable[[], object]] = []
        self.futures: list[Future[object]] = []

    def submit(self, task: Callable[[], object]) -> Future[object]:
        future = _Asked(self)
        self.taken.append(task)
        self.futures.append(future)
        return future

    def run(self) -> None:
        for task, future in reversed(list(zip(self.taken, self.futures, strict=True))):
            if not future.done() and future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:
                    future.set_exception(error)

    @property
    def left(self) -> int:
        """Tasks that are neither done nor taken back."""
        return sum(not future.done() for future in self.futures)


class _Asked(Future[object]):
    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue = queue

    def result(self, timeout: float | None = None) -> object:
        self.queue.run()
        return super().result(timeout)


class Named:
    """A task that counts its calls and gives its name back, or raises it."""

    def __init__(self, name: object, fail: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.fail = fail
        self.calls = 0

    def __call__(self) -> object:
        self.calls += 1
        self.fail()
        return self.name


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "mil_palettize")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "mil_palettize"]


# Order and memory


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 100))
def test_window(sizes: list[int], limit: int) -> None:
    """In order, never more bytes than allowed (but for one that is larger by itself), and those that are begun together
    are begun the largest first."""
    tasks = [Named(number) for number in range(len(sizes))]
    read: list[int] = []
    begun: list[int] = []
    received: list[object] = []

    class Watched(Queue):
        def submit(self, task: Callable[[], object]) -> Future[object]:
            assert isinstance(task, Named)
            begun.append(tasks.index(task))
            in_flight = sum(sizes[number] for number in begun) - sum(sizes[number] for number in range(len(received)))
            assert in_flight <= limit or len(begun) == len(received) + 1
            batch = [number for number in begun if number >= batches[-1]]
            assert [sizes[number] for number in batch] == sorted((sizes[n] for n in batch), reverse=True)
            return super().submit(task)

        def run(self) -> None:
            batches.append(len(begun))
            super().run()

    batches = [0]

    def given_tasks() -> Iterator[tuple[int, Named]]:
        for number, task in enumerate(tasks):
            read.append(number)
            yield sizes[number], task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "BYTES_SENT_OUT", limit)
        for result in Workers(executor=Watched()).ordered(given_tasks()):  # type: ignore[arg-type]
            received.append(result)
            ahead = sum(sizes[number] for number in read[len(received) : -1])
            assert ahead <= limit
    assert received == list(range(len(sizes)))
    assert [task.calls for task in tasks] == [1] * len(sizes)


def test_large_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "BYTES_SENT_OUT", 18)
    queue = Queue()
    sizes = [1, 5, 3, 9, 2, 30, 4]
    assert list(Workers(executor=queue).ordered((size, Named(size)) for size in sizes)) == sizes  # type: ignore[arg-type]
    # 2 would be too much with the first four, and is begun as soon as the first of them is there; 30 goes alone.
    assert [task.name for task in queue.taken] == [9, 5, 3, 1, 2, 30, 4]  # type: ignore[attr-defined]


def test_threads_keep_order_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of a window wait for each other, so that they have to be begun together and no more than that."""
    monkeypatch.setattr(parallel, "BYTES_IN_FLIGHT", 3)
    together, lock, running = threading.Barrier(3), threading.Lock(), [0, 0]

    def wait() -> None:
        with lock:
            running[0] += 1
            running[1] = max(running)
        together.wait(60)
        with lock:
            running[0] -= 1

    with Workers(8) as workers:
        first = workers.ordered((1, Named(name, wait)) for name in "abc")
        assert list(first) == ["a", "b", "c"]
        assert running == [0, 3]
        assert list(workers.ordered((2, Named(name)) for name in range(50))) == list(range(50))


def test_one_worker_is_one_thread() -> None:
    """Another than this one, which hears signals meanwhile; nothing is begun before it is asked for."""
    begun = []
    with Workers(1) as workers:
        results = workers.ordered((1, lambda n=n: begun.append(n) or threading.current_thread()) for n in range(3))
        threads = {next(results)}
        assert begun == [0]
        threads |= set(results)
        assert len(threads) == 1
        assert threads != {threading.current_thread()}
        assert workers.pmap is map


def test_after_an_interrupt_nothing_is_waited_for() -> None:
    release, begun = threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        release.wait(60)

    workers = Workers(1)
    workers._outer.submit(task)
    assert begun.wait(60)
    workers.__exit__(KeyboardInterrupt)
    assert not release.is_set()
    release.set()


# Failure


def test_executor_that_fails_loses_nothing(warnings: Callable[[], list[str]]) -> None:
    """It dies, it takes no more, it takes back: what it did not do is done here, each once, and said once."""

    class Failing(Queue):
        def submit(self, task: Callable[[], object]) -> Future[object]:
            number = next(numbers)
            if number > 4:
                raise RuntimeError("takes no more")
            future = super().submit(task)
            if number == 2:
                future.set_exception(RuntimeError("a worker died"))
            elif number == 3:
                assert future.cancel()
            return future

    numbers = count(1)
    queue = Failing()
    tasks = [Named(number) for number in range(7)]
    assert list(Workers(executor=queue).ordered((1, task) for task in tasks)) == list(range(7))  # type: ignore[arg-type]
    assert [task.calls for task in tasks] == [1] * 7
    assert len(warnings()) == 1
    assert "takes no more" in warnings()[0]


@pytest.mark.parametrize("error", [PackageError("no such file there"), MemoryError(), KeyError("a bug")])
def test_error_that_may_be_the_executors_is_tried_here(error: Exception, warnings: Callable[[], list[str]]) -> None:
    here = threading.current_thread()

    def fail() -> None:
        if threading.current_thread() is not here:
            raise error

    task = Named("done", fail)
    with ThreadPoolExecutor(1) as executor, Workers(executor=executor) as workers:
        assert list(workers.ordered([(1, task)])) == ["done"]
        task.fail = raising(error)
        with pytest.raises(type(error)) as raised:
            list(workers.ordered([(1, task)]))
        assert raised.value is error
    assert task.calls == 4
    assert len(warnings()) == 2


def test_error_of_the_task_itself_is_raised_as_it_is(warnings: Callable[[], list[str]]) -> None:
    queue, error = Queue(), NonFiniteError("w", 1, 2)
    tasks = [Named(0), Named(1, raising(error)), Named(2)]
    with Workers(executor=queue) as workers, pytest.raises(NonFiniteError) as raised:  # type: ignore[arg-type]
        list(workers.ordered((1, task) for task in tasks))
    assert raised.value is error
    assert [task.calls for task in tasks] == [1, 1, 1]
    assert warnings() == []


def test_errors_on_own_threads_are_raised_at_once(warnings: Callable[[], list[str]]) -> None:
    task = Named(0, raising(PackageError("full")))
    with Workers(2) as workers, pytest.raises(PackageError):
        list(workers.ordered([(1, task)]))
    assert task.calls == 1
    assert warnings() == []


class Slow(Queue):
    """Never begins anything; waiting is interrupted."""

    def run(self) -> None:
        raise KeyboardInterrupt


def test_interrupt_takes_everything_back() -> None:
    queue = Slow()
    with Workers(executor=queue) as workers, pytest.raises(KeyboardInterrupt):  # type: ignore[arg-type]
        list(workers.ordered((1, Named(number)) for number in range(5)))
    assert len(queue.futures) == 5
    assert queue.left == 0


def test_error_of_who_takes_the_results_takes_the_rest_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even while something, as a traceback does, still holds the iterator."""
    monkeypatch.setattr(parallel, "BYTES_SENT_OUT", 3)
    queue = Queue()
    monkeypatch.setattr(queue, "run", lambda: queue.futures[0].done() or queue.futures[0].set_result("first"))
    with Workers(executor=queue) as workers:  # type: ignore[arg-type]
        results = workers.ordered((1, Named(number)) for number in range(5))
        assert next(results) == "first"
        assert queue.left == 2
    assert queue.left == 0
    assert sum(future.cancelled() for future in queue.futures) == 2


def test_executor_that_cannot_cancel_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Slow()
    monkeypatch.setattr(_Asked, "cancel", lambda self: raising(RuntimeError("broken"))())
    with Workers(executor=queue) as workers, pytest.raises(KeyboardInterrupt):  # type: ignore[arg-type]
        list(workers.ordered([(1, Named(0))]))


def test_executor_is_not_shut_down() -> None:
    with ThreadPoolExecutor(1) as executor:
        for _ in range(2):
            with Workers(executor=executor) as workers:
                assert list(workers.ordered([(1, Named("a"))])) == ["a"]


def test_what_cannot_be_sent_stays_here() -> None:
    queue = Queue()
    with Workers(executor=queue) as workers:  # type: ignore[arg-type]
        assert list(workers.ordered(((1, Named(name)) for name in "ab"), here=True)) == ["a", "b"]
    assert queue.taken == []


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_wrong_counts(count: object) -> None:
    with pytest.raises(ConfigError, match=r"^workers is .*, it must be a whole number from 1 up, or left out$"):
        Workers(count)  # type: ignore[arg-type]


@pytest.mark.parametrize("executor", [4, "threads", ThreadPoolExecutor, object()])
def test_what_is_no_executor(executor: object) -> None:
    with pytest.raises(ConfigError, match=r"^executor is .*, it must be a concurrent\.futures\.Executor$"):
        Workers(executor=executor)  # type: ignore[arg-type]


def test_workers_and_executor_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        Workers(2, Queue())  # type: ignore[arg-type]


# Errors come back from other processes as they were

OWN_CONSTRUCTORS: dict[type[PalettizeError], tuple[object, ...]] = {
    NonFiniteError: ("conv/weight", 3, 4),
    TooManyValuesError: ("conv/weight", 16, "vectors"),
}


def _all_errors() -> list[type[PalettizeError]]:
    folder = Path(mil_palettize.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        if file.stem not in ("__init__", "__main__"):
            with suppress(ConfigError):  # of the room that needs torch, where that is not installed
                importlib.import_module(".".join(file.relative_to(folder.parent).with_suffix("").parts))
    found = [PalettizeError]
    for kind in found:
        found += [inner for inner in kind.__subclasses__() if inner.__module__.startswith("mil_palettize")]
    return sorted(set(found), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", _all_errors())
def test_errors_survive_pickling(kind: type[PalettizeError]) -> None:
    error = kind(*OWN_CONSTRUCTORS.get(kind, ("first line\nsecond",)))  # type: ignore[arg-type]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


def test_the_errors_with_constructors_of_their_own_are_among_them() -> None:
    assert {NonFiniteError, TooManyValuesError, UnquantizableError, UnsupportedModeError, AlgorithmError} <= set(
        _all_errors()
    )


def test_no_thread_is_left_behind() -> None:
    """Although who used them still has them."""
    before = set(threading.enumerate())
    with Workers(2) as workers:
        assert list(workers.ordered((1, lambda number=number: number) for number in range(5))) == [*range(5)]
        assert list(workers.pmap(abs, [-1, -2])) == [1, 2]
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError):
        list(workers.pmap(abs, [-1]))
