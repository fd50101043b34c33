"""The door for ``MLModel`` objects: right after ``ct.convert``, or loaded from a package.

The signatures are those of ``coremltools.optimize.coreml``: changing one import is enough.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import coremltools as ct

from mil_palettize.config import OptimizationConfig, normalise
from mil_palettize.errors import ConfigError, ModelTypeError
from mil_palettize.palettization import carry_out, prepare
from mil_palettize.parallel import Workers
from mil_palettize.program.model import Model
from mil_palettize.progress import make_progress
from mil_palettize.report import Report
from mil_palettize.rewrite import Naming
from mil_palettize.summary import planned_report

logger = logging.getLogger("mil_palettize")


def palettize_weights(
    mlmodel: ct.models.MLModel, config: OptimizationConfig, *, select: str = "weights", strict: bool = False
) -> ct.models.MLModel:
    """``mlmodel`` with look-up tables in the place of weights, as a new ``MLModel`` in a temporary package.

    The result keeps compute units, metadata and function name, and is loaded exactly when ``mlmodel`` was. The op in a
    constant's place is called ``<constant>_palettized``, as coremltools names it. Multifunction models and pipelines
    work too. ``config``, ``select`` and ``strict`` as in :func:`palettize_package`; what was done is logged by the
    logger ``mil_palettize``. Raises ConfigError, PlanError and AlgorithmError, all of them ``ValueError``, and
    ModelTypeError (a ``TypeError``) for a model without an ML Program.
    """
    requests = normalise(config)
    with Workers() as pool, _open(mlmodel) as model:
        prepared = prepare(model, requests, target=None, select=select, strict=strict)
        report = planned_report("the model", None, model.package.nbytes(), prepared.plan, prepared.moved)
        folder = Path(tempfile.mkdtemp(suffix=".mlpackage"))
        try:
            carry_out(prepared, folder, report, pool=pool, progress=make_progress(None), naming=Naming.COREMLTOOLS)
            _log(report)
            return _load(folder, mlmodel)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _open(mlmodel: ct.models.MLModel) -> Model:
    """The model's package, with the specification as it stands in memory: metadata may have been changed there."""
    if not isinstance(mlmodel, ct.models.MLModel):
        raise ConfigError(f"mlmodel must be an MLModel, got {type(mlmodel).__name__}; for a path use palettize_package")
    spec = mlmodel.get_spec()
    kind = spec.WhichOneof("Type")
    if mlmodel.package_path is None:
        raise ModelTypeError(
            "coremltools.optimize.coreml are meant to be used only with mlprogram typed coreml models. "
            f"This model has type {kind}. Convert it again with convert_to='mlprogram'"
        )
    return Model.open(mlmodel.package_path, spec=spec)


def _load(folder: Path, like: ct.models.MLModel) -> ct.models.MLModel:
    return ct.models.MLModel(
        str(folder),
        is_temp_package=True,
        skip_model_load=like.__proxy__ is None,
        compute_units=like.compute_unit,
        function_name=like.function_name,
        optimization_hints=like.optimization_hints,
    )


def _log(report: Report) -> None:
    for note in report.notes + [f"{w.function}/{w.name}: {note}" for w in report.weights for note in w.notes]:
        logger.warning("%s", note)
    logger.info("%s", report.to_text())
