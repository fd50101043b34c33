"""The door for looking at packages on disk: what is in one, and how two differ."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.results import Declined, Encoded
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, PlanError, memory_told
from mil_palettize.planning.default_reasons import default_decisions
from mil_palettize.planning.plan import Decision
from mil_palettize.program.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.sites import Site
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.counting import Count, counting
from mil_palettize.reports.decibels import decibels
from mil_palettize.reports.inspection import Inspection, inspection
from mil_palettize.reports.package_diff import Difference, difference
from mil_palettize.request.module_names import in_model, names_of
from mil_palettize.request.near_names import near_names
from mil_palettize.request.normalised import Requests
from mil_palettize.request.patterns import check_pattern, is_pattern
from mil_palettize.request.precedence import resolve
from mil_palettize.rewriting.planned_palettes import planned_task
from mil_palettize.text import format_some

PathLike = str | os.PathLike[str]


@memory_told()
def inspect_package(
    path: PathLike, *, match: Sequence[str] = (), snr: bool = False, progress: bool | Count = False
) -> Inspection:
    """Look at the package at ``path`` without changing it.

    Args:
        path: a ``.mlpackage`` folder.
        match: names as ``op_name_configs`` has them (constants, ops, outputs, modules, ``*`` and ``re:`` patterns);
            the text then lists only what these mean.
        snr: make a 4-bit palette of every weight, one table each, and tell its signal to noise in decibels. Takes
            about a second for ten million elements.
        progress: as of ``compare``; what is counted are these palettes.

    Returns:
        What the model takes and gives, and every constant. ``print`` shows it as text; ``to_json`` has everything.

    Raises:
        PackageError: for a package that cannot be read.
        ConfigError: for a pattern that is none, and for what is no list of names.
        PlanError: for an entry of ``match`` that means no constant, with near names, or that may mean several modules.

    >>> inspection = inspect_package("fixtures/conv_fp16_ios18.mlpackage", match=["head"])
    >>> [(constant.name, constant.shape) for constant in inspection.listed()]
    [('head_weight', (10, 320)), ('head_bias', (10,))]
    """
    if isinstance(match, str):
        raise ConfigError(f"match is {match!r}; give a list of names, such as [{match!r}]")
    if not isinstance(match, Sequence) or not all(isinstance(entry, str) for entry in match):
        raise ConfigError(f"match is {match!r}; give a list of names, such as ['lm_head']")
    for entry in match:
        if is_pattern(entry):
            check_pattern(entry, "match")
    with Model.open(path) as model, counting(progress) as count:
        matched = _matched(model, match) if match else {}
        return inspection(os.fspath(path), model, matched=matched, match=match, snr=_snr(model, count) if snr else None)


@memory_told()
def diff_packages(first: PathLike, second: PathLike, *, progress: bool | Count = False) -> Difference:
    """Compare what two packages hold.

    Args:
        first: a ``.mlpackage`` folder.
        second: another one.
        progress: as of ``compare``; what is counted are ops.

    Returns:
        Ops, weights (with their signal to noise), bytes and metadata that differ; ``identical`` where nothing does.

    Raises:
        PackageError: where one cannot be read.

    >>> diff_packages("fixtures/conv_fp16_ios18.mlpackage", "fixtures/conv_fp16_ios18.mlpackage").identical
    True
    """
    with Model.open(first) as a, Model.open(second) as b, counting(progress) as count:
        return difference(os.fspath(first), a, os.fspath(second), b, count)


def _matched(model: Model, match: Sequence[str]) -> dict[WeightId, list[str]]:
    """Which entries mean each constant. Raises ConfigError for a pattern that is none, PlanError for an entry that
    means none."""
    for entry in filter(is_pattern, match):
        check_pattern(entry, "match")
    survey = model.survey()
    weights = [site.weight for site in survey.sites]
    requests = in_model(Requests(None, {}, dict.fromkeys(match)), names_of(weights, survey.op_names), "match")
    found: dict[WeightId, list[str]] = defaultdict(list)
    for weight in weights:
        keys = resolve(weight, requests).keys
        found[weight.id] += [entry for entry in match if entry in keys]
    for entry in match:
        if not any(entry in entries for entries in found.values()):
            functions = format_some(sorted(name for name, _ in model.functions()))
            near = near_names(entry, {name for _, name in survey.op_names})
            raise PlanError(f"match[{entry!r}] means no constant in function {functions}{near}")
    return found


def _snr(model: Model, count: Count) -> dict[WeightId, float]:
    """Of the palettes that the default settings would give, in decibels."""
    sites = model.survey().sites
    decisions = default_decisions([site.weight for site in sites])
    planned = [(site, decisions[site.weight]) for site in sites if decisions[site.weight].specification is not None]
    found = {}
    with Workers() as pool:
        tasks = (
            (site.weight.nbytes, partial(_encoded, _task(model, site, decision), pool)) for site, decision in planned
        )
        for number, ((site, _), result) in enumerate(zip(planned, pool.ordered(tasks), strict=True)):
            count("palettes", number + 1, len(planned))
            if not isinstance(result, Declined):
                found[site.weight.id] = decibels(result.signal, result.sse)
    return found


def _task(model: Model, site: Site, decision: Decision) -> Task:
    form = FORMS.get(site.weight.opset) or FORMS[FIRST_WITH_PALETTES]
    assert form is not None
    return planned_task(model, site, decision, form)


def _encoded(task: Task, pool: Workers) -> Encoded | Declined:
    return task(pool.pmap)
