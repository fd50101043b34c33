"""An ML Program as a torch module."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.package.mlpackage import Package
from mil_palettize.program.chains import chain_ops
from mil_palettize.program.model import Model
from mil_palettize.program.sites import stored_nbytes
from mil_palettize.program.stages import Stage, parse_model
from mil_palettize.program.store import Store
from mil_palettize.program.weight import WeightId
from mil_palettize.torch.evaluator.constant_store import ConstantStore, LazyValues
from mil_palettize.torch.evaluator.execution import Execution, Listener
from mil_palettize.torch.evaluator.gru_loops import mark_gru_loops
from mil_palettize.torch.evaluator.memory import claim, one_line
from mil_palettize.torch.evaluator.ops.registry import to_tensor
from mil_palettize.torch.evaluator.ops.states import State, zero_state
from mil_palettize.torch.evaluator.program import Constant, Function, compile_function
from mil_palettize.torch.evaluator.types import as_declared, is_half, tensor_dtype, tensor_shape
from mil_palettize.torch.evaluator.weight_sites import weight_sites
from mil_palettize.torch.features import Features, features_of, function_of

PathLike = str | os.PathLike[str]
PRECISIONS = ("fp32", "fp16")


class MILModule(nn.Module):
    """One function of an ML Program, run with torch: ``module(x=tensor)`` gives a dict of tensors, :meth:`predict`
    takes and gives what ``MLModel.predict`` does.

    ``weights``: the constants that palettization would touch, by name, as parameters: floats that act as weights. They
    and all others are decoded when they are first needed. ``features``: the model's inputs and outputs as described;
    ``weight_facts``: what is known of the weights without their values, by id.
    ``function``: the program as it is run. ``precision``: "fp32" computes everything in float32; "fp16" rounds results
    declared float16, as devices do.
    """

    def __init__(
        self,
        model: Model,
        stage: Stage,
        function: Function,
        features: Features,
        precision: str,
        memory: int | None = None,
    ) -> None:
        super().__init__()
        self._store = None if memory is None else ConstantStore(function.constants, memory)
        self._stage = stage
        self._model = model  # its files stay open for what is yet to be decoded
        self.function = function
        self.half = precision == "fp16"
        self._listeners: list[Listener] = []
        self._slots: dict[str, str] = {}  # of constants -> names of parameters and buffers
        self._plain: dict[str, Any] = {}  # constants that are no tensors
        label = stage.function_label(function.name)
        sites = weight_sites(stage, label)
        self._nodes = {weight: site.node for weight, site in sites.items() if site.node is not None}
        self.weight_facts = {weight: site.weight for weight, site in sites.items()}
        ids = {slot: WeightId(label, c.block, c.name) for slot, c in function.constants.items()}
        self._ids = {slot: weight for slot, weight in ids.items() if weight in self._nodes}
        self.features = features

    @classmethod
    def from_package(
        cls, path: PathLike, function: str | None = None, *, precision: str = "fp32", memory: int | None = None
    ) -> MILModule:
        """Open a package. ``function``: of a model with several, else the default one. ``memory``: bytes of constants
        that are kept once they are decoded, as they are stored (``EVERYTHING``: all), for models that are only run;
        None for all, in float32, as parameters and buffers of the module, which it has from then on, too, when these
        are asked for (:attr:`weights`, ``parameters``).

        Raises PackageError for a package that cannot be read, ConfigError for a function it has not, and
        UnsupportedOpError naming all ops that are not known.
        """
        model = Model.open(path)
        try:
            if len(model.stages) > 1 or model.stages[0].label:
                raise ConfigError(f"{path} is a pipeline; use mil_palettize.torch.open_model")
            return cls.from_stage(model, model.stages[0], function, precision, memory)
        except BaseException:
            model.close()
            raise

    @classmethod
    def from_stage(
        cls, model: Model, stage: Stage, function: str | None, precision: str, memory: int | None = None
    ) -> MILModule:
        """One ML Program of an opened package, whose files have to stay open."""
        if precision not in PRECISIONS:
            raise ConfigError(f"precision is {precision!r}; use one of {list(PRECISIONS)}")
        name, message = function_of(model, stage, function)
        compiled = compile_function(name, message, model.store)
        mark_gru_loops(compiled)
        return cls(model, stage, compiled, features_of(stage.model, name, compiled.types), precision, memory).eval()

    boxes: None = None  # which only a pipeline's suppression gives
    box_classes: Sequence[str] = ()

    def forward(self, **inputs: Any) -> dict[str, Any]:
        """Run on tensors, by the names of the inputs; states begin with zeros."""
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any], state: Mapping[str, State] | None = None) -> dict[str, Any]:
        """As :meth:`forward`; ``state`` of :meth:`make_state` is read and written. Raises EvaluationError."""
        values = self.values_of(inputs, state)
        found = Execution(self.function, values, self.half, self._listeners).run()
        given = [values[name] for name in self.function.types]
        places = {t.untyped_storage().data_ptr() for t in given if isinstance(t, torch.Tensor)}
        return {name: _own(value, places) for name, value in found.items()}

    def constants(self) -> dict[str, Any]:
        """By slot, decoded."""
        self._decode()
        return {**self._plain, **{slot: getattr(self, name) for slot, name in self._slots.items()}}

    def values_of(self, inputs: Mapping[str, Any], state: Mapping[str, State] | None = None) -> dict[str, Any]:
        """By slot, all that is known before the first op runs. Raises EvaluationError."""
        given = self.checked(inputs)
        return self.with_constants({**given, **(state if state is not None else self.make_state())})

    def with_constants(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """``known`` and the constants, by slot. Raises EvaluationError where memory lacks."""
        if self._store is None:
            return {**self.constants(), **known}
        with self._claiming():
            self._store.claim()
        return LazyValues(known, self._store)

    def predict(self, inputs: Mapping[str, Any], state: Mapping[str, State] | None = None) -> dict[str, Any]:
        """Run on arrays (images: also PIL images), as ``MLModel.predict``: arrays come back, labels as they are."""
        return self.features.outputs(self.results(inputs, state))

    def results(self, inputs: Mapping[str, Any], state: Mapping[str, State] | None = None) -> dict[str, Any]:
        """As :meth:`predict`, but tensors as the program makes them: images before they are rounded to bytes."""
        with torch.no_grad():
            return self.run(self.features.tensors(inputs), state)

    def make_state(self) -> dict[str, State]:
        """A new state: zeros, by name."""
        return {
            name: zero_state(name, tensor_shape(kind), tensor_dtype(kind))
            for name, kind in self.function.states.items()
        }

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The constants that act as weights, by name, decoded; changing them changes what the module computes."""
        return {slot: parameter for slot, _, parameter in self._weights()}

    @property
    def weight_ids(self) -> dict[str, WeightId]:
        """What tells each of :attr:`weights` from all others of the model, also where names repeat."""
        return dict(self._ids)

    def weight(self, weight: WeightId) -> torch.Tensor:
        """One of :attr:`weights_by_id`; where memory is limited, no other is decoded for it."""
        if self._store is None:
            return self.weights_by_id[weight].detach()
        slot = next(slot for slot, own in self._ids.items() if own == weight)
        tensor: torch.Tensor = self._store[slot]
        return tensor

    @property
    def weights_by_id(self) -> dict[WeightId, nn.Parameter]:
        """:attr:`weights` by what plans and reports know them by."""
        return {weight: parameter for _, weight, parameter in self._weights()}

    def trainable(self, slot: str) -> nn.Parameter:
        """A constant of floats as a parameter, which the optimizer may change as those of :attr:`weights`."""
        self._decode()
        name = self._slots[slot]
        if name in self._buffers:
            value = self._buffers.pop(name)
            assert value is not None
            self.register_parameter(name, nn.Parameter(value))
        parameter = self._parameters[name]
        assert parameter is not None
        return parameter.requires_grad_(True)

    @property
    def weight_readers(self) -> dict[WeightId, str]:
        """By weight, the name of what the first op that reads it makes; of an op in a block, what the op around it
        makes."""
        found: dict[WeightId, str] = {}
        for step in self.function.block.steps:
            for slot in step.slots_read():
                if slot in self._ids and step.info.outputs:
                    found.setdefault(self._ids[slot], step.info.outputs[0])
        return found

    def _weights(self) -> Iterator[tuple[str, WeightId, nn.Parameter]]:
        self._decode()
        for slot, weight in self._ids.items():
            parameter = self._parameters.get(self._slots[slot])
            if parameter is not None:
                yield slot, weight, parameter

    @property
    def reference(self) -> ModuleReference:
        """What another process needs to have the same module."""
        path, precision = os.path.abspath(self._model.package.path), PRECISIONS[self.half]
        spec = self._model.spec.SerializeToString()
        return ModuleReference(path, spec, self._model.moved, self._stage.label, self.function.name, precision)

    @property
    def functions(self) -> list[str]:
        """All that the model has."""
        return sorted(self._stage.program.functions)

    @property
    def function_name(self) -> str:
        """Of the one that is run."""
        return self.function.name

    @property
    def draws_random_numbers(self) -> bool:
        return any(step.info.type.startswith("random_") for step in self.function.block.all_steps())

    @property
    def package(self) -> Package:
        return self._model.package

    def constant_id(self, slot: str) -> WeightId:
        """What tells the constant in a slot from all others of the model."""
        constant = self.function.constants[slot]
        return WeightId(self._stage.function_label(self.function.name), constant.block, constant.name)

    def stored_bytes(self, weight: WeightId) -> int:
        """What the data of one of :attr:`weights_by_id` takes in the package, all its parts together."""
        return sum(stored_nbytes(op) for op in chain_ops(self._nodes[weight]))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the constants, by slot, as declared; nothing is decoded."""
        return {slot: constant.shape for slot, constant in self.function.constants.items()}

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Tell ``listener`` of every op that is run in the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    # torch reads parameters and buffers through these, also those of a module inside another.

    def named_modules(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:
        self._decode()
        return super().named_modules(*arguments, **options)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        self._decode()
        return super().state_dict(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._decode()
        super()._load_from_state_dict(*arguments, **options)

    def _apply(self, function: Any, recurse: bool = True) -> Any:
        self._decode()
        return super()._apply(function, recurse)

    def _decode(self) -> None:
        """All constants, once; they may be changed from now on, and are what is run."""
        constants = self.function.constants.items()
        waiting = {slot: c for slot, c in constants if slot not in self._slots and slot not in self._plain}
        with self._claiming():
            claim([sum(prod(constant.shape) for constant in waiting.values())])
        for slot, constant in waiting.items():
            self._put(slot, constant)
        self._store = None

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        """Of memory for constants."""
        try:
            yield
        except MemoryError as error:
            raise EvaluationError(f"the constants of {self.package.path} are too large: {one_line(error)}") from error

    def _put(self, slot: str, constant: Constant) -> None:
        value = to_tensor(constant.decode())
        if not isinstance(value, torch.Tensor):
            self._plain[slot] = value
            return
        name = slot.replace(".", "_")
        while name in dir(type(self)) or name in self.__dict__ or name in self._parameters or name in self._buffers:
            name += "_"
        if self._is_trained(slot) and value.is_floating_point():
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)
        self._slots[slot] = name

    def _is_trained(self, slot: str) -> bool:
        """Whether the constant is a parameter."""
        return slot in self._ids

    def checked(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs as the program declares them, with defaults of those that are left out. Raises EvaluationError."""
        types = self.function.types
        self.features.check_names(inputs)
        missing = [name for name in types if name not in inputs and name not in self.features.defaults]
        if missing:
            raise EvaluationError(self.features.missing_text(missing[0], types))
        values = {**{n: v for n, v in self.features.defaults.items() if n in types}, **inputs}
        tensors = {name: as_declared(name, values[name], kind) for name, kind in types.items()}
        if self.half:
            tensors = {name: t.half().float() if is_half(types[name]) else t for name, t in tensors.items()}
        return tensors


@dataclass(frozen=True)
class ModuleReference:
    """A module without its weights, which whoever opens it reads from the package's files. ``spec``: the model as it is
    in memory, serialized; ``moved``: to a later opset; ``stage``: its label."""

    path: str
    spec: bytes
    moved: bool
    stage: str
    function: str
    precision: str

    def open(self) -> MILModule:
        """Raises PackageError where the files are not to be seen from here."""
        package = Package.open(self.path)
        model = Model(package, parse_model(self.spec, self.path), Store(package), self.moved)
        stage = next(stage for stage in model.stages if stage.label == self.stage)
        return MILModule.from_stage(model, stage, self.function, self.precision)


def _own(value: Any, places: Container[int]) -> Any:
    """An output that lies where an input does (``places``) is copied: the caller may change it."""
    return value.clone() if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in places else value
