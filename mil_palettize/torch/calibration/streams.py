"""Samples that walk through a function in step, their values dropped after the last reader or put on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mil_palettize.errors import PackageError
from mil_palettize.torch.evaluator.execution import Execution, Listener
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Step

_PARKED = ".pt"


class Stream:
    """One run of a function for each sample. ``memory``: bytes of values above which those of samples that are not
    looked at lie in a temporary folder; use as a context manager. Raises PackageError where that cannot take them."""

    def __init__(
        self,
        module: MILModule,
        samples: Sequence[Mapping[str, Any]],
        memory: int,
    ) -> None:
        self.memory = memory
        self.constants = module.constants()
        self.half = module.half
        self._runs = [Execution(module.function, module.values_of(sample), module.half, []) for sample in samples]
        self._live = [self._nbytes(run.values) for run in self._runs]
        self._parked: dict[int, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        return len(self._runs)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def arguments(self, sample: int, step: Step) -> dict[str, Any]:
        """What the op gets in this sample."""
        found = self._run(sample).arguments(step)
        self._settle(sample)
        return found

    def values(self, sample: int) -> dict[str, Any]:
        """All that is known of this sample so far, by slot; the caller's own."""
        found = dict(self._run(sample).values)
        self._settle(sample)
        return found

    def results(self, step: Step, arguments: dict[str, Any]) -> tuple[Any, ...]:
        """What the op gives for these arguments."""
        return self._runs[0].results(step, arguments)

    def advance(self, step: Step, sample: int | None = None, listener: Listener | None = None) -> None:
        """Run the op for all samples, or for one, which ``listener`` is told of."""
        for number in range(len(self)) if sample is None else (sample,):
            run = self._run(number)
            run.listeners = [] if listener is None else [listener]
            run.advance(step)
            self._live[number] = self._nbytes(run.values)
            self._settle(number)

    def derive(self, steps: Iterable[Step]) -> None:
        """Run ops that compute with constants only, once for all samples."""
        run = Execution(self._runs[0].function, self.constants, self._runs[0].half, [])
        for step in steps:
            results = run.results(step, run.arguments(step))
            self.constants.update(zip(step.outputs, results, strict=True))
        for one in self._runs:
            one.values.update({slot: v for slot, v in self.constants.items() if slot not in one.values})

    def replace(self, slot: str, value: torch.Tensor, derived: Iterable[Step]) -> None:
        """Go on with another constant, and with what is computed of it alone."""
        changed = {slot}
        self.constants[slot] = value
        run = Execution(self._runs[0].function, self.constants, self._runs[0].half, [])
        for step in derived:
            if changed & set(step.slots_read()):
                results = run.results(step, run.arguments(step))
                self.constants.update(zip(step.outputs, results, strict=True))
                changed |= set(step.outputs)
        for one in self._runs:
            one.values.update({name: self.constants[name] for name in changed})

    def outputs(self) -> list[dict[str, Any]]:
        """Of every sample by name, at the end."""
        function = self._runs[0].function
        return [
            {n: self._run(i).values[s] for n, s in zip(function.output_names, function.block.outputs, strict=True)}
            for i in range(len(self))
        ]

    def _run(self, sample: int) -> Execution:
        run = self._runs[sample]
        if sample in self._parked:
            path = self._parked.pop(sample)
            run.values.update(torch.load(path, weights_only=True))
            path.unlink()
            self._live[sample] = self._nbytes(run.values)
        return run

    def _settle(self, sample: int) -> None:
        """Put the values of a sample on disk where those of all are too many."""
        if sum(self._live) > self.memory:
            self._park(sample)

    def _park(self, sample: int) -> None:
        run = self._runs[sample]
        own = {
            slot: value.clone()
            for slot, value in run.values.items()
            if isinstance(value, torch.Tensor) and slot not in self.constants
        }
        self._parked[sample] = self._saved(own, f"{sample}{_PARKED}")
        for slot in own:
            del run.values[slot]
        self._live[sample] = 0

    def _saved(self, values: Mapping[str, torch.Tensor], name: str) -> Path:
        """Raises PackageError where the temporary folder cannot take them."""
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="mil-palettize-")
            path = Path(self._folder.name) / name
            with path.open("wb") as file:  # Python's: torch's own says nothing of a full disk
                torch.save(values, file)
        except OSError as error:
            raise PackageError(
                f"calibration cannot put values on disk in {tempfile.gettempdir()}: {error.strerror or error}; give "
                "more memory (--memory), or set TMPDIR to a folder with more room"
            ) from error
        return path

    def _nbytes(self, values: Mapping[str, Any]) -> int:
        return sum(
            value.numel() * value.element_size()
            for slot, value in values.items()
            if slot not in self.constants and isinstance(value, torch.Tensor)
        )
