"""A package's model, open for reading and rewriting in memory: nothing here changes the source's files."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from mil_palettize.errors import PlanError
from mil_palettize.package.mlpackage import Package
from mil_palettize.program.blob_uses import BlobUse, blob_uses
from mil_palettize.program.messages import CoreML
from mil_palettize.program.opsets.move import Change, Opset, apply_move, opset_of, plan_move
from mil_palettize.program.stages import Stage, other_stages, parse_model, pipeline_models, stages
from mil_palettize.program.store import Store
from mil_palettize.program.survey import Survey, survey

_logger = logging.getLogger("mil_palettize")


@dataclass
class Model:
    """``spec`` is the parsed root model; ``store`` reads the values it points at. ``moved``: to a later opset, so that
    values may have other types than their records. Use as a context manager."""

    package: Package
    spec: CoreML.Model
    store: Store
    moved: bool = False
    _survey: Survey | None = None
    _uses: list[BlobUse] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], spec: CoreML.Model | None = None) -> Model:
        """Open and check a package: manifest, specification, and every record its programs point at.

        ``spec``: taken instead of the package's own specification. Raises PackageError (BlobError for a damaged weight
        file), in one line.
        """
        package = Package.open(path)
        _logger.debug("reading %s", package.path)
        if spec is None:
            spec = parse_model(package.model_bytes(), str(package.path))
        model = cls(package, spec, Store(package))
        try:
            model.store.check(model.blob_uses())
        except BaseException:
            model.close()
            raise
        return model

    def blob_uses(self) -> list[BlobUse]:
        """Every value in a weight file, as the model was opened or moved."""
        if self._uses is None:
            self._uses = blob_uses(self.spec)
        return self._uses

    def first_uses(self) -> dict[str, BlobUse]:
        """Function -> the first value that its program has in a weight file, of those that have one."""
        found: dict[str, BlobUse] = {}
        for stage in self.stages:
            for first in blob_uses(stage.program)[:1]:
                found |= {stage.function_label(name): first for name in stage.program.functions}
        return found

    @property
    def stages(self) -> list[Stage]:
        return stages(self.spec)

    def remarks(self) -> list[str]:
        """What a person should know of the package itself: links that were followed, stages that are left alone."""
        followed = self.package.followed()
        return ([followed] if followed else []) + other_stages(self.spec)

    def survey(self) -> Survey:
        """Constants, op types and names of all stages, as they were opened or moved."""
        if self._survey is None:
            self._survey = Survey()
            for stage in self.stages:
                self._survey.add(survey(stage))
        return self._survey

    def functions(self) -> list[tuple[str, str]]:
        """(function, opset name) of every function of every stage."""
        return [
            (stage.function_label(name), function.opset)
            for stage in self.stages
            for name, function in sorted(stage.program.functions.items())
        ]

    def refuse_moving_down(self, target: Opset) -> None:
        """Raise PlanError when a function is already above ``target``."""
        for name in sorted({opset for _, opset in self.functions()}):
            own = opset_of(name)
            if own.spec > target.spec:
                raise PlanError(
                    f"{self.package.path} is for {own.target}; packages are never moved down to {target.target}: "
                    f"leave the target out or use {own.target}"
                )

    def move(self, target: Opset) -> list[Change]:
        """Move every program up to ``target``, in memory. Raises PlanError when a meaning would change."""
        planned = [(stage, plan_move(stage.program, target)) for stage in self.stages]
        self._survey = self._uses = None
        changes = []
        for stage, move in planned:
            below = any(opset_of(function).spec < target.spec for function in stage.program.functions.values())
            apply_move(stage.program, move)
            changes += [_labelled(change, stage) for change in move.changes]
            self.moved |= below
            if below:
                stage.model.specificationVersion = max(stage.model.specificationVersion, target.spec)
        if self.moved:
            _raise_version(self.spec)
        return changes

    def without_ops(self) -> CoreML.Model:
        """A copy of the specification with empty blocks."""
        bare = CoreML.Model()
        bare.CopyFrom(self.spec)
        for stage in stages(bare):
            for function in stage.program.functions.values():
                for block in function.block_specializations.values():
                    block.ClearField("operations")
        return bare

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _raise_version(model: CoreML.Model) -> int:
    """A pipeline is of the latest version of what it holds, however deep; returns that of ``model``."""
    versions = [_raise_version(inner) for _, inner in pipeline_models(model)]
    model.specificationVersion = max(model.specificationVersion, *versions, 0)
    return int(model.specificationVersion)


def _labelled(change: Change, stage: Stage) -> Change:
    return Change(stage.function_label(change.function), change.op_name, change.op_type, change.what)
