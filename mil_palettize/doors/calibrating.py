"""A planned model calibrated: the walk asks for palettes, the choice makes them, in every function of every stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.calibration.choice import PLAIN
from mil_palettize.calibration.kept import KeptRun, run_digest
from mil_palettize.calibration.request import Calibration
from mil_palettize.calibration.solving import Findings, Solved, solved
from mil_palettize.calibration.without_samples import place_findings, solved_alone
from mil_palettize.doors.calibration_samples import Calls, calls_of, fits
from mil_palettize.encoding.encoder import PMap, Task
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined, Encoded
from mil_palettize.encoding.workers import Workers
from mil_palettize.planning.plan import Plan
from mil_palettize.program.fingerprints import fingerprint
from mil_palettize.program.forms import FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.stages import pipeline_models
from mil_palettize.program.weight import Weight, WeightId
from mil_palettize.rewriting.planned_palettes import planned_task
from mil_palettize.text import format_count

_GUARDS = 16  # samples that the whole model is looked at with
_MEMORY = 4  # of what is free, one part is for values
_LOWER = (
    "a lower SNR of a calibrated weight is meant: the plain palette has the least error of the weight, the calibrated "
    "one was chosen for a small error of what its op gives"
)

Tell = Callable[[int, int, str], object]


@dataclass
class Calibrated:
    """``palettes``: of planned weights, made already; ``notes``: for the report; ``held``: samples that were given and
    palettes were not made of, where the model has one function."""

    palettes: dict[WeightId, Encoded | Declined] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    held: Sequence[Mapping[str, Any]] = ()


def calibrated(
    model: Model,
    plan: Plan,
    calibration: Calibration,
    *,
    tell: Tell | None = None,
    pool: Workers | None = None,
    clustered: Clustered | None = None,
) -> Calibrated:
    """Palettes of all planned weights of ``model``. ``tell``: how many runs of ops are done (of weights,
    where there are no samples), of how many, and the name of the op. ``pool``: whose threads take pieces of a weight,
    and whose executor takes samples (without samples, weights). ``clustered``: where the palettes are kept that
    calibration begins with.

    Raises EvaluationError for samples that the model does not take, UnsupportedOpError for ops that the evaluator does
    not know, AlgorithmError for a wrong ``lut_function``.
    """
    sent = pool is not None and pool.executor is not None and calibration.method == "weights"
    run = _Run(model, calibration, _tasks(model, plan, clustered, sent=sent), tell, pool, clustered)
    if calibration.method == "weights":
        run.without_samples()
    else:
        run.with_samples()
    if any(isinstance(made, Encoded) and _is_chosen(made) for made in run.done.palettes.values()):
        run.done.notes.append(_LOWER)
    return run.done


def _is_chosen(made: Encoded) -> bool:
    """Whether it is another palette than the plain one."""
    return made.calibration is not None and made.calibration.method != PLAIN


def check_samples(model: Model, calibration: Calibration) -> None:
    """Raise what :func:`calibrated` does of samples and of ops, and ConfigError without torch, before it works."""
    if calibration.method != "weights":
        for whole, given in _Run(model, calibration, {}).functions():
            for call in () if given is None else given.arrays:
                whole.features.tensors(call)


@dataclass(frozen=True, eq=False)
class _Planned:
    """A weight and the palette to make of it."""

    weight: Weight
    task: Task


def _tasks(model: Model, plan: Plan, clustered: Clustered | None, *, sent: bool) -> dict[WeightId, _Planned]:
    """By what tells the constants apart. ``sent``: to other processes."""
    decisions = {d.weight.id: d for d in plan.decisions if d.specification is not None}
    found = {}
    for site in model.survey().sites:
        decision = decisions.get(site.weight.id)
        if decision is not None:
            form = FORMS[decision.weight.opset]
            assert form is not None
            task = planned_task(model, site, decision, form, clustered, sent=sent)
            found[site.weight.id] = _Planned(decision.weight, task)
    return found


class _Run:
    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        planned: Mapping[WeightId, _Planned],
        tell: Tell | None = None,
        pool: Workers | None = None,
        clustered: Clustered | None = None,
    ) -> None:
        self.clustered = clustered
        self.model, self.calibration, self.planned, self.tell, self.pool = model, calibration, planned, tell, pool
        self.pmap: PMap = map if pool is None else pool.pmap
        self.done = Calibrated()
        self.shared: dict[object, Solved | Declined] = {}  # of weights stored once, by record and specification

    def without_samples(self) -> None:
        """Weights that are stored once are solved once, all at a time as far as the pool allows."""
        alone: dict[object, _Planned] = {}
        for one in self.planned.values():
            alone.setdefault(self._key(one), one)
        pmap: PMap = map if self.pool is not None and self.pool.executor is not None else self.pmap
        solve = partial(solved_alone, calibration=self.calibration, pmap=pmap)
        tasks = ((one.weight.nbytes, partial(solve, one.weight, one.task)) for one in alone.values())
        results = (task() for _, task in tasks) if self.pool is None else self.pool.ordered(tasks)
        for number, (key, one) in enumerate(alone.items(), 1):
            self.shared[key] = next(results)
            if self.tell is not None:
                self.tell(number, len(alone), one.weight.name)
        for one in self.planned.values():
            self._solve(one, Findings())

    def _by_place(self, one: _Planned) -> None:
        self._solve(one, place_findings(one.weight))

    def with_samples(self) -> None:
        from mil_palettize.torch.evaluator.model_pipeline import Pipeline

        for whole, given in self.functions():
            if given is None:
                self._alone(whole)
                continue
            samples = [whole.features.tensors(call) for call in given.arrays]
            if isinstance(whole, Pipeline):
                self._through(whole, samples, given)
            else:
                self._walk(whole, samples, samples, given)

    def functions(self) -> Iterator[tuple[Any, Calls | None]]:
        """Each of them, or the pipeline, with its samples; None where those that were given are not for it."""
        from mil_palettize.torch.devices import check_device
        from mil_palettize.torch.evaluator.model_pipeline import evaluated

        check_device(self.calibration.device)
        pipeline = bool(pipeline_models(self.model.spec))
        functions = [None] if pipeline else sorted(self.model.stages[0].program.functions)
        for name in functions:
            whole = evaluated(self.model, name)
            given = calls_of(self.calibration, whole, self.done.notes)
            if len(functions) > 1 and self.calibration.sample_data is not None and not fits(whole, given.arrays[0]):
                self.done.notes.append(
                    f"function {name!r} takes other inputs than the samples have: by its weights alone"
                )
                yield whole, None
                continue
            if len(functions) == 1 and self.calibration.sample_data is not None:
                self.done.held = [given.arrays[number] for number in sorted(given.held)]
            yield whole, given

    def _alone(self, module: Any) -> None:
        for weight in module.weight_ids.values():
            if weight in self.planned:
                self._by_place(self.planned[weight])

    def _through(self, whole: Any, samples: Sequence[Mapping[str, Any]], given: Calls) -> None:
        """ML Programs one after another: what one gives, the next ones take."""
        before = [{**whole.features.defaults, **sample} for sample in samples]
        after = [dict(values) for values in before]
        for module in whole.programs:
            names = module.features.inputs
            own, other = ([{n: v for n, v in values.items() if n in names} for values in x] for x in (before, after))
            walked = self._walk(module, own, other, given)
            for i in range(len(samples)):
                before[i].update(walked.before[i])
                after[i].update(walked.after[i])

    def _walk(
        self, module: Any, samples: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], given: Calls
    ) -> Any:
        """``others``: samples as the palettized network has them."""
        from mil_palettize.torch.calibration.sequences import states_before
        from mil_palettize.torch.calibration.walk import WalkOptions, outputs_with, walk
        from mil_palettize.torch.evaluator.memory import free_bytes

        wanted = {slot: self.planned[w] for slot, w in module.weight_ids.items() if w in self.planned}
        held, states = given.held, states_before(module, samples, given.begins)
        kept = self._kept(module, samples, given)
        made = {slot: found for slot, one in wanted.items() if (found := self._made_before(slot, one, kept))}
        plain = {slot: solution.plain.expr.decode() for slot, solution in made.items()}

        def solve(found: Any) -> np.ndarray | None:
            moments = [Moments(m.where, m.square, m.cross, m.count) for m in found.moments]
            count = len(samples) - len(held)
            findings = Findings(moments, found.reads, found.trial, count, found.sensitivity, found.spread)
            result = self._solve(wanted[found.slot], findings)
            if isinstance(result, Declined):
                return None
            if kept is not None:
                kept.keep(found.slot, result.encoded)
            plain[found.slot] = result.plain.expr.decode()
            return result.encoded.expr.decode()

        memory = self.calibration.memory or free_bytes() // _MEMORY
        asked = self.calibration
        options = WalkOptions(asked.positions, asked.seed, held, memory, asked.device)
        walked = walk(
            module, samples, list(wanted), solve, options, progress=self.tell, states=states,
            palettized=None if others is samples else others,
            executor=None if self.pool is None else self.pool.executor,
            known={slot: solution.encoded.expr.decode() for slot, solution in made.items()},
        )  # fmt: skip
        self._tell_constants(module, walked.before)
        for one in wanted.values():  # that nothing reads as a matrix
            if one.weight.id not in self.done.palettes:
                self._solve(one, Findings())
        if held:
            guards = sorted(held)[:_GUARDS]
            without = outputs_with(
                module, [others[i] for i in guards], plain, device=asked.device,
                states=None if states is None else [states[i] for i in guards],
            )  # fmt: skip
            self._guard(module, guards, walked, without, list(wanted.values()))
        return walked

    def _kept(self, module: Any, samples: Sequence[Mapping[str, Any]], given: Calls) -> KeptRun | None:
        """Where palettes of this walk are kept; None without a folder, and beside a ``lut_function``: nobody knows what
        that does."""
        tasks = {weight: one.task for weight, one in self.planned.items()}
        if self.clustered is None or any(task.specification.lut_function is not None for task in tasks.values()):
            return None
        place = repr((module.reference.stage, module.function_name, list(given.begins), sorted(given.held)))
        model = fingerprint(self.model.spec, self.model.store)
        return KeptRun(self.clustered, run_digest(model, self.calibration, tasks, samples, place))

    def _made_before(self, slot: str, one: _Planned, kept: KeptRun | None) -> Solved | None:
        """What an earlier function, or an earlier run, made of a weight."""
        key = self._key(one)
        if key not in self.shared and kept is not None:
            found = kept.found(slot, one.task)
            plain = None if found is None else one.task(self.pmap)
            if found is not None and isinstance(plain, Encoded):
                self.shared[key] = Solved(found, plain)
        result = self.shared.get(key)
        if isinstance(result, Solved):
            self.done.palettes[one.weight.id] = result.encoded
            return result
        return None

    def _tell_constants(self, module: Any, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Of outputs that do not depend on the samples, which therefore tell nothing of what errors do to them."""
        first = outputs[0]
        same = [name for name in first if all(_equal(other[name], first[name]) for other in outputs[1:])]
        if len(outputs) > 1 and same:
            self.done.notes.append(
                f"outputs of {module.function_name!r} that are the same for all samples: {', '.join(same)}; "
                "give samples that differ as those of use do"
            )

    def _guard(
        self,
        module: Any,
        held: Sequence[int],
        walked: Any,
        without: Sequence[Mapping[str, Any]],
        planned: Sequence[_Planned],
    ) -> None:
        """Plain palettes for the whole function where these are better on samples held out. ``without``: outputs with
        them."""
        before = _noise([walked.before[i] for i in held], without)
        after = _noise([walked.before[i] for i in held], [walked.after[i] for i in held])
        told = f"outputs of {module.function_name!r} on {format_count(len(held), 'sample')} held out"
        if after <= before:
            self.done.notes.append(f"{told}: {_decibels(before)} → {_decibels(after)} dB by calibration")
            return
        given_up = {self._key(one) for one in planned}
        for one in self.planned.values():  # of other functions too, with which they are stored once
            key = self._key(one)
            found = self.shared.get(key)
            if key in given_up and isinstance(found, Solved):
                self.shared[key] = Solved(found.plain, found.plain)  # also for functions that are still to come
                self.done.palettes[one.weight.id] = found.plain
        self.done.notes.append(
            f"{told}: {_decibels(before)} dB with plain palettes, {_decibels(after)} with calibrated ones, which were "
            "given up"
        )

    def _key(self, one: _Planned) -> object:
        """Equal for weights that share one stored palette: a record may be read in several shapes and opsets."""
        task, weight = one.task, one.weight
        return weight.storage or weight, weight.shape, task.form, task.specification, task.importance, weight.joint

    def _solve(self, one: _Planned, findings: Findings) -> Solved | Declined:
        """Of weights that are stored once the first that is read decides."""
        key = self._key(one)
        if key not in self.shared:
            self.shared[key] = solved(one.task, findings, self.calibration, self.pmap)
        result = self.shared[key]
        self.done.palettes[one.weight.id] = result if isinstance(result, Declined) else result.encoded
        return result


def _noise(wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """Squared error of all outputs of floats, each relative to its power."""
    total = 0.0
    for name in wanted[0] if wanted else ():
        pairs = [(one[name], two[name]) for one, two in zip(wanted, found, strict=True)]
        pairs = [(a, b) for a, b in pairs if hasattr(a, "is_floating_point") and a.is_floating_point()]
        power = sum(float(a.double().square().sum()) for a, _ in pairs)
        error = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
        total += error / power if power else error
    return total


def _equal(one: Any, two: Any) -> bool:
    if not hasattr(one, "is_floating_point"):
        return bool(one == two)
    return bool(one.shape == two.shape and (one == two).all())


def _decibels(noise: float) -> str:
    return "exact" if noise == 0.0 else f"{-10.0 * math.log10(noise):.1f}"
