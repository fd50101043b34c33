"""How a fixture is drawn, converted and written, so that every run gives the same bytes."""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, Var
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2

FP16, FP32 = "fp16", "fp32"
# Writes one fixture to the path it is given.
Recipe = Callable[[Path], None]
# coremltools records the day of the conversion; every fixture has this one.
CONVERSION_DATE = "2025-01-01"
_DATE_KEY = "com.github.apple.coremltools.conversion_date"
_NAMESPACE = uuid.UUID("6f1f4b0e-6f0a-4d58-9a53-2b6a2f0a7c11")


class Draw:
    """Seeded weights of one fixture; ``dtype`` is ``fp16`` or ``fp32``."""

    def __init__(self, seed: str, dtype: str = FP16) -> None:
        self.generator = np.random.default_rng(zlib.crc32(seed.encode()))
        self.dtype = np.float16 if dtype == FP16 else np.float32

    def normal(self, *shape: int, scale: float = 0.02) -> np.ndarray:
        return (self.generator.standard_normal(shape) * scale).astype(self.dtype)

    def near_one(self, *shape: int) -> np.ndarray:
        """Positive values around one, for variances and gains."""
        return (1 + 0.1 * self.generator.random(shape)).astype(self.dtype)


def constant(array: np.ndarray | np.generic, name: str) -> Var:
    return mb.const(val=array, name=name)


def entry(x: Var, dtype: str) -> Var:
    """A float32 input in the precision the program computes in."""
    return mb.cast(x=x, dtype=FP16, name=f"{x.name}_to_fp16") if dtype == FP16 else x


def result(x: Var, name: str) -> Var:
    """A float32 output called ``name``."""
    return mb.cast(x=x, dtype=FP32, name=name)


def program(target: ct.target, body: Callable[..., object], *specs: object) -> Program:
    """``body`` as a PyMIL program; inputs are called as its parameters, and have the types ``specs``."""
    return mb.program(input_specs=list(specs), opset_version=target)(body)


def tensor(*shape: int, dtype: object = None) -> object:
    return mb.TensorSpec(shape) if dtype is None else mb.TensorSpec(shape, dtype=dtype)


def convert(mil: Program, target: ct.target, **options: object) -> ct.models.MLModel:
    """Convert without graph passes: what was built is what is stored."""
    return ct.convert(
        mil,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        **options,
    )


def read_spec(package: Path) -> Model_pb2.Model:
    spec = Model_pb2.Model()
    spec.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return spec


def main_block(spec: Model_pb2.Model) -> MIL.Block:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def constant_op(block: MIL.Block, name: str) -> MIL.Operation:
    """The op of ``block`` whose first output is ``name``."""
    return next(op for op in block.operations if op.outputs and op.outputs[0].name == name)


def save(
    model: ct.models.MLModel,
    package: Path,
    edit: Callable[[Model_pb2.Model], None] | None = None,
    extra: dict[str, tuple[str, bytes]] | None = None,
) -> None:
    """Save ``model``; change its message by ``edit``; add manifest items ``{path: (description, bytes)}``."""
    model.save(str(package))
    finish(package, edit, extra)


def finish(
    package: Path,
    edit: Callable[[Model_pb2.Model], None] | None = None,
    extra: dict[str, tuple[str, bytes]] | None = None,
) -> None:
    """Give a saved package fixed identifiers, dates, key order and file modes (arguments: see ``save``)."""
    spec = read_spec(package)
    if edit is not None:
        edit(spec)
    for model in (spec, *spec.pipeline.models):
        if _DATE_KEY in model.description.metadata.userDefined:
            model.description.metadata.userDefined[_DATE_KEY] = CONVERSION_DATE
    data = package / "Data"
    (data / "com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString(deterministic=True))
    items = {
        "com.apple.CoreML/model.mlmodel": "CoreML Model Specification",
        "com.apple.CoreML/weights": "CoreML Model Weights",
    }
    for path, (description, content) in (extra or {}).items():
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(content)
        items[path] = description
    _write_manifest(package, items)
    for entry_path in [package, *package.rglob("*")]:
        os.chmod(entry_path, 0o755 if entry_path.is_dir() else 0o644)


def _write_manifest(package: Path, items: dict[str, str]) -> None:
    """``items``: path below ``Data`` -> description; the first is the root model."""
    identifiers = {p: str(uuid.uuid5(_NAMESPACE, f"{package.name}/{p}")).upper() for p in items}
    entries = {
        identifiers[path]: {
            "author": path.split("/")[0],
            "description": description,
            "name": path.split("/")[-1],
            "path": path,
        }
        for path, description in items.items()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": identifiers[next(iter(items))],
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")
