"""Recipes of other tools, for packages on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mil_palettize.budget.distortion import Evaluated
from mil_palettize.budget.imported import Matches, match_modules, read_recipe, values_digest
from mil_palettize.budget.limits import Limits
from mil_palettize.budget.planner import recipe_of
from mil_palettize.budget.recipe import Recipe
from mil_palettize.budget.weighed_choices import Source, Weighed
from mil_palettize.budget.weighing import weighed
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, PackageError, memory_told
from mil_palettize.package.checkpoints import Tensors, needs_torch, read_checkpoint
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.program.sites import Site
from mil_palettize.program.store import StoredWeight
from mil_palettize.reports.progress import ProgressEvent, make_progress
from mil_palettize.text import format_count

PathLike = str | os.PathLike[str]


@memory_told()
def import_recipe(
    source: PathLike,
    recipe: PathLike,
    checkpoint: PathLike,
    *,
    name: str | None = None,
    target: object = None,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
) -> Recipe:
    """The recipe of another tool for the package at ``source``, as :func:`plan_mixed_bits` would give it.

    Args:
        source: a ``.mlpackage`` folder, which is only read.
        recipe: a JSON file of apple/ml-stable-diffusion's mixed-bit analysis or of argmaxtools, which names modules of
            a torch model.
        checkpoint: that model's ``state_dict`` (.safetensors, a folder of them, .npz, or of ``torch.save``), by whose
            values, rounded to fp16, the weights of the package are found, whatever they are called.
        name: which one of the recipes in the file, None for the only one.
        target: as of ``plan_mixed_bits``; so are the others.
        workers: as above.
        progress: as above.

    Returns:
        The recipe. Weights that the file does not name are left alone; modules that match nothing stand in
        ``recipe.notes``, each by name.

    Raises:
        ConfigError: for a wrong recipe.
        PackageError: for files that cannot be read.
        PlanError: where nothing matches.

    >>> import_recipe("fixtures/conv_fp16_ios18.mlpackage", "none.json", "model.safetensors")
    Traceback (most recent call last):
    mil_palettize.errors.PackageError: ...
    """
    asked = read_recipe(os.fspath(recipe), name)
    tensors = _tensors(Path(checkpoint))
    goal = None if target is None else parse_target(target)
    shown = make_progress(progress)
    try:
        with Workers(workers) as pool:
            found = weighed(Source(source, goal), Limits(group_size=0), None, pool, shown.calibrate)
    finally:
        shown.close()
    matches = match_modules(asked, tensors, _digests(found))
    picked, reasons = _picked(found, matches)
    plan = recipe_of(found, picked, found.written_nbytes(picked), None, "any", reasons=reasons)
    matched = len(asked.nbits) - sum(map(len, matches.unmatched.values()))
    unnamed = len(found.choices) - len(matches.nbits)
    asked_for = f"{format_count(len(asked.nbits), 'module')} of recipe {asked.name!r}"
    notes = [f"{matched} of {asked_for} matched by their values"]
    notes += [f"not matched, {why}: {', '.join(names)}" for why, names in matches.unmatched.items()]
    notes += matches.notes
    if unnamed:
        notes.append(f"{format_count(unnamed, 'weight')} that it does not name are left alone")
    return replace(plan, notes=(*plan.notes, *notes))


def _tensors(checkpoint: Path) -> Tensors:
    if not checkpoint.exists():
        raise PackageError(f"cannot read {checkpoint}: there is no such file; give the checkpoint of the torch model")
    if not needs_torch(checkpoint):
        return read_checkpoint(checkpoint)
    if find_spec("torch") is None:
        raise ConfigError(f"{checkpoint} is read by torch: pip install 'mil-palettize[torch]', or give .safetensors")
    from mil_palettize.torch.checkpoints import load_checkpoint

    return load_checkpoint(checkpoint)


def _digests(found: Weighed) -> list[list[bytes]]:
    with Model.open(found.source.path) as model:
        return [[values_digest(StoredWeight(model.store, s).read()) for s in _own(one)] for one in found.choices]


def _own(one: Evaluated) -> Sequence[Site]:
    """Sites of values of their own."""
    return list({site.weight.storage or site.weight.id: site for site in one.choice.sites}.values())


def _picked(found: Weighed, matches: Matches) -> tuple[list[int], dict[int, str]]:
    """The candidate of each weight, and why others are left alone."""
    picked, reasons = [], {}
    for number, one in enumerate(found.choices):
        nbits = matches.nbits.get(number)
        at = {c.request.nbits: i for i, c in enumerate(one.choice.candidates) if c.request is not None}
        picked.append(0 if nbits is None else at.get(nbits, 0))
        if nbits is not None:
            reasons[number] = f"{format_count(nbits, 'bit')} cannot be had there, or would not be smaller"
        else:
            asks = number in matches.nbits
            reasons[number] = "the recipe asks for it" if asks else "the recipe does not name it"
    return picked, reasons
