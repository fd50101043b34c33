"""What has been clustered already, in a folder: a second run, or one with other options, takes it from there.

A file for each palette, named by a digest of the weight's content, its specification and importance, and one for each
weight's distinct values, which every number of bits starts from. Files are ``.npz`` archives of arrays and a JSON
header; nothing in them is executed. A file that is damaged (archives have checksums), renamed, or of another version is
as good as none.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.algorithms.making import Distribution, Source
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.results import Encoded
from mil_palettize.errors import ConfigError, PackageError
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Cast, Const, Lut, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import Form
from mil_palettize.request.importance import Importance

logger = logging.getLogger("mil_palettize")
_FULL = (errno.ENOSPC, errno.EDQUOT)  # the run itself may still have room where it writes
_TOLD: set[str] = set()  # folders of which this was said in this process
VERSION = 1  # of the files
# What makes a palette of a weight: its results are taken only by the same code.
_CODE = ("algorithms/**/*.py", "encoding/encoder.py", "expressions/*.py")
_INTEGERS = (np.uint8, np.uint16, np.uint32)
PathLike = str | os.PathLike[str]
_KINDS = {kind.__name__: kind for kind in (Cast, Const, Lut, Packed, Scale, Sparse)}


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

    def palette(self, key: str, specification: PaletteSpecification) -> Encoded | None:
        """What was kept under a :func:`palette_key` of ``specification``, None when nothing was."""
        header, arrays = self._load(key) or ({}, {})
        try:
            made = dataclasses.replace(specification, **header["made"])
            expr = _built(header["expr"], arrays)
            sse, signal, weighted = float(header["sse"]), float(header["signal"]), header["weighted_error"]
            weighted = None if weighted is None else float(weighted)
            return Encoded(expr, sse, signal, made, str(header["note"]), weighted_error=weighted)
        except Exception:  # whatever is wrong with a file, the weight can be clustered again
            return None

    def keep_palette(self, key: str, made: Encoded) -> None:
        """Raises PackageError when the folder cannot be written to; a full disk is a warning."""
        arrays: dict[str, np.ndarray] = {}
        header = {
            "expr": _taken_apart(made.expr, arrays),
            "made": {name: getattr(made.specification, name) for name in ("axis", "group_size")},
            "sse": made.sse,
            "signal": made.signal,
            "note": made.note,
            "weighted_error": made.weighted_error,
        }
        self._save(key, header, arrays)

    def distribution(self, content: str, name: str) -> Distribution | None:
        """The distinct values of a whole weight, called ``name`` now; None when they were not kept."""
        header, arrays = self._load(_digest(content)) or ({}, {})
        try:
            dtype, size, signal = np.dtype(header["dtype"]), int(header["size"]), float(header["signal"])
            values, weights = (arrays[part].astype(np.float64) for part in ("values", "weights"))
            return Distribution(name, values, weights, dtype, size, signal, bool(header["exact"]))
        except Exception:
            return None

    def keep_distribution(self, content: str, found: Distribution) -> None:
        """Raises PackageError when the folder cannot be written to; a full disk is a warning."""
        header = {"dtype": found.dtype.str, "size": found.size, "signal": found.signal, "exact": bool(found.exact)}
        values, weights = _small(found.values, found.dtype), _small(found.weights, *_INTEGERS)
        self._save(_digest(content), header, {"values": values, "weights": weights})

    def _file(self, key: str) -> Path:
        return Path(self.folder, key[:2], f"{key}.npz")

    def _load(self, key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        path = self._file(key)
        try:
            if not path.is_file():  # opening a named pipe would wait for a writer
                return None
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop("header").tobytes())
            return (header, arrays) if (header["version"], header["key"]) == (VERSION, key) else None
        except Exception:
            return None

    def _save(self, key: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        path = self._file(key)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        text = json.dumps({"version": VERSION, "key": key, **header}).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    np.savez(file, header=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]
                with suppress(FileNotFoundError):  # another run has kept the same meanwhile, and cleared up
                    os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            for left in path.parent.glob(f".{path.name}.*"):  # by a run that was killed
                left.unlink(missing_ok=True)
        except OSError as error:
            why = f"cannot keep what was clustered in {self.folder}: {error.strerror or error}"
            if error.errno not in _FULL:
                raise PackageError(why) from error
            if self.folder not in _TOLD:
                _TOLD.add(self.folder)
                logger.warning("%s; the run goes on without keeping", why)


def clustered_in(folder: PathLike, packages: Iterable[PathLike | None]) -> Clustered:
    """Where palettes are kept in ``folder``, which need not exist. ``packages``: that the run reads and writes, if any.

    Raises ConfigError for what is no path, or is inside a package; PackageError for what cannot be written to.
    """
    try:
        path = Path(os.path.abspath(os.path.expanduser(folder)))
        real = Path(os.path.realpath(path))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"resume is {folder!r}, it must be the path of a folder") from error
    if not os.fspath(folder):
        raise ConfigError("resume is an empty path; give the path of a folder")
    for package in packages:
        if package is not None and real.is_relative_to(os.path.realpath(os.path.expanduser(package))):
            raise ConfigError(f"the folder to resume from, {folder}, is inside {package}; choose a place outside it")
    nearest = next(place for place in (real, *real.parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise PackageError(f"cannot keep what was clustered in {folder}: {nearest} is not a folder; choose another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PackageError(f"cannot keep what was clustered in {folder}: no permission to write there; choose another")
    return Clustered(str(path))


def palette_key(
    content: str, specification: PaletteSpecification, form: Form, importance: Importance | None = None
) -> str:
    """A digest of all that decides what a palette is: of every field of the specification but ``lut_function``."""
    fields = [field.name for field in dataclasses.fields(specification) if field.name != "lut_function"]
    told = {name: getattr(specification, name) for name in fields}
    return _digest(content, form, told, None if importance is None else importance.digest)


def _digest(*what: object) -> str:
    return hashlib.sha256(repr((_code(), *what)).encode()).hexdigest()


@cache
def _code() -> str:
    """A digest of the code that makes palettes."""
    here = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _CODE for file in here.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _small(array: np.ndarray, *dtypes: np.dtype | type) -> np.ndarray:
    """The array as the first of ``dtypes`` that holds it without loss, else as it is."""
    with np.errstate(all="ignore"):
        return next((small for dtype in dtypes if np.array_equal(small := array.astype(dtype), array)), array)


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
