"""What has been clustered already, in a folder: a second run, or one with other options, takes it from there.

A file for each palette, named by a digest of the weight's content, its specification and importance, and one for each
weight's distinct values, which every number of bits starts from. A file that is damaged, renamed, of another version or
not what the specification needs is as good as none, and the log says so.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mil_palettize.algorithms.making import Distribution, Source
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.kept_checks import check_distribution, check_errors, check_palette
from mil_palettize.encoding.kept_files import Arrays, DamagedError, packed_file, read_kept
from mil_palettize.encoding.results import CalibrationFigures, Encoded
from mil_palettize.errors import ConfigError, PackageError
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Cast, Const, Lut, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import Form
from mil_palettize.request.importance import Importance

logger = logging.getLogger("mil_palettize")
_FULL = (errno.ENOSPC, errno.EDQUOT)  # the run itself may still have room where it writes
_TOLD: set[str] = set()  # folders of which this was said in this process
VERSION = 3  # of the files
# What makes a palette of a weight: its results are taken only by the same code.
_CODE = ("algorithms/**/*.py", "encoding/encoder.py", "expressions/*.py")
_INTEGERS = (np.uint8, np.uint16, np.uint32)
T = TypeVar("T")
PathLike = str | os.PathLike[str]
_KINDS = {kind.__name__: kind for kind in (Cast, Const, Lut, Packed, Scale, Sparse)}
_TYPES = {"bool": (bool,), "int": (int,), "int | None": (int, type(None))}  # of their fields, as annotated


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

    def palette(
        self,
        key: str,
        specification: PaletteSpecification,
        source: Source,
        held: WeightExpr | None = None,
        importance: Importance | None = None,
    ) -> Encoded | None:
        """What was kept under a :func:`palette_key` of ``specification`` for ``source`` (``held`` and ``importance``:
        as of :class:`Task`), None when nothing was that can be used. Raises PackageError where ``source`` does."""

        def built(header: dict[str, Any], arrays: Arrays) -> Encoded:
            for value in header["made"].values():
                _check_type(value, "int | None")
            made = dataclasses.replace(specification, **header["made"])
            expr = _built(header["expr"], arrays)
            sse, signal, error = float(header["sse"]), float(header["signal"]), header["weighted_error"]
            error = None if error is None else float(error)
            figures = None if header["calibration"] is None else CalibrationFigures(**header["calibration"])
            found = Encoded(
                expr, sse, signal, made, str(header["note"]), weighted_error=error, calibration=figures, kept=True
            )
            check_palette(found, specification, source, held, weighted=importance is not None)
            check_errors(found, source, held, importance)
            return found

        return self._found(key, f"the palette of {source.name!r}", built)

    def keep_palette(self, key: str, made: Encoded) -> None:
        """Raises PackageError when the folder cannot be written to; a full disk is a warning."""
        arrays: Arrays = {}
        header = {
            "expr": _taken_apart(made.expr, arrays),
            "made": {name: getattr(made.specification, name) for name in ("axis", "group_size")},
            "sse": made.sse,
            "signal": made.signal,
            "note": made.note,
            "weighted_error": made.weighted_error,
            "calibration": None if made.calibration is None else dataclasses.asdict(made.calibration),
        }
        self._save(key, header, arrays)

    def distribution(self, content: str, source: Source) -> Distribution | None:
        """The distinct values of the whole of ``source``; None when none were kept that can be used."""

        def built(header: dict[str, Any], arrays: Arrays) -> Distribution:
            dtype, size, signal = np.dtype(header["dtype"]), int(header["size"]), float(header["signal"])
            values, weights = (arrays[part].astype(np.float64) for part in ("values", "weights"))
            found = Distribution(source.name, values, weights, dtype, size, signal, bool(header["exact"]))
            check_distribution(found, source)
            return found

        return self._found(_digest(content), f"the distinct values of {source.name!r}", built)

    def keep_distribution(self, content: str, found: Distribution) -> None:
        """Raises PackageError when the folder cannot be written to; a full disk is a warning."""
        header = {"dtype": found.dtype.str, "size": found.size, "signal": found.signal, "exact": bool(found.exact)}
        values, weights = _small(found.values, found.dtype), _small(found.weights, *_INTEGERS)
        self._save(_digest(content), header, {"values": values, "weights": weights})

    def state(self, key: str, what: str, built: Callable[[dict[str, Any], Arrays], T]) -> T | None:
        """What ``built`` makes of what :meth:`keep_state` kept, None when nothing was that can be used. ``what``: it
        is, for the log."""
        return self._found(key, what, built)

    def keep_state(self, key: str, header: dict[str, Any], arrays: Arrays) -> None:
        """In the place of what was kept under ``key`` before. Raises PackageError when the folder cannot be written to;
        a full disk is a warning."""
        self._save(key, header, arrays)

    def _file(self, key: str) -> Path:
        return Path(self.folder, key[:2], f"{key}.npz")

    def _found(self, key: str, what: str, built: Callable[[dict[str, Any], Arrays], T]) -> T | None:
        """What is made of a file, None where there is none. One that cannot be used is told, and is as good as none."""
        path = self._file(key)
        try:
            kept = read_kept(path)
            if kept is None:
                return None
            header, arrays = kept
            if (header["version"], header["key"]) != (VERSION, key):
                raise DamagedError("it is of another version or belongs to something else")
            return built(header, arrays)
        except PackageError:  # of the weight, which is read as well
            raise
        except DamagedError as error:
            reason = str(error)
        except Exception as error:  # parts that are missing, of other types, or do not fit together
            reason = f"its parts do not fit together ({type(error).__name__})"
        logger.warning("%s is made again: %s was not what was kept: %s", what, path, " ".join(reason.split()))
        return None

    def _save(self, key: str, header: dict[str, Any], arrays: Arrays) -> None:
        path = self._file(key)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(packed_file({"version": VERSION, "key": key, **header}, arrays))
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
    return hashlib.sha256(repr((code_digest(_CODE), *what)).encode()).hexdigest()


@cache
def code_digest(patterns: tuple[str, ...]) -> str:
    """Of files of this package's code, such as ``algorithms/**/*.py``."""
    here = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for pattern in patterns for file in here.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _small(array: np.ndarray, *dtypes: np.dtype | type) -> np.ndarray:
    """The array as the first of ``dtypes`` that holds it without loss, else as it is."""
    with np.errstate(all="ignore"):
        return next((small for dtype in dtypes if np.array_equal(small := array.astype(dtype), array)), array)


def _taken_apart(part: object, arrays: Arrays) -> Any:
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


def _built(told: dict[str, Any], arrays: Arrays) -> Any:
    if "kind" in told:
        kind = _KINDS[told["kind"]]
        fields = {name: _built(inner, arrays) for name, inner in told["fields"].items()}
        for field in dataclasses.fields(kind):
            if field.name in fields:
                _check_type(fields[field.name], field.type)
        return kind(**fields)
    if "array" in told:
        return arrays[told["array"]]
    if "dtype" in told:
        return np.dtype(told["dtype"])
    if "shape" in told:
        for size in told["shape"]:
            _check_type(size, "int")
        return tuple(told["shape"])
    return told["value"]


def _check_type(value: object, annotation: object) -> None:
    """1, 1.0 and true are equal, and what is written of them, and its digest, is not."""
    allowed = _TYPES.get(str(annotation))
    if allowed is not None and type(value) not in allowed:
        raise DamagedError(f"{value!r} stands for {annotation}")
