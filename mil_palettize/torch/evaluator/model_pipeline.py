"""Pipelines: ML Programs one after another, and the suppression of overlapping boxes that ends a detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mil_palettize.errors import ConfigError, EvaluationError, UnsupportedOpError
from mil_palettize.package.mlpackage import Package
from mil_palettize.program.messages import CoreML, Suppression
from mil_palettize.program.model import Model
from mil_palettize.program.stages import pipeline_models
from mil_palettize.program.weight import Weight, WeightId
from mil_palettize.torch.box_matching import BoxOutputs
from mil_palettize.torch.evaluator.execution import Listener
from mil_palettize.torch.evaluator.memory import one_line
from mil_palettize.torch.evaluator.module import MILModule, PathLike
from mil_palettize.torch.evaluator.ops.states import State
from mil_palettize.torch.evaluator.ops.suppression import kept_boxes
from mil_palettize.torch.evaluator.program import OpInfo
from mil_palettize.torch.features import features_of

_SUPPRESSION = "nonMaximumSuppression"


class Pipeline:
    """A model of several stages, with the interface of :class:`MILModule` as far as it makes sense.

    ``modules``: its ML Programs, by the labels that their functions have in reports. ``weights``: of all of them, by
    ``label/name``.

    >>> list(open_model("fixtures/pipeline_ios17.mlpackage").modules)
    ['0', '1']
    """

    def __init__(self, model: Model, precision: str, memory: int | None = None) -> None:
        self._model = model
        self.modules: dict[str, MILModule] = {}
        self._stages: list[tuple[CoreML.Model, MILModule | None]] = []
        programs = iter(model.stages)
        for stage in _leaves(model.spec):
            module = None
            if stage.WhichOneof("Type") == "mlProgram":
                program = next(programs)
                module = self.modules[program.label] = MILModule.from_stage(
                    model, program, None, precision, None if memory is None else memory // len(model.stages)
                )
            self._stages.append((stage, module))
        features = features_of(model.spec, "", {})
        thresholds = {n: torch.tensor(v) for n, v in self._thresholds().items() if n in features.inputs}
        self.features = replace(features, defaults={**thresholds, **features.defaults})

    @property
    def package(self) -> Package:
        return self._model.package

    @property
    def programs(self) -> list[MILModule]:
        """Its ML Programs in their order."""
        return [module for _, module in self._stages if module is not None]

    @property
    def boxes(self) -> BoxOutputs | None:
        """The outputs that a suppression of boxes gives, None where it gives none."""
        found = [
            BoxOutputs(s.coordinatesOutputFeatureName, s.confidenceOutputFeatureName) for s in self._suppressions()
        ]
        return next((names for names in found if set(names) <= self.features.outputs_described.keys()), None)

    @property
    def box_classes(self) -> list[str]:
        """What the suppression of boxes calls the classes; empty where it does not."""
        labels = [*self._suppressions(), Suppression.NonMaximumSuppression()][0]
        return [*labels.stringClassLabels.vector, *map(str, labels.int64ClassLabels.vector)]

    def _thresholds(self) -> dict[str, float]:
        """What a suppression of boxes takes where the inputs that set it are left out, by their names."""
        settings = self._suppressions()
        return {s.iouThresholdInputFeatureName: s.iouThreshold for s in settings} | {
            s.confidenceThresholdInputFeatureName: s.confidenceThreshold for s in settings
        }

    def _suppressions(self) -> list[Suppression.NonMaximumSuppression]:
        return [s.nonMaximumSuppression for s, _ in self._stages if s.WhichOneof("Type") == _SUPPRESSION]

    functions: Sequence[str] = ()  # a pipeline has none of its own
    function_name = ""

    @property
    def draws_random_numbers(self) -> bool:
        return any(module.draws_random_numbers for module in self.modules.values())

    def make_state(self) -> dict[str, State]:
        return {name: state for module in self.modules.values() for name, state in module.make_state().items()}

    def predict(self, inputs: Mapping[str, Any], state: Mapping[str, State] | None = None) -> dict[str, Any]:
        """As :meth:`MILModule.predict`. Raises EvaluationError."""
        return self.features.outputs(self.results(inputs, state))

    def results(self, inputs: Mapping[str, Any], state: Mapping[str, State] | None = None) -> dict[str, Any]:
        """As :meth:`MILModule.results`."""
        states = self.make_state() if state is None else state
        self.features.check_names(inputs)
        values: dict[str, Any] = {**self.features.defaults, **inputs}
        with torch.no_grad():
            for stage, module in self._stages:
                lacking = [f.name for f in stage.description.input if f.name not in values and not f.type.isOptional]
                if lacking:
                    raise EvaluationError(self.features.missing_text(lacking[0], self.features.inputs))
                values.update(_boxes_left(stage, values) if module is None else _ran(stage, module, values, states))
        absent = sorted(self.features.outputs_described.keys() - values.keys())
        if absent:
            raise EvaluationError(f"no stage of the pipeline makes its output {absent[0]!r}; the package is damaged")
        return {name: values[name] for name in self.features.outputs_described}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return {f"{label}/{n}": w for label, module in self.modules.items() for n, w in module.weights.items()}

    @property
    def weight_ids(self) -> dict[str, WeightId]:
        """As :attr:`MILModule.weight_ids`."""
        return {f"{label}/{n}": id for label, module in self.modules.items() for n, id in module.weight_ids.items()}

    @property
    def weights_by_id(self) -> dict[WeightId, nn.Parameter]:
        return {id: weight for module in self.modules.values() for id, weight in module.weights_by_id.items()}

    @property
    def weight_readers(self) -> dict[WeightId, str]:
        """As :attr:`MILModule.weight_readers`, by the names that ops have in reports."""
        return {
            id: f"{label}/{reader}"
            for label, module in self.modules.items()
            for id, reader in module.weight_readers.items()
        }

    def weight(self, weight: WeightId) -> torch.Tensor:
        """As :meth:`MILModule.weight`."""
        return self.modules[weight.stage].weight(weight)

    @property
    def weight_facts(self) -> dict[WeightId, Weight]:
        return {id: facts for module in self.modules.values() for id, facts in module.weight_facts.items()}

    def stored_bytes(self, weight: WeightId) -> int:
        return self.modules[weight.stage].stored_bytes(weight)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        with ExitStack() as stack:
            for label, module in self.modules.items():
                stack.enter_context(module.listening(_Labelled(label, listener)))
            yield


class _Labelled:
    """Tells a listener of a stage's ops by ``label/name``: stages may use a name each."""

    def __init__(self, label: str, listener: Listener) -> None:
        self._label, self._listener = label, listener

    def _named(self, op: OpInfo) -> OpInfo:
        outputs = tuple(f"{self._label}/{name}" for name in op.outputs)
        return replace(op, name=f"{self._label}/{op.name}", outputs=outputs)

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        self._listener.will_run(self._named(op), inputs)

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        self._listener.did_run(self._named(op), outputs)


Evaluated = MILModule | Pipeline


def open_model(
    path: PathLike, function: str | None = None, *, precision: str = "fp32", memory: int | None = None
) -> Evaluated:
    """A package's ML Program, or its pipeline. ``memory``: as of :meth:`MILModule.from_package`, whose errors are
    raised.

    >>> import numpy as np
    >>> outputs = open_model("fixtures/conv_fp16_ios18.mlpackage").predict({"image": np.zeros((1, 16, 12, 12))})
    >>> outputs["scores"].shape
    (1, 10)
    """
    model = Model.open(path)
    try:
        return evaluated(model, function, precision=precision, memory=memory)
    except BaseException:
        model.close()
        raise


def evaluated(
    model: Model, function: str | None = None, *, precision: str = "fp32", memory: int | None = None
) -> Evaluated:
    """As :func:`open_model`, of a model that is open, and has to stay so."""
    kinds = Counter(str(leaf.WhichOneof("Type")) for leaf in _leaves(model.spec))
    if not pipeline_models(model.spec):
        return MILModule.from_stage(model, model.stages[0], function, precision, memory)
    path = model.package.path
    if function is not None:
        raise ConfigError(f"{path} is a pipeline, which has no functions of its own; leave the function out")
    unknown = sorted(set(kinds) - {"mlProgram", _SUPPRESSION})
    if unknown:
        raise UnsupportedOpError(
            f"{path} is a pipeline with models that this evaluator does not know: "
            f"{', '.join(f'{kind} ({kinds[kind]}x)' for kind in unknown)}; run it with Core ML on a Mac"
        )
    return Pipeline(model, precision, memory)


def _leaves(model: CoreML.Model) -> Iterator[CoreML.Model]:
    inner = pipeline_models(model)
    if not inner:
        yield model
    for _, stage in inner:
        yield from _leaves(stage)


def _ran(
    stage: CoreML.Model, module: MILModule, values: Mapping[str, Any], states: Mapping[str, State]
) -> dict[str, Any]:
    given = {feature.name: values[feature.name] for feature in stage.description.input if feature.name in values}
    own = {name: state for name, state in states.items() if name in module.function.states}
    return module.run(module.features.tensors(given), own)


def _boxes_left(stage: CoreML.Model, values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _suppressed(stage, values)
    except Exception as error:
        settings = stage.nonMaximumSuppression
        names = settings.coordinatesInputFeatureName, settings.confidenceInputFeatureName
        told = ", ".join(f"{name} {list(np.shape(values[name])) if name in values else 'missing'}" for name in names)
        raise EvaluationError(
            f"the suppression of boxes cannot be run: {one_line(error)}; its inputs are {told}"
        ) from error


def _suppressed(stage: CoreML.Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """The boxes that are left, best first. Source: coremltools ``mlmodel/format/NonMaximumSuppression.proto``."""
    settings: Suppression.NonMaximumSuppression = stage.nonMaximumSuppression
    boxes, scores = (
        _rows(values[settings.coordinatesInputFeatureName]),
        _rows(values[settings.confidenceInputFeatureName]),
    )
    overlap = _setting(values, settings.iouThresholdInputFeatureName, settings.iouThreshold)
    least = _setting(values, settings.confidenceThresholdInputFeatureName, settings.confidenceThreshold)
    kept = kept_boxes(boxes, scores, overlap, least, len(boxes), settings.pickTop.perClass)
    kept = kept[scores[kept].amax(dim=1) >= least]
    return {
        settings.confidenceOutputFeatureName: scores[kept],
        settings.coordinatesOutputFeatureName: boxes[kept],
    }


def _rows(values: Any) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    return tensor.reshape(-1, tensor.shape[-1])


def _setting(values: Mapping[str, Any], name: str, default: float) -> float:
    return float(torch.as_tensor(values[name]).reshape(-1)[0]) if name and name in values else default
