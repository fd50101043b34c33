"""The functions of a model, each with the samples of a calibration, and what these show of its weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.calibration_samples import Calls, Refusals, calls_of, check_call
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import EvaluationError
from mil_palettize.program.model import Model
from mil_palettize.program.stages import pipeline_models

_MEMORY = 4  # of what is free, one part is for values

Tell = Callable[[int, int, str], object]


def check_samples(model: Model, calibration: Calibration) -> None:
    """Raise what a calibration does of samples and of ops, and ConfigError without torch, before it works."""
    if calibration.method != "weights":
        for whole, given in SampledFunctions(model, calibration).functions():
            for call in () if given is None else given.arrays:
                check_call(whole, call)


def moments_found(found: Any) -> list[Moments]:
    """Of what a walk collected, which knows torch, as solvers take them, which do not."""
    return [Moments(m.where, m.square, m.cross, m.count, m.residual) for m in found.moments]


def _check_others(module: Any, given: Calls) -> None:
    """Than the first call, of a function that takes this."""
    for number, call in enumerate(given.arrays[1:], 1):
        try:
            check_call(module, call)
        except EvaluationError as error:
            told = f"function {module.function_name!r} takes the first sample, but not call {number}: {error}"
            raise EvaluationError(f"{told}; give samples of one function") from error


@dataclass
class SampledFunctions:
    """``pool``: whose executor takes samples. ``notes``: on the samples, for the report; ``held``: samples that were
    given and palettes are not made of, where the model has one function: known when :meth:`functions` was gone
    through."""

    model: Model
    calibration: Calibration
    pool: Workers | None = None
    notes: list[str] = field(default_factory=list)
    held: Sequence[Mapping[str, Any]] = ()

    def functions(self) -> Iterator[tuple[Any, Calls | None]]:
        """Each of them, or the pipeline, with its samples; None where those that were given are not for it."""
        from mil_palettize.torch.devices import check_device
        from mil_palettize.torch.evaluator.model_pipeline import evaluated

        check_device(self.calibration.device)
        pipeline = bool(pipeline_models(self.model.spec))
        functions = [] if pipeline else sorted(self.model.stages[0].program.functions)
        if len(functions) > 1:
            yield from self._of_several(functions)
            return
        whole = evaluated(self.model)
        given = calls_of(self.calibration, whole, self.notes)
        if not self.calibration.made_up:
            self.held = [given.arrays[number] for number in sorted(given.held)]
        yield whole, given

    def _of_several(self, functions: Sequence[str]) -> Iterator[tuple[Any, Calls | None]]:
        """Each function with the samples that it takes: their first call tells. Raises EvaluationError where none takes
        them, and where one takes the first but not all."""
        from mil_palettize.torch.evaluator.model_pipeline import evaluated

        refusals = Refusals(self.calibration.sample_data, functions)
        for name in functions:
            module, notes = evaluated(self.model, name), list[str]()
            try:
                given = calls_of(self.calibration, module, notes)
                check_call(module, given.arrays[0])
            except EvaluationError as error:
                refusals.add(name, error)
                told = f"by its weights alone, as it does not take the samples ({error})"
                self.notes.append(f"function {name!r}: {told}")
                yield module, None
                continue
            self.notes += [f"function {name!r}: {note}" for note in notes]
            _check_others(module, given)
            yield module, given

    def listen(
        self,
        module: Any,
        given: Calls,
        slots: Sequence[str],
        note: Callable[[Any], None],
        held: frozenset[int] = frozenset(),
        tell: Tell | None = None,
    ) -> None:
        """Walk through ``module`` with its weights as they are. ``note``: takes what was ``Collected`` of each of
        ``slots``, but for sensitivities; ``held``: samples that are left out of that; ``tell``: how many runs of ops
        are done, of how many, and the name of the op."""
        from mil_palettize.torch.calibration.sequences import states_before
        from mil_palettize.torch.calibration.walk import walk

        samples = [module.features.tensors(call) for call in given.arrays]
        states = states_before(module, samples, given.begins)
        executor = None if self.pool is None else self.pool.executor
        options = replace(self.options(held), sensitive=False)
        walk(module, samples, slots, note, options, states=states, executor=executor, progress=tell)

    def options(self, held: frozenset[int]) -> Any:
        """Of a walk that leaves the samples ``held`` out."""
        from mil_palettize.torch.calibration.walk import WalkOptions
        from mil_palettize.torch.evaluator.memory import free_bytes

        asked = self.calibration
        memory = asked.memory or free_bytes() // _MEMORY
        crossed = not asked.made_up  # what made-up samples lose tells nothing of others
        return WalkOptions(asked.positions, asked.seed, held, memory, asked.device, crossed)
