"""All palettes of a plan made and written: one after the other, in the order in which the writer has a place for them.

Memory does not follow the model: so many weights are worked on at a time, and a palette is let go once it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mil_palettize.algorithms.making import ArraySource, Source
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined, Encoded, Rewritten
from mil_palettize.encoding.workers import Workers
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.planning.plan import Decision, Plan
from mil_palettize.program.chains import chain_key
from mil_palettize.program.forms import FORMS, Form
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import expression
from mil_palettize.program.sites import Site
from mil_palettize.program.store import StoredWeight
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.progress import Progress
from mil_palettize.rewriting.decoded_weight import DecodedWeight
from mil_palettize.rewriting.palette_checks import check_expression
from mil_palettize.rewriting.palette_writer import PaletteJob, PaletteWriter


class PlannedPalettes:
    """Makes the palettes of ``plan`` on ``pool`` and writes ``model``, which it changes, with them.

    A weight that turns out to have none keeps its constant. ``clustered``: where palettes are kept. ``rename``: as for
    ``write_palettes``. ``ready``: palettes of weights that were made before, by calibration. Raises PlanError for one
    of these that cannot be written in the place of its constant.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        *,
        pool: Workers,
        progress: Progress,
        clustered: Clustered | None = None,
        rename: bool = False,
        ready: Mapping[WeightId, Encoded | Declined] | None = None,
    ) -> None:
        self._ready = ready or {}
        self._model = model
        self._pool = pool
        self._progress = progress
        self._clustered = clustered
        self._done = Rewritten()
        self._decisions = planned_sites(model, plan)
        self._writer = PaletteWriter(model, wanted_palettes(self._decisions), rename=rename)
        self._check_ready()
        progress.start(len(self._decisions), sum(d.weight.nbytes for d in self._decisions.values()))

    def _check_ready(self) -> None:
        for site in self._decisions:
            ready, form = self._ready.get(site.weight.id), FORMS[site.weight.opset]
            if isinstance(ready, Encoded):
                assert form is not None
                check_expression(self._model, site, ready.expr, form)

    def write(self, folder: Path) -> Rewritten:
        """Write every file of the new package into the empty ``folder``."""
        written = self._writer.write(folder, self._palettes())
        self._done.splits = written.splits
        self._done.dropped_records = written.dropped_records
        return self._done

    def _palettes(self) -> Iterator[WeightExpr | None]:
        jobs = list(self._writer.jobs())
        results = self._pool.ordered((self._decisions[job.site].weight.nbytes, self._task(job)) for job in jobs)
        for job in jobs:
            yield self._told(job, next(results))  # not held here while the next one is waited for

    def _told(self, job: PaletteJob, result: Encoded | Declined) -> WeightExpr | None:
        """The palette, after what it came to was noted for every site."""
        outcome = result if isinstance(result, Declined) else result.figures  # not the palette: memory
        for site in job.sites:
            self._done.results[site.weight.id] = outcome
        decision = self._decisions[job.site]
        self._progress.advance(decision.weight.key, len(job.sites), decision.weight.nbytes)
        return None if isinstance(result, Declined) else result.expr

    def _task(self, job: PaletteJob) -> Callable[[], Encoded | Declined]:
        ready = self._ready.get(self._decisions[job.site].weight.id)
        if ready is not None:
            return partial(_handed_over, ready)
        if self._pool.executor is None:
            return partial(self._encode, job, self._pool.pmap)
        return self._encoding(job, sent=True)

    def _encode(self, job: PaletteJob, pmap: Callable[..., Iterable[Any]]) -> Encoded | Declined:
        return self._encoding(job)(pmap)

    def _encoding(self, job: PaletteJob, *, sent: bool = False) -> Task:
        """``sent``: to another process, which reads the weight itself where it can."""
        decision = self._decisions[job.site]
        return planned_task(self._model, job.site, decision, job.form, self._clustered, sent=sent)


def planned_sites(model: Model, plan: Plan) -> dict[Site, Decision]:
    """The constants that are to become palettes, in program order."""
    planned = {d.weight.id: d for d in plan.decisions if d.specification is not None}
    return {site: planned[site.weight.id] for site in model.survey().sites if site.weight.id in planned}


def wanted_palettes(decisions: Mapping[Site, Decision]) -> dict[Site, object]:
    """What each gets, as :class:`PaletteWriter` takes it: equal for those that get the same."""
    keys: dict[int, bytes] = {}
    return {
        site: (decision.specification, decision.importance, _compressed(site, keys))
        for site, decision in decisions.items()
    }


def planned_task(
    model: Model, site: Site, decision: Decision, form: Form, clustered: Clustered | None = None, *, sent: bool = False
) -> Task:
    """The palette that is planned for a constant. ``sent``: to another process, which reads the weight itself where it
    can."""
    assert decision.specification is not None
    held = expression(site, model.store) if site.weight.joint else None
    source = _source(model, site, decision, sent)
    return Task(source, decision.specification, form, held, clustered, decision.importance)


def _source(model: Model, site: Site, decision: Decision, sent: bool) -> Source:
    if decision.weight.form != site.weight.form:  # planned for as if it were dense
        decoded = DecodedWeight(model.store, site)
        return ArraySource(decoded.name, decoded.read()) if sent else decoded
    stored = StoredWeight(model.store, site)
    return (stored.reference() or ArraySource(stored.name, stored.read())) if sent else stored


def _handed_over(ready: Encoded | Declined) -> Encoded | Declined:
    return ready


def _compressed(site: Site, keys: dict[int, bytes]) -> bytes:
    """Equal for compressed constants of the same ops over the same data."""
    return chain_key(site.node, keys) if site.weight.form != "const" and site.node is not None else b""
