"""A planned model calibrated: the walk asks for palettes, the choice makes them, in every function of every stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.calibration.choice import PLAIN
from mil_palettize.calibration.kept import KeptRun, run_digest
from mil_palettize.calibration.request import Calibration
from mil_palettize.calibration.solving import Findings, Solved, solved
from mil_palettize.calibration.without_samples import place_findings, solved_alone
from mil_palettize.doors.calibrated_biases import NO_HELD, biases_corrected
from mil_palettize.doors.calibration_functions import SampledFunctions, Tell, moments_found
from mil_palettize.doors.calibration_guard import GUARDS, Comparison, Guard, on_noise
from mil_palettize.doors.calibration_outputs import constant_outputs
from mil_palettize.doors.calibration_plan import PlannedWeight, planned_weights
from mil_palettize.doors.calibration_samples import Calls
from mil_palettize.encoding.encoder import PMap
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined, Encoded
from mil_palettize.encoding.workers import Workers
from mil_palettize.planning.plan import Plan
from mil_palettize.program.fingerprints import fingerprint
from mil_palettize.program.model import Model
from mil_palettize.program.weight import WeightId

_LOWER = (
    "a lower SNR of a calibrated weight is meant: the plain palette has the least error of the weight, the calibrated "
    "one was chosen for a small error of what its op gives"
)


@dataclass
class Calibrated:
    """``palettes``: of planned weights, made already; ``biases``: that were corrected; ``notes``: for the report;
    ``held``: samples that were given and palettes were not made of, where the model has one function."""

    palettes: dict[WeightId, Encoded | Declined] = field(default_factory=dict)
    biases: dict[WeightId, np.ndarray] = field(default_factory=dict)
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
    run = CalibrationRun(model, calibration, planned_weights(model, plan, clustered, sent=sent), tell, pool, clustered)
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


class CalibrationRun:
    """Palettes of ``planned`` weights, function by function."""

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        planned: Mapping[WeightId, PlannedWeight],
        tell: Tell | None = None,
        pool: Workers | None = None,
        clustered: Clustered | None = None,
    ) -> None:
        self.clustered = clustered
        self.model, self.calibration, self.planned, self.tell, self.pool = model, calibration, planned, tell, pool
        self.pmap: PMap = map if pool is None else pool.pmap
        self.done = Calibrated()
        self.sampled = SampledFunctions(model, calibration, pool, self.done.notes)
        self.shared: dict[object, Solved | Declined] = {}  # of weights stored once, by record and specification
        self.elsewhere: defaultdict[object, list[tuple[list[Moments], np.ndarray | None]]] = defaultdict(list)

    def without_samples(self) -> None:
        """Weights that are stored once are solved once, all at a time as far as the pool allows."""
        alone: dict[object, PlannedWeight] = {}
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

    def _by_place(self, one: PlannedWeight) -> None:
        self._solve(one, place_findings(one.weight))

    def with_samples(self) -> None:
        from mil_palettize.torch.evaluator.model_pipeline import Pipeline

        functions = list(self.sampled.functions())
        self.done.held = self.sampled.held
        self._look_elsewhere(functions)
        # Those without samples last: what they share with others is made of the others' samples.
        for whole, given in sorted(functions, key=lambda function: function[1] is None):
            if given is None:
                self._alone(whole)
                continue
            samples = [whole.features.tensors(call) for call in given.arrays]
            if isinstance(whole, Pipeline):
                self._through(whole, samples, given)
            else:
                self._walk(whole, samples, samples, given)

    def _look_elsewhere(self, functions: Sequence[tuple[Any, Calls | None]]) -> None:
        """What samples tell of weights that a function before has too, which decides on them: as the network has their
        inputs with its weights as they are."""
        seen: set[object] = set()
        for whole, given in functions:
            keys = {slot: self._key(self.planned[w]) for slot, w in whole.weight_ids.items() if w in self.planned}
            again = {slot: key for slot, key in keys.items() if key in seen}
            if given is not None and again:
                self._listen(whole, given, again)
            if given is not None:
                seen |= set(keys.values())

    def _listen(self, module: Any, given: Calls, keys: Mapping[str, object]) -> None:
        def note(found: Any) -> None:
            self.elsewhere[keys[found.slot]].append((moments_found(found), found.reads))

        self.sampled.listen(module, given, list(keys), note, given.held)

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
        from mil_palettize.torch.calibration.walk import walk

        wanted = {slot: self.planned[w] for slot, w in module.weight_ids.items() if w in self.planned}
        held, states = given.held, states_before(module, samples, given.begins)
        kept = self._kept(module, samples, given)
        made = {slot: found for slot, one in wanted.items() if (found := self._made_before(slot, one, kept))}
        plain = {slot: solution.plain.expr.decode() for slot, solution in made.items()}

        tables: list[str] = []

        def solve(found: Any) -> np.ndarray | None:
            if found.reads is not None:
                tables.append(found.slot)
            moments, reads = moments_found(found), found.reads
            for more, read in self.elsewhere.pop(self._key(wanted[found.slot]), ()):
                moments += more
                reads = read if reads is None else reads if read is None else reads + read
            count = len(samples) - len(held)
            findings = Findings(moments, reads, found.trial, count, found.sensitivity, found.spread)
            result = self._solve(wanted[found.slot], findings)
            if isinstance(result, Declined):
                return None
            if kept is not None:
                kept.keep(found.slot, result.encoded)
            plain[found.slot] = result.plain.expr.decode()
            return result.encoded.expr.decode()

        walked = walk(
            module, samples, list(wanted), solve, self.sampled.options(held), progress=self.tell, states=states,
            palettized=None if others is samples else others,
            executor=None if self.pool is None else self.pool.executor,
            known={slot: solution.encoded.expr.decode() for slot, solution in made.items()},
        )  # fmt: skip
        same = constant_outputs(walked.before)
        if same:
            self.done.notes.append(
                f"outputs of {module.function_name!r} that are the same for all samples: {', '.join(same)}; "
                "give samples that differ as those of use do"
            )
        for one in wanted.values():  # that nothing reads as a matrix
            if one.weight.id not in self.done.palettes:
                self._solve(one, Findings())
        if held:
            asked, looked_at = self.calibration, sorted(held)[:GUARDS]
            guard = Guard(
                module, [others[i] for i in looked_at], None if states is None else [states[i] for i in looked_at],
                [walked.before[i] for i in looked_at], asked.device,
            )  # fmt: skip
            comparisons = [guard.held(plain, [walked.after[i] for i in looked_at])]
            if asked.made_up and others is samples:
                calibrated = self._decoded(wanted)
                comparisons.append(on_noise(module, plain, calibrated, seed=asked.seed, device=asked.device))
            self._give_up(comparisons, list(wanted.values()))
            self._tell_tables(guard, {slot: one for slot, one in wanted.items() if slot in tables}, comparisons[0])
            if asked.bias:
                palettes, options = self._decoded(wanted), self.sampled.options(held)
                self.done.biases, told = biases_corrected(self.model, guard, samples, palettes, options, states)
                self.done.notes += [] if told in self.done.notes else [told]
        elif self.calibration.bias:
            self.done.notes.append(NO_HELD)
        return walked

    def _tell_tables(self, guard: Guard, tables: Mapping[str, PlannedWeight], found: Comparison) -> None:
        arrays = self._decoded(tables)
        told = guard.tables_told(arrays, min(found.plain, found.calibrated)) if arrays else None
        self.done.notes += [] if told is None else [told]

    def _decoded(self, wanted: Mapping[str, PlannedWeight]) -> dict[str, np.ndarray]:
        """What palettes hold, by slot."""
        palettes = {slot: self.done.palettes[one.weight.id] for slot, one in wanted.items()}
        return {slot: p.expr.decode() for slot, p in palettes.items() if isinstance(p, Encoded)}

    def _kept(self, module: Any, samples: Sequence[Mapping[str, Any]], given: Calls) -> KeptRun | None:
        """Where palettes of this walk are kept; None without a folder, and beside a ``lut_function``: nobody knows what
        that does."""
        tasks = {weight: one.task for weight, one in self.planned.items()}
        if self.clustered is None or any(task.specification.lut_function is not None for task in tasks.values()):
            return None
        place = repr((module.reference.stage, module.function_name, list(given.begins), sorted(given.held)))
        return KeptRun(self.clustered, run_digest(self._fingerprint, self.calibration, tasks, samples, place))

    @cached_property
    def _fingerprint(self) -> bytes:
        """Of the whole model, which every function's key holds."""
        return fingerprint(self.model.spec, self.model.store)

    def _made_before(self, slot: str, one: PlannedWeight, kept: KeptRun | None) -> Solved | None:
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

    def _give_up(self, comparisons: Sequence[Comparison], planned: Sequence[PlannedWeight]) -> None:
        """Plain palettes for the whole function where these are better in one of the comparisons."""
        if all(comparison.holds for comparison in comparisons):
            self.done.notes += [comparison.sentence for comparison in comparisons]
            return
        self.done.notes += [comparison.sentence for comparison in comparisons if not comparison.holds]
        given_up = {self._key(one) for one in planned}
        for one in self.planned.values():  # of other functions too, with which they are stored once
            key = self._key(one)
            found = self.shared.get(key)
            if key in given_up and isinstance(found, Solved):
                self.shared[key] = Solved(found.plain, found.plain)  # also for functions that are still to come
                self.done.palettes[one.weight.id] = found.plain

    def _key(self, one: PlannedWeight) -> object:
        """Equal for weights that share one stored palette: a record may be read in several shapes and opsets."""
        task, weight = one.task, one.weight
        return weight.storage or weight, weight.shape, task.form, task.specification, task.importance, weight.joint

    def _solve(self, one: PlannedWeight, findings: Findings) -> Solved | Declined:
        """Of weights that are stored once the first that is read decides."""
        key = self._key(one)
        if key not in self.shared:
            self.shared[key] = solved(one.task, findings, self.calibration, self.pmap)
        result = self.shared[key]
        self.done.palettes[one.weight.id] = result if isinstance(result, Declined) else result.encoded
        return result
