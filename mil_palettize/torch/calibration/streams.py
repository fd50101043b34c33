"""Samples that walk through a function in step, their values dropped after the last reader or put on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mil_palettize.errors import PackageError
from mil_palettize.torch.evaluator.execution import Execution, Listener
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.ops.states import State
from mil_palettize.torch.evaluator.program import Function, Step

_PARKED = ".pt"


class Stream:
    """One run of a function for each sample. ``memory``: bytes of values above which those of samples that are not
    looked at lie in a temporary folder; use as a context manager. ``states``: what states hold before each sample,
    zeros without; ``device``: where values lie while they are in memory. Raises PackageError where the temporary folder
    cannot take them."""

    def __init__(
        self,
        module: MILModule,
        samples: Sequence[Mapping[str, Any]],
        memory: int,
        *,
        states: Sequence[Mapping[str, torch.Tensor]] | None = None,
        device: str = "cpu",
    ) -> None:
        self.memory, self.device, self.half = memory, device, module.half
        self._function, self._half = module.function, module.half
        self.constants = {slot: _placed(value, device) for slot, value in module.constants().items()}
        begun = states or [{} for _ in samples]
        self._runs = [
            self._execution(self._values(module, sample, state)) for sample, state in zip(samples, begun, strict=True)
        ]
        self._live = [self._nbytes(run.values) for run in self._runs]
        self._parked: dict[int, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def _values(
        self, module: MILModule, sample: Mapping[str, Any], state: Mapping[str, torch.Tensor]
    ) -> dict[str, Any]:
        """By slot, before the first op; constants are the same tensors for all samples."""
        given = {name: State(tensor.clone()) for name, tensor in state.items()}
        values = module.values_of(sample, {**module.make_state(), **given})
        return {slot: self.constants.get(slot, _placed(value, self.device)) for slot, value in values.items()}

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
        return self._apart().results(step, arguments)

    def _apart(self) -> Execution:
        """Of constants alone."""
        return self._execution(self.constants)

    def _execution(self, values: dict[str, Any]) -> Execution:
        if self.device == "cpu":
            return Execution(self._function, values, self._half, [])
        return _OnDevice(self._function, values, self._half, self.device)

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
        run = self._apart()
        for step in steps:
            results = run.results(step, run.arguments(step))
            self.constants.update(zip(step.outputs, results, strict=True))
        for one in self._runs:
            one.values.update({slot: v for slot, v in self.constants.items() if slot not in one.values})

    def replace(self, slot: str, value: torch.Tensor, derived: Iterable[Step]) -> None:
        """Go on with another constant, and with what is computed of it alone."""
        changed = {slot}
        self.constants[slot] = value.to(self.device)
        run = self._apart()
        for step in derived:
            if changed & set(step.slots_read()):
                results = run.results(step, run.arguments(step))
                self.constants.update(zip(step.outputs, results, strict=True))
                changed |= set(step.outputs)
        for one in self._runs:
            one.values.update({name: self.constants[name] for name in changed})

    def outputs(self) -> list[dict[str, Any]]:
        """Of every sample by name, at the end, in the machine's own memory."""
        names = list(zip(self._function.output_names, self._function.block.outputs, strict=True))
        return [{n: _placed(self._run(i).values[s], "cpu") for n, s in names} for i in range(len(self))]

    def _run(self, sample: int) -> Execution:
        run = self._runs[sample]
        if sample in self._parked:
            path = self._parked.pop(sample)
            for slot, value in torch.load(path, weights_only=True, map_location=self.device).items():
                if isinstance(run.values.get(slot), State):
                    run.values[slot].value = value
                else:
                    run.values[slot] = value
            path.unlink()
            self._live[sample] = self._nbytes(run.values)
        return run

    def _settle(self, sample: int) -> None:
        """Put the values of a sample on disk where those of all are too many."""
        if sum(self._live) > self.memory:
            self._park(sample)

    def _park(self, sample: int) -> None:
        run = self._runs[sample]
        own = {slot: value.clone() for slot, value in self._own(run.values)}
        self._parked[sample] = self._saved(own, f"{sample}{_PARKED}")
        for slot in own:
            if isinstance(run.values[slot], State):
                run.values[slot].value = torch.empty(0)
            else:
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
        return sum(value.numel() * value.element_size() for _, value in self._own(values))

    def _own(self, values: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors of one sample alone, those that states hold among them."""
        for slot, value in values.items():
            tensor = value.value if isinstance(value, State) else value
            if slot not in self.constants and isinstance(tensor, torch.Tensor):
                yield slot, tensor


class _OnDevice(Execution):
    """Also what ops make of no tensor lies on the device."""

    def __init__(self, function: Function, values: dict[str, Any], half: bool, device: str) -> None:
        super().__init__(function, values, half, [])
        self._device = device

    def results(self, step: Step, arguments: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(_placed(result, self._device) for result in super().results(step, arguments))


def _placed(value: Any, device: str) -> Any:
    """The same on a device: a tensor, or what a state holds."""
    if isinstance(value, State):
        return State(value.value.to(device))
    return value.to(device) if isinstance(value, torch.Tensor) else value


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """As float64; in the machine's own memory where the device has no such numbers."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
