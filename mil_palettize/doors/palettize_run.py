"""One call of ``palettize_package``: opened, planned, written, verified, checked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mil_palettize.calibration.finetuning import Finetuning
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.calibrating import Calibrated, calibrated
from mil_palettize.doors.calibration_functions import check_samples
from mil_palettize.doors.calibration_remarks import calibration_remarks
from mil_palettize.doors.finetuning import PreparedFinetuning
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import EvaluationError, PackageError, PalettizeError, PlanError, VerifyError
from mil_palettize.package.replacement import check_destination, replacing
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import opset_of
from mil_palettize.reports.compared_parts import OutputComparison
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.progress import Progress, ProgressEvent, make_progress
from mil_palettize.reports.report import Report
from mil_palettize.request.normalised import Requests
from mil_palettize.rewriting.changed_biases import put_biases
from mil_palettize.rewriting.other_files import check_readable
from mil_palettize.rewriting.palette_writer import write_palettes
from mil_palettize.rewriting.palettization import Prepared, carry_out, prepare
from mil_palettize.rewriting.verification import verify_package

PathLike = str | os.PathLike[str]
# ``mil_palettize.compare``: both packages, the samples to run them on, None for made up ones, and the function.
Compare = Callable[..., ModelComparison]


@dataclass(frozen=True)
class PalettizeRun:
    """Its options, as ``palettize_package`` takes them, and what it works with. ``check``: runs both packages,
    where that was asked for. ``clustered``: where palettes are kept. ``calibration``: how palettes are made by what ops
    give, None where they are made by what weights are; ``finetuning``: how they are trained then."""

    source: PathLike
    destination: PathLike | None
    requests: Requests
    target: object
    redo: bool
    select: str
    strict: bool
    verify: bool
    check: Compare | None
    overwrite: bool
    dry_run: bool
    progress: bool | Callable[[ProgressEvent], object] | None
    pool: Workers
    clustered: Clustered | None
    calibration: Calibration | None = None
    finetuning: Finetuning | None = None

    def carry_out(self) -> Report:
        """Raises as ``palettize_package`` does; nothing is written then."""
        with Model.open(self.source) as model:
            if self.destination is not None:
                check_destination(model.package.path, Path(self.destination), self.overwrite or self.dry_run)
            prepared = prepare(
                model, self.requests, target=self.target, select=self.select, strict=self.strict, redo=self.redo
            )
            if self.check is not None:
                _check_can_run(self.source)
            goal = None if self.destination is None else os.fspath(self.destination)
            report = prepared.report(os.fspath(self.source), goal, dry_run=self.dry_run)
            report.notes += model.remarks()
            report.notes += calibration_remarks(prepared.plan, self.calibration, strict=self.strict)
            report.notes += self._refusals(model)
            report.notes += self._idle()
            if self.destination is not None and not self.dry_run:
                self._write(Path(self.destination), prepared, report)
        return report

    def _idle(self) -> list[str]:
        """What has no effect, which is an error under ``strict``, and where a link leads."""
        asked = [name for name in ("check", "verify") if self.dry_run and getattr(self, name)]
        told = [f"{name} has no effect in a dry run" for name in asked]
        if told and self.strict:
            raise PlanError(f"strict: {told[0]}; leave it out")
        if self.destination is not None and os.path.islink(self.destination):
            told.append(f"{self.destination} is a link: {os.path.realpath(self.destination)} is what is written")
        return told

    def _refusals(self, model: Model) -> list[str]:
        """Why a dry run would be refused if it was none."""
        checks: list[Callable[[], None]] = []
        if self.dry_run and self.destination is not None:
            destination = Path(self.destination)
            checks.append(lambda: check_destination(model.package.path, destination, self.overwrite))
        if self.dry_run and self.calibration is not None:
            calibration = self.calibration
            checks.append(lambda: check_samples(model, calibration))
        refused = []
        for check in checks:
            try:
                check()
            except PalettizeError as error:
                refused.append(f"without the dry run, this would be refused: {error}")
        return refused

    def _write(self, destination: Path, prepared: Prepared, report: Report) -> None:
        progress = make_progress(self.progress)
        try:
            done = self._calibrated(prepared, report, progress)
            with replacing(destination, overwrite=self.overwrite, needed_bytes=report.bytes_after) as staging:
                carry_out(
                    prepared, staging, report, pool=self.pool, progress=progress, clustered=self.clustered,
                    ready=None if done is None else done.palettes,
                )  # fmt: skip
                report.biases = put_biases(staging, {} if done is None else done.biases)
                if self.verify:
                    verify_package(prepared.model.package.path, staging, report, prepared.importance, progress.count)
                    report.verified = True
                else:
                    check_readable(staging, destination)
                if self.check is not None:
                    compare = partial(self.check, progress=progress.count)
                    self._run_both(compare, staging, report, () if done is None else done.held)
                    if report.moved:
                        self._check_move(compare, staging, report)
        finally:
            progress.close()

    def _calibrated(self, prepared: Prepared, report: Report, progress: Progress) -> Calibrated | None:
        if self.calibration is None:
            return None
        tuning = None
        if self.finetuning is not None:  # before calibration, which may take long
            tuning = PreparedFinetuning.of(prepared.model, self.calibration, self.finetuning)
        done = calibrated(
            prepared.model, prepared.plan, self.calibration,
            tell=progress.calibrate, pool=self.pool, clustered=self.clustered,
        )  # fmt: skip
        if tuning is not None:
            tuning.carry_out(prepared.plan, done, progress.calibrate, self.clustered)
        report.notes += done.notes
        return done

    def _run_both(self, compare: Compare, staging: Path, report: Report, held: Sequence[Mapping[str, Any]]) -> None:
        """Put what became of the outputs into the report, or why that could not be told. ``held``: samples that
        calibration did not make palettes of, on which they are run where there are any."""
        try:
            # Held out samples are of one function.
            report.check = compare(self.source, staging, held or None, function=None if held else "all")
            if held:
                report.check.inputs = "samples held out of the calibration"
        except EvaluationError as error:
            report.notes.append(f"not checked: {error}")
            return
        report.check.palettized = report.destination or ""

    def _check_move(self, compare: Compare, staging: Path, report: Report) -> None:
        """The source moved up as the package was, but without palettes, has to give the very same: the verification
        makes the move again, and so would not see a wrong one. Raises VerifyError."""
        try:
            with (
                Model.open(self.source) as model,
                Model.open(staging) as written,
                tempfile.TemporaryDirectory(prefix="mil_palettize_moved_") as folder,
            ):
                target = min((opset_of(opset) for _, opset in written.functions()), key=lambda opset: opset.spec)
                model.move(target)
                moved = Path(folder, "moved.mlpackage")
                moved.mkdir()
                write_palettes(model, {}, moved)
                found = compare(self.source, moved, function="all")
        except (EvaluationError, PackageError) as error:
            report.notes.append(f"the move to a later opset was not checked: {error}")
            return
        changed = [one.name for one in found.outputs if _differs(one)]
        if changed:
            raise VerifyError(
                f"the move to {target.target} changes {', '.join(map(repr, changed))}, also without palettes; nothing "
                "was put in place: keep the model's own target, and report this"
            )
        report.notes.append(f"the move to {target.target} was run without palettes: the outputs are the same")


def _differs(output: OutputComparison) -> bool:
    if output.figures is None:
        return output.agreement not in (None, 1)
    figures = output.figures
    return figures.max_abs > 0 or figures.non_finite > 0 or figures.original_changed > 0


def _check_can_run(source: PathLike) -> None:
    """A finished package is not to be refused for that. Raises what ``compare`` does."""
    from mil_palettize.torch.evaluator.model_pipeline import open_model

    open_model(source)
