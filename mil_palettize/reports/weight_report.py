"""What happened to one weight, one bias, one op: the lines that a report is made of."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mil_palettize.program.weight import ITEMSIZE, WeightId

PALETTIZED = "palettized"
DECOMPRESSED = "decompressed"


@dataclass(frozen=True)
class CalibrationReport:
    """How a palette was chosen by what its op gives. ``method``: in words; ``damping``: relative; ``samples``: that
    were looked at, 0 where it came from the weights alone; ``before_db`` and ``after_db``: signal to noise of what
    comes out behind the op (its non-linearity, shortcut and layer norm) on samples held out, with the plain palette and
    with this one, None where none were."""

    method: str
    damping: float
    samples: int
    before_db: float | None
    after_db: float | None


@dataclass(frozen=True)
class WeightReport:
    """One constant above the threshold, or one that was compressed.

    ``consumers``: (op type, input name) of every op that reads it. ``status``: "palettized", "decompressed" or
    "skipped", then with a ``reason``. ``mode``: how the palette was made; when decompressing, the compressed form.
    ``group_size`` is None for one palette per tensor; ``channel_axis``, of groups and of vectors, where there are
    neither; ``cluster_dim``: elements of a vector, 1 for scalars, None without a palette. ``bytes_after``: indices and
    look-up tables; None in a dry run where it depends on the values. ``snr_db``: signal to noise of the palette,
    10·log10(Σw² / Σ(w-w')²); infinite when it is lossless, None when skipped or not computed.
    ``squared_error``: Σ(w-w')²; ``weighted_error``: with every term times the importance of its element, None where no
    importance was given. ``digest``: SHA-256 of all parts, "" without a palette or in a dry run.
    ``scale_axis``: of a scale for each channel; ``lut_dtype``: of a quantized table, both None where there is none.
    ``joint``: what the palette is of, a constant's "sparse" or "scaled" values, "" for a dense one's.
    ``calibration``: how it was chosen by the op's output, None without one.
    ``notes``: what was done otherwise than asked, or decided between requests. ``block``: path of the nested block that
    declares it, "" for the function's own.

    >>> config = OptimizationConfig(op_name_configs={"head_weight": OpPalettizerConfig(nbits=6)})
    >>> report = palettize_package("fixtures/conv_fp16_ios18.mlpackage", "small.mlpackage", config)
    >>> [(weight.name, weight.nbits, weight.snr_db > 25) for weight in report.palettized]
    [('head_weight', 6, True)]
    """

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    consumers: list[tuple[str, str]]
    status: str
    reason: str
    mode: str | None
    nbits: int | None
    granularity: str | None
    group_size: int | None
    channel_axis: int | None
    bytes_before: int
    bytes_after: int | None
    snr_db: float | None
    squared_error: float | None
    seconds: float
    notes: tuple[str, ...] = ()
    digest: str = ""
    cluster_dim: int | None = None
    scale_axis: int | None = None
    lut_dtype: str | None = None
    joint: str = ""
    weighted_error: float | None = None
    calibration: CalibrationReport | None = None
    block: str = ""

    @property
    def id(self) -> WeightId:
        """What tells it from every other constant of the model."""
        return WeightId(self.function, self.block, self.name)

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits per element, look-up tables included; None where unknown, or without elements."""
        count = math.prod(self.shape)
        return None if self.bytes_after is None or not count else self.bytes_after * 8 / count

    @property
    def label(self) -> str:
        """``function/name``, ``main`` left out."""
        return self.name if self.function == "main" else f"{self.function}/{self.name}"

    @property
    def is_float(self) -> bool:
        """Whether it is of a type that palettes hold."""
        return self.dtype in ITEMSIZE

    @property
    def lossless(self) -> bool:
        return self.squared_error == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; infinite figures are None."""
        data = dataclasses.asdict(self)
        data["consumers"] = [list(c) for c in self.consumers]
        data["shape"] = list(self.shape)
        data["notes"] = list(self.notes)
        data["bits_per_weight"] = self.bits_per_weight
        data["lossless"] = self.lossless if self.status == PALETTIZED else None
        for figure in ("snr_db", "squared_error"):
            if data[figure] is not None and not math.isfinite(data[figure]):
                data[figure] = None
        if self.calibration is not None:
            for name in ("before_db", "after_db"):
                told = data["calibration"][name]
                data["calibration"][name] = told if told is not None and math.isfinite(told) else None
        return data


@dataclass(frozen=True)
class BiasReport:
    """A bias that calibration changed. ``largest``: change of an element; ``digest``: of the record that it is stored
    as now (see ``program/fingerprints.py``)."""

    name: str
    function: str
    block: str
    largest: float
    digest: str

    @property
    def id(self) -> WeightId:
        return WeightId(self.function, self.block, self.name)


@dataclass(frozen=True)
class Moved:
    """Something a move to a later opset changed; ``op_name`` is "" for the function itself."""

    function: str
    op_name: str
    op_type: str
    what: str
