"""Graph passes for ``ct.PassPipeline``, in coremltools' registry under ``mil_palettize::``.

Everything is planned and clustered before the program is touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from coremltools.converters.mil.mil import Operation, Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from coremltools.optimize.coreml import OptimizationConfig

from mil_palettize.algorithms.making import ArraySource
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.calibration.request import Calibration, checked_calibration
from mil_palettize.calibration.without_samples import solved_alone
from mil_palettize.doors.calibration_remarks import calibration_remarks
from mil_palettize.doors.fusions import before_fusions, fused_into, named_before
from mil_palettize.doors.report_log import log_report
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.results import Declined, Encoded, Rewritten
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError
from mil_palettize.planning.plan import SELECTIONS, Decision, Plan, make_plan
from mil_palettize.program.forms import FORMS, PACKED
from mil_palettize.program.pymil.ops import decompress
from mil_palettize.program.pymil.program import PymilProgram
from mil_palettize.program.weight import Weight
from mil_palettize.reports.report import Report
from mil_palettize.reports.summary import complete, planned_report
from mil_palettize.request.importance import checked_importance
from mil_palettize.request.normalised import PaletteRequest, Requests, check_joint, normalise
from mil_palettize.rewriting.palettization import nothing_to_do, refuse_declined

Results = list[tuple[Decision, Encoded | Declined]]


@dataclass(frozen=True)
class _Earlier:
    """What an earlier pass of the same pipeline has done. ``met``: entries of op_name_configs under names that are gone
    since; ``palettized``: how many weights."""

    met: frozenset[str] = frozenset()
    palettized: int = 0


_EARLIER: WeakKeyDictionary[Program, _Earlier] = WeakKeyDictionary()


@register_pass(namespace="mil_palettize", override=True)
class palettize_weights(AbstractGraphPass):
    """Replaces constants that act as weights by look-up tables.

    .. code-block::

        Input graph:   const -> downstream op
        Output graph:  constexpr_lut_to_dense -> downstream op

    Options: ``config`` (a coremltools ``OptimizationConfig``), ``select`` ("weights" or "all"), ``strict``,
    ``joint_compression`` (also what sparse and quantized weights hold; from iOS18), ``importance`` (arrays by name of a
    constant, as for ``palettize_package``), ``calibration`` (a ``Calibration`` by the weights alone). Names in
    ``config`` are those the program has where the pass stands: at the end, those of the saved model. ``report`` is that
    of the last program; what was left alone otherwise than asked is logged as a warning by the logger
    ``mil_palettize``. Raises ConfigError and PlanError (both ``ValueError``) before anything is changed.

    The pass can stand in the place of ``compression::palettize_weights``: anywhere in a pipeline, in coremltools'
    registry, and constructed as that class is. With ``fake_compression`` a weight becomes a ``const`` of the
    palette's values, ``<weight>_fake_palettized``. A config of ``ct.compression_utils``, with an ``op_selector``, is
    taken as it is meant there: of the constants the weight file would hold, those that the selector accepts.
    """

    def __init__(self, config: OptimizationConfig | None = None, fake_compression: bool = False) -> None:
        self._config: OptimizationConfig | None = None
        self._select = "weights"
        self._strict = False
        self._joint_compression = False
        self._importance: Mapping[str, Any] | None = None
        self._calibration: Calibration | None = None
        self.fake_compression = fake_compression
        self.report: Report | None = None
        if config is not None:
            self.config = config

    @property
    def config(self) -> OptimizationConfig | None:
        return self._config

    @config.setter
    def config(self, value: OptimizationConfig) -> None:
        _requests(value, self._joint_compression)
        self._config = value

    @property
    def select(self) -> str:
        return self._select

    @select.setter
    def select(self, value: str) -> None:
        if value not in SELECTIONS:
            raise ConfigError(f"select is {value!r}, allowed are {SELECTIONS}")
        self._select = value

    @property
    def strict(self) -> bool:
        return self._strict

    @strict.setter
    def strict(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f"strict is {value!r}, it must be True or False")
        self._strict = value

    @property
    def joint_compression(self) -> bool:
        return self._joint_compression

    @joint_compression.setter
    def joint_compression(self, value: bool) -> None:
        check_joint(value)
        self._joint_compression = value

    @property
    def importance(self) -> Mapping[str, Any] | None:
        return self._importance

    @importance.setter
    def importance(self, value: Mapping[str, Any] | None) -> None:
        checked_importance(value)
        self._importance = value

    @property
    def calibration(self) -> Calibration | None:
        return self._calibration

    @calibration.setter
    def calibration(self, value: Calibration | None) -> None:
        value = checked_calibration(value)
        if value is not None and value.method != "weights":
            raise ConfigError(
                f"calibration by samples (method {value.method!r}) needs a whole model, which a pass does not have; "
                "use palettize_package or palettize_weights after the conversion, or method 'weights' here"
            )
        self._calibration = value

    @property
    def requests(self) -> Requests:
        """``config`` as planning reads it. Raises ConfigError when there is none."""
        if self._config is None:
            raise ConfigError(f"mil_palettize::{self} needs its option 'config', an OptimizationConfig")
        return _requests(self._config, self._joint_compression, self._importance)

    def apply(self, prog: Program) -> None:
        requests = self.requests
        started = time.perf_counter()
        program = PymilProgram(prog)
        requests = _still_unmet(requests, program, _EARLIER.get(prog, _Earlier()).met)
        plan = self._plan(program, requests)
        remarks = calibration_remarks(plan, self._calibration, strict=self._strict)
        results = _encode(program, plan, self._calibration)
        self._refuse(plan, results, _EARLIER.get(prog, _Earlier()))
        for decision, result in results:
            if isinstance(result, Encoded):
                self._replace(program, decision, result)
        self.report = _report(program, plan, results, time.perf_counter() - started)
        self.report.notes += remarks
        self._log(self.report)

    def _plan(self, program: PymilProgram, requests: Requests) -> Plan:
        return self._full_plan(program, requests, self._strict)

    def _full_plan(self, program: PymilProgram, requests: Requests, strict: bool) -> Plan:
        assert self._config is not None
        survey, old = program.survey(), self._config._is_deprecated
        weights = [site.weight for site in survey.sites]
        return make_plan(
            _accepted(program, weights, self._config._op_selector) if old else weights,
            requests,
            select="all" if old else self._select,
            strict=strict,
            opset_after={},
            op_types=survey.op_types,
            op_names=survey.op_names,
        )

    def _refuse(self, plan: Plan, results: Results, earlier: _Earlier) -> None:
        """Under ``strict``, as at the other doors: what is not as asked, and a run that palettizes nothing."""
        if not self._strict:
            return
        refuse_declined({decision.weight.id: result for decision, result in results})
        if not earlier.palettized and not any(isinstance(result, Encoded) for _, result in results):
            declined = {d.weight.id: result.reason for d, result in results if isinstance(result, Declined)}
            raise nothing_to_do(declined.get(d.weight.id, d.reason) for d in plan.decisions)

    def _log(self, report: Report) -> None:
        log_report(report)

    def _replace(self, program: PymilProgram, decision: Decision, result: Encoded) -> None:
        form = FORMS[decision.weight.opset]
        assert form is not None
        if self.fake_compression:
            program.put_values(decision.weight, result.expr.decode())
        else:
            program.palettize(decision.weight, result.expr, form)


@register_pass(namespace="mil_palettize", override=True)
class palettize_clustered_weights(palettize_weights):
    """Makes look-up tables of clustered weights that a fusion is about to spread over too many values.

    .. code-block::

        Input graph:   const -> conv -> batch_norm
        Output graph:  constexpr_lut_to_dense -> conv -> batch_norm

    For weights asked for with mode "unique" that are read by ``conv`` or ``conv_transpose`` and followed, perhaps after
    constants are added, by a ``batch_norm`` or a ``mul`` or ``real_div`` by a constant with a different factor for each
    output channel. Fused, one table could not hold their values any more. The table keeps the fusion from
    happening: the ``batch_norm`` stays, four numbers for each channel, and the weight takes 1 to 8 bits instead of 16.
    Everything else is left to ``mil_palettize::palettize_weights`` at the end of the pipeline.

    Stands before the fusions, where weights are fp32; the cast to fp16 rounds the tables as it would have rounded the
    weights. Acts on opsets with one table per weight only (iOS16, iOS17): later ones hold the fused weight with a
    table for each channel. Options as for ``palettize_weights``; the whole config is checked against the program, so
    what cannot be met is an error before anything is changed. ``strict`` is left to the pass at the end. Names in
    ``config`` are those of the saved model.
    """

    def apply(self, prog: Program) -> None:
        self._chains: dict[Weight, list[list[Operation]]] = {}
        super().apply(prog)
        assert self.report is not None
        done = {weight.id for weight in self.report.palettized}
        names = {name for w, of in self._chains.items() if w.id in done for name in _names(w, of)}
        requests = self.requests
        asked = [*(key for key, request in requests.by_name.items() if is_lossless(request)), *requests.importance]
        met = frozenset(key for key in asked if named_before(key) in names)
        _EARLIER[prog] = _Earlier(met, len(done))

    def _plan(self, program: PymilProgram, requests: Requests) -> Plan:
        survey = program.survey()
        weights = [site.weight for site in survey.sites]
        dense = [w for w in weights if w.form == "const" and w.storage is not None and FORMS[w.opset] is PACKED]
        found = {weight: fused_into(program.constant(weight)) for weight in dense}
        self._chains = {weight: chains for weight, chains in found.items() if chains}
        # Nothing is lost, whatever the importance; its names are those that the pass at the end meets.
        requests = replace(before_fusions(requests, self._chains, survey.op_names), importance={})
        plan = self._full_plan(program, requests, strict=False)
        return Plan([d for d in plan.decisions if d.weight in self._chains and is_lossless(d.specification)])

    def _refuse(self, plan: Plan, results: Results, earlier: _Earlier) -> None:
        """Nothing: what has too many values here is left to the pass at the end."""

    def _log(self, report: Report) -> None:
        """What gets no table here, the pass at the end tells of."""
        log_report(replace(report, weights=report.palettized))


def is_lossless(asked: PaletteRequest | PaletteSpecification | None) -> bool:
    """Whether a palette is asked for that decodes to the weight itself."""
    return asked is not None and ALGORITHMS[asked.mode].lossless


def _requests(
    config: OptimizationConfig, joint_compression: bool, importance: Mapping[str, Any] | None = None
) -> Requests:
    """``config`` checked, those of ``ct.compression_utils`` without a threshold, which the selector stands in for."""
    if not isinstance(config, OptimizationConfig):
        raise ConfigError(f"config must be of type OptimizationConfig. Got {type(config)}.")
    op_config = config.global_config if config._is_deprecated else None
    if op_config is None:
        return normalise(config, joint_compression, importance)
    if op_config.weight_threshold is not None:
        raise ConfigError("weight_threshold cannot be set through the deprecated ct.compression_util API")
    every = OptimizationConfig(attrs.evolve(op_config, weight_threshold=0))
    return normalise(every, joint_compression, importance)


def _accepted(
    program: PymilProgram, weights: list[Weight], selector: Callable[[Operation], bool] | None
) -> list[Weight]:
    """The constants the weight file would hold and ``selector`` accepts."""
    stored = [weight for weight in weights if weight.form == "const" and weight.storage is not None]
    return [weight for weight in stored if selector is None or selector(program.constant(weight))]


def _names(weight: Weight, chains: list[list[Operation]]) -> set[str]:
    """What a config may call a weight by, in every function and in its own."""
    names = {weight.name, weight.op_name, *(op.name for chain in chains for op in chain)}
    return names | {f"{weight.function}/{name}" for name in names}


def _still_unmet(requests: Requests, program: PymilProgram, met: frozenset[str]) -> Requests:
    """``requests`` without the entries that an earlier pass has met, but for those that speak of other weights, too."""
    others = set()
    for weight in (site.weight for site in program.survey().sites if site.weight.form == "const"):
        names = (weight.name, weight.op_name, *(consumer.op_name for consumer in weight.consumers))
        for key in met.intersection(requests.matching(weight.function, *names)):
            request = requests.by_name[key]
            if request is not None and weight.size > request.weight_threshold:
                others.add(key)
    return replace(
        requests,
        by_name={k: r for k, r in requests.by_name.items() if k in others or k not in met},
        importance={k: i for k, i in requests.importance.items() if k not in met},
    )


def _encode(program: PymilProgram, plan: Plan, calibration: Calibration | None = None) -> Results:
    """Palettes of all planned weights; a weight that functions share is clustered for each, with the same result."""
    planned = [(d, d.specification) for d in plan.decisions if d.specification is not None]
    with Workers() as pool:

        def task(decision: Decision, specification: PaletteSpecification) -> Encoded | Declined:
            weight, form = decision.weight, FORMS[decision.weight.opset]
            assert form is not None
            source, held = ArraySource(weight.key, program.constant(weight).outputs[0].val), program.held(weight)
            task = Task(source, specification, form, held, importance=decision.importance)
            if calibration is None:
                return task(pool.pmap)
            result = solved_alone(weight, task, calibration, pool.pmap)
            return result if isinstance(result, Declined) else result.encoded

        tasks = ((d.weight.nbytes, lambda d=d, s=s: task(d, s)) for d, s in planned)
        return list(zip((d for d, _ in planned), pool.ordered(tasks), strict=True))


def _report(program: PymilProgram, plan: Plan, results: Results, seconds: float) -> Report:
    nbytes = sum(site.weight.nbytes for site in program.survey().sites)
    report = planned_report("the program being converted", None, nbytes, plan, [])
    done = Rewritten({d.weight.id: r if isinstance(r, Declined) else r.figures for d, r in results})
    complete(report, plan, done)
    report.bytes_after = nbytes - sum(w.bytes_before - (w.bytes_after or 0) for w in report.weights)
    report.seconds = seconds
    return report


@register_pass(namespace="mil_palettize", override=True)
class decompress_weights(AbstractGraphPass):
    """Replaces every ``constexpr_*`` op by a ``const`` of the values it stands for, as coremltools computes them.

    .. code-block::

        Input graph:   constexpr_* -> downstream op
        Output graph:  const -> downstream op
    """

    def apply(self, prog: Program) -> None:
        decompress(prog)
