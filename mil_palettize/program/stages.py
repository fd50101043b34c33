"""The ML Programs of a Core ML model: the model itself, or the stages of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from mil_palettize.errors import PackageError
from mil_palettize.program.messages import CoreML
from mil_palettize.program.values import MIL
from mil_palettize.text import format_bytes

NEURAL_NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")  # as ``Model`` calls them
_PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")


@dataclass(frozen=True)
class Stage:
    """One ML Program of a model: the model itself (``label`` ""), or a stage of a pipeline."""

    label: str
    model: CoreML.Model

    @property
    def program(self) -> MIL.Program:
        return self.model.mlProgram

    def function_label(self, name: str) -> str:
        return f"{self.label}/{name}" if self.label else name


def parse_model(raw: bytes, source: str) -> CoreML.Model:
    """The ``Model`` message of a package's root model. Raises PackageError naming ``source``."""
    model = CoreML.Model()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise PackageError(f"{source} is not a Core ML model specification ({error}); is the file whole?") from error
    kind = model.WhichOneof("Type")
    if kind in NEURAL_NETWORKS:
        raise PackageError(
            f"{source} is a neural network, the format before ML Programs; palettes live in ML Programs only: "
            'convert the original again with coremltools convert_to="mlprogram"'
        )
    if not stages(model):
        raise PackageError(f"{source} holds {kind or 'no model'} and no ML Program; there is nothing to palettize")
    return model


def stages(model: CoreML.Model, label: str = "") -> list[Stage]:
    """Every ML Program of ``model``, pipelines (also nested) opened; other stages are left out."""
    if model.WhichOneof("Type") == "mlProgram":
        return [Stage(label, model)]
    return [
        stage for name, inner in pipeline_models(model) for stage in stages(inner, f"{label}/{name}" if label else name)
    ]


def pipeline_models(model: CoreML.Model) -> list[tuple[str, CoreML.Model]]:
    """(name, model) of a pipeline's stages, numbered where they have no names; [] for any other model. A name that an
    earlier stage has too gets a number: weights are told apart by it."""
    kind = model.WhichOneof("Type")
    if kind not in _PIPELINES:
        return []
    pipeline = model.pipeline if kind == "pipeline" else getattr(model, kind).pipeline
    given = [*pipeline.names, *[""] * len(pipeline.models)]
    found: dict[str, CoreML.Model] = {}
    numbers: dict[str, int] = {}  # the last one of each name
    for index, (name, stage) in enumerate(zip(given, pipeline.models, strict=False)):
        label = own = name or str(index)
        while label in found:
            numbers[own] = numbers.get(own, 1) + 1
            label = f"{own} ({numbers[own]})"
        found[label] = stage
    return list(found.items())


def other_stages(model: CoreML.Model, label: str = "") -> list[str]:
    """A sentence about every stage of a pipeline that is no ML Program, pipelines in it opened."""
    kind = model.WhichOneof("Type")
    if kind in _PIPELINES:
        inner = pipeline_models(model)
        return [told for name, stage in inner for told in other_stages(stage, f"{label}/{name}" if label else name)]
    if kind == "mlProgram" or not label:
        return []
    size = format_bytes(model.ByteSize())
    return [f"stage {label!r} of the pipeline is no ML Program but a {kind} of {size}, and stays as it is"]
