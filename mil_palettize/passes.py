"""Graph passes for ``ct.PassPipeline``: ``mil_palettize::palettize_weights``, ``mil_palettize::decompress_weights``.

Importing this module registers them. Everything is planned and clustered before the program is touched.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from coremltools.optimize.coreml import OptimizationConfig

from mil_palettize.algorithms import ArraySource
from mil_palettize.config import normalise
from mil_palettize.encode import Declined, Encoded, encode
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.forms import FORMS
from mil_palettize.parallel import Workers
from mil_palettize.plan import SELECTIONS, Decision, Plan, make_plan
from mil_palettize.program.pymil import PymilProgram, decompress
from mil_palettize.report import Report
from mil_palettize.rewrite import Rewritten
from mil_palettize.summary import complete, planned_report

logger = logging.getLogger("mil_palettize")


@register_pass(namespace="mil_palettize")
class palettize_weights(AbstractGraphPass):
    """Replaces constants that act as weights by look-up tables.

    .. code-block::

        Input graph:   const -> downstream op
        Output graph:  constexpr_lut_to_dense -> downstream op

    Options: ``config`` (a coremltools ``OptimizationConfig``), ``select`` ("weights" or "all"), ``strict``.
    ``report`` is that of the last program; what was left alone otherwise than asked is logged as a warning by the
    logger ``mil_palettize``. Raises ConfigError and PlanError (both ``ValueError``) before anything is changed.
    """

    def __init__(self) -> None:
        self._config: OptimizationConfig | None = None
        self._select = "weights"
        self._strict = False
        self.report: Report | None = None

    @property
    def config(self) -> OptimizationConfig | None:
        return self._config

    @config.setter
    def config(self, value: OptimizationConfig) -> None:
        normalise(value)
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

    def apply(self, prog: Program) -> None:
        if self._config is None:
            raise ConfigError("mil_palettize::palettize_weights needs its option 'config', an OptimizationConfig")
        started = time.perf_counter()
        program = PymilProgram(prog)
        plan = _plan(program, self._config, self._select, self._strict)
        results = _encode(program, plan)
        if self._strict:
            _refuse_declined(results)
        for decision, result in results:
            if isinstance(result, Encoded):
                form = FORMS[decision.weight.opset]
                assert form is not None
                program.palettize(decision.weight, result.palette.expr, form)
        self.report = _report(program, plan, results, time.perf_counter() - started)
        _log(self.report)


Results = list[tuple[Decision, Encoded | Declined]]


def _plan(program: PymilProgram, config: OptimizationConfig, select: str, strict: bool) -> Plan:
    survey = program.survey()
    return make_plan(
        [site.weight for site in survey.sites],
        normalise(config),
        select=select,
        strict=strict,
        opset_after={},
        op_types=survey.op_types,
        op_names=survey.op_names,
    )


def _encode(program: PymilProgram, plan: Plan) -> Results:
    """Palettes of all planned weights; a weight that functions share is clustered for each, with the same result."""
    planned = [(d, d.plan) for d in plan.decisions if d.plan is not None]
    with Workers() as pool:

        def task(decision: Decision, weight_plan: Any) -> Encoded | Declined:
            array = program.constant(decision.weight).outputs[0].val
            return encode(ArraySource(decision.weight.key, array), weight_plan, pool.pmap)

        tasks = ((d.weight.nbytes, lambda d=d, p=p: task(d, p)) for d, p in planned)
        return list(zip((d for d, _ in planned), pool.ordered(tasks), strict=True))


def _refuse_declined(results: Results) -> None:
    unmet = [f"{d.weight.key!r}: {r.reason}" for d, r in results if isinstance(r, Declined) and r.unmet]
    if unmet:
        raise PlanError(f"strict: {len(unmet)} weights cannot be palettized as asked: {'; '.join(unmet[:3])}")


def _report(program: PymilProgram, plan: Plan, results: Results, seconds: float) -> Report:
    nbytes = sum(site.weight.nbytes for site in program.survey().sites)
    report = planned_report("the program being converted", None, nbytes, plan, [])
    done = Rewritten({d.weight: r if isinstance(r, Declined) else r.figures for d, r in results})
    complete(report, plan, done)
    report.bytes_after = nbytes - sum(w.bytes_before - (w.bytes_after or 0) for w in report.weights)
    report.seconds = seconds
    return report


def _log(report: Report) -> None:
    for weight in report.weights:
        for note in weight.notes:
            logger.warning("%s/%s: %s", weight.function, weight.name, note)
    for note in report.notes:
        logger.warning("%s", note)
    logger.info("%s", report.to_text())


@register_pass(namespace="mil_palettize")
class decompress_weights(AbstractGraphPass):
    """Replaces every ``constexpr_*`` op by a ``const`` of the values it stands for, as coremltools computes them.

    .. code-block::

        Input graph:   constexpr_* -> downstream op
        Output graph:  const -> downstream op
    """

    def apply(self, prog: Program) -> None:
        decompress(prog)
