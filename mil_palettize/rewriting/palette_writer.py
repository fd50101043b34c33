"""Expressions written into a package in the constants' place, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.block_edits import insert_ops, rebind, remove_ops
from mil_palettize.program.chains import GoneOps, chain_uses
from mil_palettize.program.forms import FORMS, Form
from mil_palettize.program.model import Model
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.palette_ops import Append, PaletteValues, palette_ops, store_palette
from mil_palettize.program.sites import Site
from mil_palettize.program.values import MIL, MIN_BLOB_ELEMENTS
from mil_palettize.program.weight import WeightId
from mil_palettize.rewriting.other_files import other_nbytes, write_other_files
from mil_palettize.rewriting.palette_checks import check_palettes
from mil_palettize.rewriting.weight_files import WeightFiles


@dataclass(frozen=True)
class Written:
    """``splits``: weights that shared a record and no longer do. ``dropped_records``: that no program pointed at, None
    where that could not be found out."""

    splits: frozenset[WeightId]
    dropped_records: int | None


def write_palettes(model: Model, palettes: Mapping[Site, WeightExpr], folder: Path, *, rename: bool = False) -> Written:
    """Write ``model`` into the empty ``folder`` with ``palettes`` in the place of the constants they are for.

    ``palettes``: sites of ``model.survey()`` -> what each is stored as from now on, of the constant's shape and dtype:
    a :class:`Lut`, or a :class:`Scale` of one with a scale for each channel. Of a constant that is sparse or scaled
    already (``weight.joint``) the same mask or scales with a palette inside, as the encoder makes them; any other
    compressed constant goes with all that only it is made from. Constants that share data and get equal expressions
    share one stored palette. Everything else stays as it is. ``rename``: palettes are called as coremltools calls
    them, not as the constants they replace.

    ``model`` is changed. Raises PlanError, before anything is written, for an expression that cannot stand in the
    place of its constant; PackageError when a file cannot be read or written.
    """
    check_palettes(model, palettes)
    writer = PaletteWriter(model, {site: expression_digest(expr) for site, expr in palettes.items()}, rename=rename)
    return writer.write(folder, (palettes[job.site] for job in writer.jobs()))


@dataclass(eq=False)
class PaletteJob:
    """One palette to store, for every site that shares the data and gets the same (``what``)."""

    what: object
    form: Form
    shape: tuple[int, ...]
    sites: list[Site] = field(default_factory=list)

    @property
    def site(self) -> Site:
        return self.sites[0]

    @property
    def same(self) -> tuple[object, ...]:
        return self.what, self.form, self.shape


class PaletteWriter:
    """Writes ``model``, which it changes, with palettes in the place of the sites of ``wanted``.

    ``wanted``: what each site gets, equal for those that get the same. The palettes themselves come one by one, in the
    order of :meth:`jobs`, when :meth:`write` has a place for the next. ``rename``: as for :func:`write_palettes`.
    """

    def __init__(self, model: Model, wanted: Mapping[Site, object], *, rename: bool = False) -> None:
        self._model = model
        self._rename = rename
        self._files: WeightFiles[PaletteJob] = WeightFiles(model)
        self._gone = GoneOps()  # chains that palettes replace
        self._replaced: list[tuple[Site, PaletteValues]] = []
        for site in model.survey().sites:
            if site in wanted:
                self._add(site, wanted[site])

    def _add(self, site: Site, what: object) -> None:
        form = FORMS[site.weight.opset]
        assert form is not None
        job = PaletteJob(what, form, site.weight.shape, [site])
        if _is_chain(site):
            assert site.node is not None
            place = self._files.place_of(chain_uses(site.node), site.weight.function)
        elif site.weight.storage is None:
            self._files.in_program.append(job)  # what stands in the program itself is never shared
            return
        else:
            stored = site.op if site.weight.joint == "sparse" else site.value  # of vectors the mask goes as well
            place = self._files.place_of(blob_uses(stored, site.weight.key), site.weight.function)
        same = next((other for other in place if other.same == job.same), None)
        if same is None:
            place.append(job)
        else:
            same.sites.append(site)

    def jobs(self) -> Iterator[PaletteJob]:
        """The palettes that are wanted, in the order in which they are stored."""
        return self._files.jobs()

    def write(self, folder: Path, palettes: Iterable[WeightExpr | None]) -> Written:
        """Write every file of the new package into the empty ``folder``. ``palettes``: for each of :meth:`jobs`, None
        for one whose sites are left as they are."""
        following = iter(palettes)
        dropped = self._files.write(folder, lambda job, append: self._store(job, next(following), append))
        self._put_palettes()
        write_other_files(self._model, folder, self._files.paths)
        return Written(frozenset(site.weight.id for job in self._files.apart for site in job.sites), dropped)

    def measure(self, palettes: Iterable[WeightExpr | None]) -> int:
        """Bytes of all files of the package that :meth:`write` would write with these ``palettes``, of which only types
        and shapes count. The model is changed as by :meth:`write`."""
        following = iter(palettes)
        nbytes = self._files.measure(lambda job, append: self._store(job, next(following), append))
        self._put_palettes()
        return nbytes + other_nbytes(self._model, self._files.paths)

    def _store(self, job: PaletteJob, expr: WeightExpr | None, append: Append | None) -> bool:
        if expr is None:
            return False
        if _is_chain(job.site) and job.site.weight.size < MIN_BLOB_ELEMENTS:
            append = None  # as of a constant of that size
        values = store_palette(expr, job.site.weight.joint, job.form, append)
        for site in job.sites:
            self._replaced.append((site, values))
            self._free(site, with_mask=values.mask is not None)
        return True

    def _free(self, site: Site, *, with_mask: bool) -> None:
        """What the palette of ``site`` takes the place of is not needed any more."""
        if not _is_chain(site):
            gone = [site.value, site.op.inputs["mask"]] if with_mask else [site.value]
            self._files.free(use for message in gone for use in blob_uses(message, site.weight.key))
            return
        assert site.node is not None
        for op in (site.op, *self._gone.add(site.node)):
            self._files.free(blob_uses(op))

    def _put_palettes(self) -> None:
        """Put the palettes in, and take out what only the constants they replace were made from."""
        for stage in self._model.stages:
            remove_ops(stage, self._gone.parts)  # first: new ops may be called as they were
        names: dict[str, NameSource] = {}
        for stage in self._model.stages:
            names |= {stage.function_label(n): NameSource(f) for n, f in stage.program.functions.items()}
        new: dict[int, list[MIL.Operation]] = {}
        order = {site: number for number, site in enumerate(self._model.survey().sites)}
        for site, values in sorted(self._replaced, key=lambda replaced: order[replaced[0]]):
            assert site.node is not None
            *new[id(site.op)], last = palette_ops(site, values, names[site.weight.function], rename=self._rename)
            site.op.CopyFrom(last)
            rebind(site.node, site.op.outputs[0].name)
        for stage in self._model.stages:
            insert_ops(stage, new)


def _is_chain(site: Site) -> bool:
    """A compressed constant all of which goes; joint compression keeps the op and replaces its values."""
    return site.weight.form != "const" and not site.weight.joint
