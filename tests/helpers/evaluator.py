"""Programs of a few ops, run by the evaluator and by others: what the tests of ops share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from mil_palettize.torch import MILModule

torch.set_num_threads(1)  # tests run side by side

TYPES = {
    np.dtype(np.float32): types.fp32, np.dtype(np.int32): types.int32, np.dtype(np.float16): types.fp16,
    np.dtype(bool): types.bool, np.dtype(np.int8): types.int8, np.dtype(np.uint8): types.uint8,
    np.dtype(np.int16): types.int16, np.dtype(np.uint16): types.uint16,
}  # fmt: skip
NAMES = {dtype: types.builtin_to_string(kind) for dtype, kind in TYPES.items()}
Build = Callable[..., Any]


class Module(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def program_of(build: Build, inputs: Sequence[tuple[Sequence[Any], Any]], target: Any = ct.target.iOS18) -> Program:
    """``build`` of inputs ``x0``, ``x1``, ... with these shapes and dtypes, as coremltools' program."""
    specs = {f"x{i}": mb.placeholder(tuple(shape), TYPES[np.dtype(dtype)]) for i, (shape, dtype) in enumerate(inputs)}
    program = Program()
    with Function(specs, opset_version=target) as function:
        result = build(*function.inputs.values())
        function.set_outputs(list(result) if isinstance(result, tuple | list) else [result])
    program.add_function("main", function)
    return program


def saved(program: Any, folder: Path, target: Any = ct.target.iOS18) -> Path:
    """A program as a package, by coremltools, with no pass that would change it."""
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = folder / "program.mlpackage"
    model.save(str(path))
    return path


def opened(build: Build, inputs: Sequence[Any], folder: Path, target: Any = ct.target.iOS18) -> MILModule:
    return MILModule.from_package(saved(program_of(build, inputs, target), folder, target))


def evaluated(build: Build, *arrays: np.ndarray, target: Any = ct.target.iOS18) -> list[np.ndarray]:
    """Outputs of ``build(*inputs)``, a function of MIL variables, for these inputs, run by the evaluator.

    Inputs that Core ML takes from no one (bool, small integers) are cast on their way in.
    """
    outer = [a if a.dtype in (np.float32, np.int32) else a.astype(np.int32) for a in arrays]

    def cast(*inputs: Any) -> Any:
        pairs = zip(inputs, arrays, outer, strict=True)
        return build(*(x if a.dtype == o.dtype else mb.cast(x=x, dtype=NAMES[a.dtype]) for x, a, o in pairs))

    program = program_of(cast, [(a.shape, a.dtype) for a in outer], target)
    main = program.functions["main"]
    with tempfile.TemporaryDirectory() as folder:
        module = MILModule.from_package(saved(program, Path(folder), target))
        found = module.predict(dict(zip(main.inputs, outer, strict=True)))
    return [found[output.name] for output in main.outputs]


def inferred(build: Build, *arrays: np.ndarray, target: Any = ct.target.iOS18) -> list[np.ndarray]:
    """The same outputs as coremltools infers them where all inputs are constants (``value_inference``)."""
    found: list[Any] = []

    def constant(x: Any) -> Any:
        result = build(*(mb.const(val=a) for a in arrays))
        found.extend(result if isinstance(result, tuple | list) else [result])
        return mb.identity(x=x)

    program_of(constant, [((1,), np.float32)], target)
    assert all(var.val is not None for var in found), "coremltools infers no value here"
    return [np.asarray(var.val) for var in found]


def converted(module: torch.nn.Module, *arrays: np.ndarray, target: Any = ct.target.iOS18, **options: Any) -> MILModule:
    """A torch module traced and converted by coremltools in float32, opened by the evaluator; its inputs are called
    ``x0``, ``x1``, ..."""
    tensors = tuple(torch.as_tensor(a) for a in arrays)
    traced = torch.jit.trace(module.eval(), tensors)
    inputs = [ct.TensorType(name=f"x{i}", shape=a.shape, dtype=a.dtype) for i, a in enumerate(arrays)]
    model = ct.convert(
        traced,
        inputs=inputs,
        minimum_deployment_target=target,
        compute_precision=options.pop("compute_precision", ct.precision.FLOAT32),
        skip_model_load=True,
        **options,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "converted.mlpackage"
        model.save(str(path))
        opened = MILModule.from_package(path)
        opened.state_dict()  # decodes what is in files that are about to go
    return opened


def against_torch(
    module: torch.nn.Module, *arrays: np.ndarray, rtol: float = 1e-4, atol: float = 1e-5, **options: Any
) -> None:
    """Hold the converted module, run by the evaluator, against the module itself."""
    ours = converted(module, *arrays, **options).predict({f"x{i}": a for i, a in enumerate(arrays)})
    with torch.no_grad():
        theirs = module.eval()(*(torch.as_tensor(a) for a in arrays))
    expected = list(theirs) if isinstance(theirs, tuple | list) else [theirs]
    assert len(ours) == len(expected)
    for found, wanted in zip(ours.values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=rtol, atol=atol)


def same(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Lists of arrays are equal: shapes exactly, floats within tolerance, everything else exactly."""
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        assert np.shape(one) == np.shape(two)
        if np.asarray(two).dtype.kind == "f":
            np.testing.assert_allclose(one, two, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(one, two)
