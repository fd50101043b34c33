"""The door for models in memory: ``MLModel`` in, ``MLModel`` out, with coremltools' signatures and names."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from coremltools.converters.mil.frontend.milproto import load as milproto
from coremltools.models import MLModel
from coremltools.optimize.coreml import OptimizationConfig

from mil_palettize.calibration.request import Calibration, checked_calibration
from mil_palettize.doors.calibrating import Calibrated, calibrated
from mil_palettize.doors.calibration_remarks import calibration_remarks
from mil_palettize.doors.report_log import log_report, logger
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ModelTypeError, memory_told
from mil_palettize.planning.plan import Select
from mil_palettize.program.model import Model
from mil_palettize.program.stages import NEURAL_NETWORKS, stages
from mil_palettize.reports.progress import make_progress
from mil_palettize.reports.report import Report
from mil_palettize.reports.weight_report import DECOMPRESSED
from mil_palettize.request.normalised import normalise
from mil_palettize.rewriting.changed_biases import put_biases
from mil_palettize.rewriting.decompression import decompress_model
from mil_palettize.rewriting.palettization import carry_out, prepare

_IN_MEMORY = "the model in memory"


@overload
def palettize_weights(
    mlmodel: MLModel,
    config: OptimizationConfig,
    joint_compression: bool = ...,
    *,
    select: Select = ...,
    strict: bool = ...,
    importance: Mapping[str, Any] | None = ...,
    calibration: Calibration | None = ...,
    return_report: Literal[False] = ...,
) -> MLModel: ...


@overload
def palettize_weights(
    mlmodel: MLModel,
    config: OptimizationConfig,
    joint_compression: bool = ...,
    *,
    select: Select = ...,
    strict: bool = ...,
    importance: Mapping[str, Any] | None = ...,
    calibration: Calibration | None = ...,
    return_report: Literal[True],
) -> tuple[MLModel, Report]: ...


@memory_told()
def palettize_weights(
    mlmodel: MLModel,
    config: OptimizationConfig,
    joint_compression: bool = False,
    *,
    select: Select = "weights",
    strict: bool = False,
    importance: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    return_report: bool = False,
) -> MLModel | tuple[MLModel, Report]:
    """A copy of ``mlmodel`` with palettes in place of its weights, in a temporary package of its own.

    Signature, config, and names in the result (``<weight>_palettized``) are those of
    ``coremltools.optimize.coreml.palettize_weights``; functions, states, metadata, compute units, function name and
    whether the model is loaded are as in ``mlmodel``. An iOS15 model moves to iOS16. The report goes to the logger
    ``mil_palettize``; what was done otherwise than asked, and what was left alone, as warnings.

    Args:
        mlmodel: an ML Program, or a pipeline of them.
        config: an ``OptimizationConfig``, coremltools' own or ours.
        joint_compression: also what sparse weights hold, and the integers of quantized ones (from iOS18).
        select: as for :func:`palettize_package`; so are ``strict``, ``importance`` and ``calibration``.
        strict: as above.
        importance: as above.
        calibration: as above.
        return_report: give the report too.

    Returns:
        The copy; with ``return_report`` the copy and its :class:`Report`.

    Raises:
        ModelTypeError: (a TypeError) for what is no ML Program.
        ConfigError: (a ValueError) for requests that are wrong.
        PlanError: (a ValueError) for those that this model cannot meet.
        PackageError: when its weights cannot be read.

    >>> import coremltools as ct
    >>> model = ct.models.MLModel("fixtures/conv_fp16_ios18.mlpackage", skip_model_load=True)
    >>> config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    >>> small, report = palettize_weights(model, config, return_report=True)
    >>> len(report.palettized)
    5
    """
    started = time.perf_counter()
    requests, calibration = normalise(config, joint_compression, importance), checked_calibration(calibration)

    def write(model: Model, folder: Path, pool: Workers) -> Report:
        prepared = prepare(model, requests, target=None, select=select, strict=strict)
        report = prepared.report(_IN_MEMORY, None)
        report.notes += calibration_remarks(prepared.plan, calibration, strict=strict)
        done = Calibrated() if calibration is None else calibrated(model, prepared.plan, calibration, pool=pool)
        report.notes += done.notes
        carry_out(prepared, folder, report, pool=pool, progress=make_progress(None), rename=True, ready=done.palettes)
        report.biases = put_biases(folder, done.biases)
        report.seconds = time.perf_counter() - started
        return report

    result, report = _rewritten(mlmodel, write)
    return (result, report) if return_report else result


@memory_told()
def decompress_weights(mlmodel: MLModel) -> MLModel:
    """A copy of ``mlmodel`` with a plain constant in the place of every compressed weight.

    The values are those coremltools decodes, bit for bit; names stay. Everything else is as for
    :func:`palettize_weights`.

    Args:
        mlmodel: an ML Program, or a pipeline of them.

    Returns:
        The copy, in a temporary package of its own.

    Raises:
        ModelTypeError: (a TypeError) for what is no ML Program.
        PackageError: when its weights cannot be read.

    >>> import coremltools as ct
    >>> model = ct.models.MLModel("fixtures/palettized_ios16.mlpackage", skip_model_load=True)
    >>> type(decompress_weights(model)).__mro__[1].__name__
    'MLModel'
    """
    started = time.perf_counter()

    def write(model: Model, folder: Path, pool: Workers) -> Report:
        report = Report(_IN_MEMORY, None, model.package.nbytes(), 0, action=DECOMPRESSED)
        decompress_model(model, folder, report, pool=pool, progress=make_progress(None))
        report.seconds = time.perf_counter() - started
        return report

    return _rewritten(mlmodel, write)[0]


def _rewritten(mlmodel: MLModel, write: Callable[[Model, Path, Workers], Report]) -> tuple[MLModel, Report]:
    """What ``write`` makes of ``mlmodel``, loaded as that is, and what it tells of it."""
    spec = _checked(mlmodel)
    folder = Path(tempfile.mkdtemp(suffix=".mlpackage"))
    try:
        with Workers() as pool, Model.open(mlmodel.package_path, spec) as model:
            report = write(model, folder, pool)
        result = _TemporaryModel(
            str(folder),
            is_temp_package=True,
            compute_units=mlmodel.compute_unit,
            skip_model_load=mlmodel.__proxy__ is None,
            function_name=mlmodel.function_name,
            optimization_hints=mlmodel.optimization_hints,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    log_report(report)
    return result, report


def _checked(mlmodel: MLModel) -> Any:
    """The specification of ``mlmodel``, changes that were made to it included."""
    if not isinstance(mlmodel, MLModel):
        raise ModelTypeError(f"mlmodel must be a coremltools MLModel, got {type(mlmodel).__name__}")
    spec = mlmodel.get_spec()
    kind = spec.WhichOneof("Type")
    if kind in NEURAL_NETWORKS or (not stages(spec) and "ipeline" in str(kind)):
        raise ModelTypeError(
            "coremltools.optimize.coreml are meant to be used only with mlprogram typed coreml models. This model has "
            f"type {kind}. Please use coremltools.models.neural_network.quantization_utils.quantize_weights instead to "
            "compress the weights of the model."
        )
    if not stages(spec):
        raise ModelTypeError(f"weight compression not applicable for model type {kind}")
    return spec


class _TemporaryModel(MLModel):
    """A model whose PyMIL program is made when something asks for it, as what coremltools returns has one. None, as of
    any model that was loaded, where there is no such program: of pipelines, and of what PyMIL cannot load."""

    _program: Any = None
    _made = False

    def save(self, save_path: str) -> None:
        """As ``MLModel.save``. That looks in the program for what a converter left there, which a program that was
        read from a package does not have: so none is made for it."""
        made, self._made = self._made, True
        try:
            super().save(save_path)
        finally:
            self._made = made

    @property
    def _mil_program(self) -> Any:
        if not self._made:
            self._made = True
            self._program = self._loaded_program()
        return self._program

    @_mil_program.setter
    def _mil_program(self, program: Any) -> None:
        self._program, self._made = program, program is not None

    def _loaded_program(self) -> Any:
        spec = self.get_spec()
        if spec.WhichOneof("Type") != "mlProgram":
            return None
        try:
            return milproto.load(spec, spec.specificationVersion, self.weights_dir)
        except Exception as error:  # of any kind: it is made for models of its own making
            logger.warning("PyMIL cannot load the model, which has no _mil_program therefore: %s", error)
            return None
