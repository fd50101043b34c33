"""What has been clustered already, in a folder: a second run, or one with other options, takes it from there.

A file for each palette, named by a digest of the weight's content and its plan, and one for each weight's distinct
values, which every number of bits starts from. Files hold arrays and JSON, nothing that is executed. A file that is
damaged, or of another version, is as good as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.algorithms import Distribution, Source
from mil_palettize.digest import expression_digest
from mil_palettize.errors import PackageError
from mil_palettize.forms import Form
from mil_palettize.packed import Packed
from mil_palettize.plan import WeightPlan
from mil_palettize.weight_expr import Cast, Const, Lut, Scale, Sparse, WeightExpr

VERSION = 1  # of the files, and of what the algorithms make of a weight: results of another one are not taken
_KINDS = {kind.__name__: kind for kind in (Cast, Const, Lut, Packed, Scale, Sparse)}


@dataclasses.dataclass(frozen=True)
class Stored:
    """A palette as it was made; ``note``: why not as planned, and ``plan`` how instead."""

    expr: WeightExpr
    sse: float
    signal: float
    plan: WeightPlan
    note: str


@dataclasses.dataclass(frozen=True)
class Clustered:
    """The folder; made when something is first kept. Runs may share it."""

    folder: str

    def content(self, source: Source, held: WeightExpr | None) -> str:
        """A digest of what a weight holds."""
        if held is not None:
            return expression_digest(held)
        digest = hashlib.sha256(f"{source.dtype} {source.shape};".encode())
        for window in source.windows():
            digest.update(np.ascontiguousarray(window).view(np.uint8).data)
        return digest.hexdigest()

    def palette(self, content: str, plan: WeightPlan, form: Form) -> Stored | None:
        """What was kept, None when nothing was."""
        header, arrays = self._load(_key(content, plan, form)) or ({}, {})
        with suppress(KeyError, ValueError, TypeError, AttributeError):
            expr = _built(header["expr"], arrays)
            if expression_digest(expr) != header["digest"]:
                return None
            made = dataclasses.replace(plan, **header["made"])
            return Stored(expr, float(header["sse"]), float(header["signal"]), made, str(header["note"]))
        return None

    def keep_palette(self, content: str, plan: WeightPlan, form: Form, made: Stored) -> None:
        """Raises PackageError when the folder cannot be written to."""
        arrays: dict[str, np.ndarray] = {}
        header = {
            "expr": _taken_apart(made.expr, arrays),
            "digest": expression_digest(made.expr),
            "made": {name: getattr(made.plan, name) for name in ("axis", "group_size")},
            "sse": made.sse,
            "signal": made.signal,
            "note": made.note,
        }
        self._save(_key(content, plan, form), header, arrays)

    def distribution(self, content: str, name: str) -> Distribution | None:
        """The distinct values of a whole weight, called ``name`` now; None when they were not kept."""
        header, arrays = self._load(f"{content}-values") or ({}, {})
        with suppress(KeyError, ValueError, TypeError):
            dtype, size, signal = np.dtype(header["dtype"]), int(header["size"]), float(header["signal"])
            return Distribution(name, arrays["values"], arrays["weights"], dtype, size, signal, bool(header["exact"]))
        return None

    def keep_distribution(self, content: str, found: Distribution) -> None:
        """Raises PackageError when the folder cannot be written to."""
        header = {"dtype": found.dtype.str, "size": found.size, "signal": found.signal, "exact": bool(found.exact)}
        self._save(f"{content}-values", header, {"values": found.values, "weights": found.weights})

    def _file(self, key: str) -> Path:
        return Path(self.folder, key[:2], f"{key}.npz")

    def _load(self, key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        try:
            with np.load(self._file(key), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop("header").tobytes())
        except Exception:  # whatever is wrong with a file, the weight can be clustered again
            return None
        return (header, arrays) if isinstance(header, dict) and header.get("version") == VERSION else None

    def _save(self, key: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        path = self._file(key)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        text = json.dumps({"version": VERSION, **header}).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    np.savez(file, header=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise PackageError(f"cannot keep what was clustered in {self.folder}: {error.strerror or error}") from error


def _key(content: str, plan: WeightPlan, form: Form) -> str:
    told = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "lut_function"}
    return hashlib.sha256(f"{VERSION} {content} {form} {told}".encode()).hexdigest()


def _taken_apart(part: object, arrays: dict[str, np.ndarray]) -> Any:
    """A part of an expression as JSON; arrays are put aside under numbers."""
    if isinstance(part, np.ndarray):
        arrays[f"a{len(arrays)}"] = part
        return {"array": f"a{len(arrays) - 1}"}
    if isinstance(part, np.dtype):
        return {"dtype": part.str}
    if type(part).__name__ in _KINDS:
        fields = {f.name: _taken_apart(getattr(part, f.name), arrays) for f in dataclasses.fields(part)}  # type: ignore[arg-type]
        return {"kind": type(part).__name__, "fields": fields}
    if isinstance(part, tuple):
        return {"shape": [int(size) for size in part]}
    return {"value": part}


def _built(told: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    if "kind" in told:
        fields = {name: _built(inner, arrays) for name, inner in told["fields"].items()}
        return _KINDS[told["kind"]](**fields)
    if "array" in told:
        return arrays[told["array"]]
    if "dtype" in told:
        return np.dtype(told["dtype"])
    return tuple(told["shape"]) if "shape" in told else told["value"]
