"""An independent reader of packages, which judges the library in tests: it shares no code with it.

Values and constant ops are read by ``mil_decoding.py``, whose verbs are public here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from google.protobuf.message import Message
from mil_decoding import (
    DECODERS,
    Scope,
    blob_file,
    decode_op,
    decode_value,
    manifest,
    read_record,
    read_spec,
    spec_file,
    unpack,
    weights_dir,
)

__all__ = [
    "Key", "PlacedBlock", "Scope", "blob_file", "blob_users", "blob_values", "blocks", "constants", "decode_op",
    "decode_value", "differences", "manifest", "models", "named_ops", "normalised", "read_record",
    "read_spec", "spec_file", "unpack", "weights_dir",
]  # fmt: skip

Pipeline: TypeAlias = Model_pb2.Pipeline
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
Key: TypeAlias = tuple[str, str, str, str]


class PlacedBlock(NamedTuple):
    """A block and where it stands. ``model``: ``""``, or the stage of a pipeline as ``"0"``, ``"1/0"``;
    ``path``: ``""``, or nested as ``"loop_out#1"`` (first output of the owner, number of the block);
    ``scope``: the constant ops visible inside, by output name."""

    model: str
    function: str
    path: str
    block: MIL.Block
    scope: Scope


def pipeline_of(model: Model_pb2.Model) -> Pipeline:
    """The pipeline a model is; an empty one when it is none."""
    kind = model.WhichOneof("Type")
    if kind == "pipeline":
        return model.pipeline
    return getattr(model, kind).pipeline if kind in PIPELINES else Pipeline()


def models(spec: Model_pb2.Model, label: str = "") -> Iterator[tuple[str, Model_pb2.Model]]:
    """The model and the stages of a pipeline: "" the model, "0" a stage, "1/0" a stage's stage."""
    yield label, spec
    for number, stage in enumerate(pipeline_of(spec).models):
        yield from models(stage, f"{label}/{number}".lstrip("/"))


def blocks(spec: Model_pb2.Model) -> Iterator[PlacedBlock]:
    """Every block of every ML Program, a block before those nested in it."""
    for label, model in models(spec):
        if model.WhichOneof("Type") == "mlProgram":
            for name, function in sorted(model.mlProgram.functions.items()):
                for opset, block in sorted(function.block_specializations.items()):
                    # Several specializations are legal; the active one has no prefix.
                    place = "" if opset == function.opset else f"{opset}:"
                    yield from _nested(PlacedBlock(label, name, place, block, {}))


def _nested(outer: PlacedBlock) -> Iterator[PlacedBlock]:
    visible = {o.name: op for op in outer.block.operations if op.type in DECODERS for o in op.outputs}
    outer = outer._replace(scope={**outer.scope, **visible})
    yield outer
    for op, name in named_ops(outer.block):
        for number, block in enumerate(op.blocks):
            path = f"{outer.path}/{name}#{number}".lstrip("/")
            yield from _nested(outer._replace(path=path, block=block))


def named_ops(block: MIL.Block) -> Iterator[tuple[MIL.Operation, str]]:
    """The ops of a block, each with its first output's name; ``type@n`` for the n-th op without outputs."""
    without_output = 0
    for op in block.operations:
        without_output += not op.outputs
        yield op, op.outputs[0].name if op.outputs else f"{op.type}@{without_output}"


def constants(path: Path) -> dict[Key, tuple[MIL.Operation, Callable[[], np.ndarray]]]:
    """(model, function, block, output name) -> (op, call decoding it), of ``const`` and ``constexpr_*``."""
    found: dict[Key, tuple[MIL.Operation, Callable[[], np.ndarray]]] = {}
    for model, function, place, block, scope in blocks(read_spec(path)):
        for op in block.operations:
            for number, output in enumerate(op.outputs if op.type in DECODERS else ()):
                found[model, function, place, output.name] = op, partial(decode_op, op, path, scope, number)
    return found


# "Nothing else moved"


def blob_values(message: Message) -> Iterator[MIL.Value]:
    """Every value inside ``message`` that is stored in a weight file."""
    if isinstance(message, MIL.Value) and message.WhichOneof("value") == "blobFileValue":
        yield message
        return
    for _, content in message.ListFields():
        items = [content]
        if hasattr(content, "values") and not isinstance(content, Message):  # a map
            items = list(content.values())
        elif not isinstance(content, Message | str | bytes) and hasattr(content, "__len__"):
            items = list(content)
        for item in items:
            if isinstance(item, Message):
                yield from blob_values(item)


def blob_users(path: Path) -> dict[tuple[str, int], list[Key]]:
    """(weight file name, metadata offset) -> the ops that read the record, in program order."""
    users: dict[tuple[str, int], list[Key]] = {}
    for model, function, place, block, _ in blocks(read_spec(path)):
        for op, name in named_ops(block):
            for value in blob_values(_without(op, "blocks")):
                record = blob_file(value, path).name, value.blobFileValue.offset
                users.setdefault(record, []).append((model, function, place, name))
    return users


def _without(message: Message, *fields: str) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    for field in fields:
        copy.ClearField(field)
    return copy


def _serialized(message: Message, package: Path) -> bytes:
    """Deterministic bytes in which a digest of the record stands for each reference to one."""
    copy = _without(message)
    for value in blob_values(copy):
        code, data, padding = read_record(blob_file(value, package), value.blobFileValue.offset)
        value.blobFileValue.fileName = f"{code}:{padding}:{hashlib.sha256(data).hexdigest()}"
        value.blobFileValue.offset = 0
    return copy.SerializeToString(deterministic=True)


def normalised(path: Path) -> dict[str, str | bytes]:
    """What a package holds, piece by piece, wherever its weights are stored.

    Keys name the piece (``op main//conv_weight``, ``order main/``, ``description.input``, ``manifest``...,
    with ``[stage]`` in pipelines); equal values mean equal messages, bytes and records.
    """
    spec = read_spec(path)
    pieces: dict[str, str | bytes] = {"manifest": json.dumps(manifest(path), sort_keys=True, indent=1)}
    pieces |= _files(path, spec)
    for label, model in models(spec):
        stage = f"[{label}]" if label else ""
        fields = {field.name for field, _ in model.description.ListFields()}
        for field in sorted(fields):
            part = _without(model.description, *(fields - {field}))
            pieces[f"description.{field}{stage}"] = _serialized(part, path)
        pieces[f"type{stage}"] = str(model.WhichOneof("Type"))
        pieces[f"specificationVersion{stage}"] = str(model.specificationVersion)
        pieces[f"pipeline{stage}"] = _serialized(_without(pipeline_of(model), "models"), path)
        rest = _without(model, "description", "specificationVersion", "mlProgram", *PIPELINES)
        pieces[f"model{stage}"] = _serialized(rest, path)
        if model.WhichOneof("Type") == "mlProgram":
            pieces |= _program(model.mlProgram, stage, path)
    for placed in blocks(spec):
        pieces |= _block(placed, path)
    return pieces


def _files(path: Path, spec: Model_pb2.Model) -> dict[str, str | bytes]:
    """The names of all files, and a digest of each that is not the manifest, the model or a weight file."""
    weights = {blob_file(value, path) for value in blob_values(spec)}
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    names = [str(file.relative_to(path)) for file in files]
    pieces: dict[str, str | bytes] = {"files": "\n".join(names)}
    for name, file in zip(names, files, strict=True):
        if file not in weights | {spec_file(path), Path(path) / "Manifest.json"}:
            pieces[f"file {name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return pieces


def _program(program: MIL.Program, stage: str, path: Path) -> dict[str, str | bytes]:
    """The program and its function signatures, without blocks."""
    pieces: dict[str, str | bytes] = {f"program{stage}": _serialized(_without(program, "functions"), path)}
    for name, function in program.functions.items():
        signature = _without(function, "opset", "block_specializations")
        pieces[f"function {name}{stage}"] = _serialized(signature, path)
        pieces[f"opset {name}{stage}"] = function.opset
        pieces[f"specializations {name}{stage}"] = ", ".join(sorted(function.block_specializations))
    return pieces


def _block(placed: PlacedBlock, path: Path) -> dict[str, str | bytes]:
    """A block's signature, the order of its ops, and each op without its nested blocks."""
    place = f"{placed.function}/{placed.path}" + (f"[{placed.model}]" if placed.model else "")
    signature = _without(placed.block, "operations")
    pieces: dict[str, str | bytes] = {f"block {place}": _serialized(signature, path)}
    names = []
    for op, name in named_ops(placed.block):
        names.append(name)
        again = f" ({names.count(name)})" if names.count(name) > 1 else ""
        pieces[f"op {place}/{name}{again}"] = _serialized(_without(op, "blocks"), path)
    pieces[f"order {place}"] = "\n".join(names)
    return pieces


def differences(a: Path, b: Path) -> list[str]:
    """One line for each piece (see :func:`normalised`) that differs between two packages; empty when equal.

    ``op main//w: changed``, ``op main//w: only in b.mlpackage``, ``specificationVersion: 6 -> 7``.
    """
    left, right = normalised(a), normalised(b)
    lines = []
    for key in sorted(left.keys() | right.keys()):
        if key not in right or key not in left:
            lines.append(f"{key}: only in {Path(a if key in left else b).name}")
        elif left[key] != right[key]:
            pair = left[key], right[key]
            short = all(isinstance(text, str) and len(text) < 40 for text in pair)
            lines.append(f"{key}: {pair[0]!s} -> {pair[1]!s}" if short else f"{key}: changed")
    return lines
