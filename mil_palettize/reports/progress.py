"""What a person watching sees while weights are calibrated and palettized: ops, weights and bytes done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mil_palettize.algorithms.compiled.jit import when_compiling
from mil_palettize.reports.counting import CountedBar
from mil_palettize.reports.progress_lines import ProgressLines, write_line
from mil_palettize.text import printable, shorten

_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}B/{total_fmt}B [{elapsed}<{remaining}{postfix}]"
_CALIBRATING = "calibrating {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
_TRYING = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
_NAME_WIDTH = 24
_COMPILING = "compiling, once after installing"
COMPILING_LINE = "mil_palettize: compiling loops, which takes some seconds, once per version and kind of palette\n"


@dataclass(frozen=True)
class ProgressEvent:
    """State after a weight is done. ``name``: ``function/name`` of that weight, "" at the start. Before that, while
    samples are run through ops to calibrate, ``name`` is that of the op, ``runs_done`` of ``runs_total`` are its runs
    and those of the ops before it, one for each sample, and no weight is done; later both are 0. After the last weight,
    while palettes are verified and models are compared, ``name`` says which, and ``runs_done`` are palettes or samples.
    While a plan is measured ``name`` says what is tried, and what the one before measured, ``runs_done`` are trials, or
    sizes of a bisection; between these are the events of making what is tried.

    >>> config, events = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4)), []
    >>> _ = palettize_package("fixtures/conv_fp16_ios18.mlpackage", "small.mlpackage", config, progress=events.append)
    >>> [event.weights_done for event in events], events[-1].name
    ([0, 1, 2, 3, 4, 5], 'main/head_weight')
    """

    name: str
    weights_done: int
    weights_total: int
    bytes_done: int
    bytes_total: int
    runs_done: int = 0
    runs_total: int = 0


class Progress(Protocol):
    def calibrate(self, done: int, total: int, name: str) -> None: ...

    def start(self, weights: int, nbytes: int) -> None: ...

    def advance(self, name: str, weights: int, nbytes: int) -> None: ...

    def count(self, what: str, done: int, total: int) -> None: ...

    def trial(self, what: str, done: int, total: int) -> None: ...

    def close(self) -> None: ...


class CallbackProgress:
    """Passes :class:`ProgressEvent` objects to a function; None passes nothing."""

    def __init__(self, callback: Callable[[ProgressEvent], object] | None) -> None:
        self._callback = callback
        self._state = ProgressEvent("", 0, 0, 0, 0)

    def _tell(self, state: ProgressEvent) -> None:
        self._state = state
        if self._callback is not None:
            self._callback(state)

    def calibrate(self, done: int, total: int, name: str) -> None:
        self._tell(ProgressEvent(name, 0, 0, 0, 0, done, total))

    def start(self, weights: int, nbytes: int) -> None:
        self._tell(ProgressEvent("", 0, weights, 0, nbytes))

    def advance(self, name: str, weights: int, nbytes: int) -> None:
        s = self._state
        done = ProgressEvent(name, s.weights_done + weights, s.weights_total, s.bytes_done + nbytes, s.bytes_total)
        self._tell(done)

    def count(self, what: str, done: int, total: int) -> None:
        self._tell(replace(self._state, name=what, runs_done=done, runs_total=total))

    def trial(self, what: str, done: int, total: int) -> None:
        self._tell(ProgressEvent(what, 0, 0, 0, 0, done, total))

    def close(self) -> None:
        pass


class BarProgress:
    """A tqdm bar over bytes that counts weights beside it, on standard error where that is a terminal, else a line
    now and then.

    The first palette after installing waits for loops to be compiled: the bar says so, and where there is none, a line.
    Calibration has a bar of its own before it, over the runs of ops. Trials of plans have one that stays, above the
    bars of each.
    """

    def __init__(self) -> None:
        self._runs: Any = None
        self._bar: Any = None
        self._trials: Any = None
        self._counted = CountedBar()
        self._lines = ProgressLines()
        self._told = False
        self._end_listening = when_compiling(self._tell_compiling)

    def _tell_compiling(self) -> None:
        """Once; the next op or weight takes the words' place in the bar."""
        if self._told:
            return
        self._told = True
        bar = self._bar if self._runs is None else self._runs
        if bar is not None and not bar.disable:
            bar.set_postfix_str(_COMPILING)
        else:
            write_line(COMPILING_LINE)

    def calibrate(self, done: int, total: int, name: str) -> None:
        from tqdm import tqdm

        if self._runs is None:
            self._runs = tqdm(total=total, leave=False, dynamic_ncols=True, disable=None, bar_format=_CALIBRATING)
        if self._runs.total != total or done < self._runs.n:  # the next function
            self._runs.reset(total)
        self._runs.set_postfix_str(shorten(printable(name), _NAME_WIDTH), refresh=False)
        self._runs.update(done - self._runs.n)
        self._lines.tell("calibrating: runs of ops", done, total)

    def _end_runs(self) -> None:
        if self._runs is not None:
            self._runs.close()
            self._runs = None

    def start(self, weights: int, nbytes: int) -> None:
        from tqdm import tqdm

        self._end_runs()
        self._done, self._total = 0, weights
        self._bar = tqdm(
            desc=f"0/{weights} weights",
            total=nbytes,
            unit="B",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=None,
            bar_format=_BAR,
        )

    def advance(self, name: str, weights: int, nbytes: int) -> None:
        self._done += weights
        self._bar.set_description_str(f"{self._done}/{self._total} weights", refresh=False)
        self._bar.set_postfix_str(shorten(printable(name), _NAME_WIDTH), refresh=False)
        self._bar.update(nbytes)
        self._lines.tell("weights", self._done, self._total)

    def count(self, what: str, done: int, total: int) -> None:
        self._counted.count(what, done, total)

    def trial(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        self._end_runs()
        if self._trials is None:
            self._told = True  # bars of the trials tell of compiling
            self._trials = tqdm(total=total, leave=False, dynamic_ncols=True, disable=None, bar_format=_TRYING)
        self._trials.set_description_str(what, refresh=False)
        self._trials.update(done - self._trials.n)
        self._trials.refresh()
        self._lines.tell(what, done, total)

    def close(self) -> None:
        self._end_listening()
        self._end_runs()
        self._counted.close()
        if self._trials is not None:
            self._trials.close()
        if self._bar is not None:  # otherwise nothing was begun
            self._bar.close()


def make_progress(progress: bool | Callable[[ProgressEvent], object] | None) -> Progress:
    """``True``: a bar; a function: called with events; ``None`` or ``False``: nothing."""
    if progress is True:
        return BarProgress()
    return CallbackProgress(progress or None)
