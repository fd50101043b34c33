"""What is kept between runs and is not what it was: made again, told in the log, never taken and never fatal."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import contents

from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package
from mil_palettize.encoding.kept_files import DamagedError, packed_file, read_kept

Parts = tuple[dict[str, Any], dict[str, np.ndarray]]
Change = Callable[[dict[str, Any], dict[str, np.ndarray]], Parts]


def run(fixtures: Path, out: Path, kept: Path | None, **config: object) -> dict[str, bytes]:
    told = OptimizationConfig(OpPalettizerConfig(**{"nbits": 4, "weight_threshold": 8, **config}))
    palettize_package(fixtures / "conv_fp16_ios18.mlpackage", out, told, workers=1, resume=kept, overwrite=True)
    return contents(out)


def parts(path: Path) -> Parts:
    found = read_kept(path)
    assert found is not None
    return found


def is_palette(path: Path) -> bool:
    return "expr" in parts(path)[0]


def zero(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, {name: np.zeros_like(array) for name, array in arrays.items()}


def wide(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, {n: a.astype(np.longdouble) if a.dtype.kind == "f" else a for n, a in arrays.items()}


def reshaped(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    shape = header["expr"]["fields"]["indices"]["fields"]["shape"]
    shape["shape"] = shape["shape"][::-1]
    return header, arrays


def infinite(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, {n: np.full_like(a, np.inf) if a.dtype.kind == "f" else a for n, a in arrays.items()}


def grouped(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    header["made"] = {"axis": 0, "group_size": 1}
    return header, arrays


def hopeless(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header | {"sse": float("nan")}, arrays


def better(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header | {"sse": header["sse"] / 2}, arrays


def louder(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header | {"signal": header["signal"] * 100}, arrays


@pytest.mark.parametrize("sealed", [False, True], ids=["digest as it was", "digest that fits"])
@pytest.mark.parametrize("change", [zero, wide, reshaped, infinite, grouped, hopeless, better, louder])
def test_kept_palette_of_something_else(
    change: Change, sealed: bool, fixtures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept")
    palettes = [path for path in sorted((tmp_path / "kept").rglob("*.npz")) if is_palette(path)]
    assert palettes
    for path in palettes:
        digest = header_of(path)["digest"]
        path.write_bytes(packed_file(*change(*parts(path))))
        if not sealed:
            put_digest(path, digest)
    with caplog.at_level(logging.WARNING, "mil_palettize"):
        again = run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept")
    assert again == whole
    assert len([r for r in caplog.records if "is made again" in r.message]) == len(palettes)


@pytest.mark.parametrize(
    ("part", "field", "value"), [("lut", "affine", True), ("lut", "affine", "text"), ("indices", "signed", 0)]
)
def test_kept_palette_that_says_otherwise_of_its_parts(
    part: str, field: str, value: object, fixtures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its values are the same, and what would be written is not what is reported of it."""
    whole = run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept", lut_dtype="int8")
    palettes = [path for path in sorted((tmp_path / "kept").rglob("*.npz")) if is_palette(path)]
    for path in palettes:
        header, arrays = parts(path)
        header["expr"]["fields"][part]["fields"][field] = {"value": value}
        path.write_bytes(packed_file(header, arrays))
    with caplog.at_level(logging.WARNING, "mil_palettize"):
        again = run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept", lut_dtype="int8")
    assert again == whole
    assert len([r for r in caplog.records if "is made again" in r.message]) == len(palettes) > 0


def header_of(path: Path) -> dict[str, Any]:
    """With the digest."""
    with np.load(path) as file:
        return json.loads(file["header"].tobytes())


def put_digest(path: Path, digest: str) -> None:
    text = json.dumps(header_of(path) | {"digest": digest}).encode()
    member = io.BytesIO()
    np.save(member, np.frombuffer(text, np.uint8))
    replace_member(path, "header.npy", member.getvalue())


def replace_member(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w") as archive:
        for member, stored in members.items():
            archive.writestr(member, stored)


def smaller(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header | {"size": 8}, arrays


def one_count(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, arrays | {"weights": arrays["weights"][:1]}


def other_counts(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, arrays | {"weights": arrays["weights"] + 1}


def descending(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, arrays | {"values": arrays["values"][::-1]}


def not_a_number(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    values = arrays["values"].copy()
    values[-1] = np.nan
    return header, arrays | {"values": values}


def other_values(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header, arrays | {"values": np.sort(arrays["values"] * np.float16(0.5))}


def single(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    return header | {"dtype": "<f4"}, arrays


@pytest.mark.parametrize("change", [smaller, one_count, other_counts, descending, not_a_number, other_values, single])
def test_kept_distinct_values_of_something_else(change: Change, fixtures: Path, tmp_path: Path) -> None:
    """With a digest that fits: what compiled loops index by is not believed for that."""
    whole = run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept")
    for path in sorted((tmp_path / "kept").rglob("*.npz")):
        if is_palette(path):
            path.unlink()
        else:
            path.write_bytes(packed_file(*change(*parts(path))))
    assert run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept") == whole


def test_palette_of_another_weight_under_this_name(fixtures: Path, tmp_path: Path) -> None:
    whole = run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept")
    palettes = [path for path in sorted((tmp_path / "kept").rglob("*.npz")) if is_palette(path)]
    first = palettes[0].read_bytes()
    for path in palettes[1:]:
        path.write_bytes(first)
    assert run(fixtures, tmp_path / "a.mlpackage", tmp_path / "kept") == whole


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(4294967296, 4294967296)", "(-1,)", "(3,)"])
def test_sizes_that_are_only_claimed(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(packed_file({"version": 1}, {"values": np.zeros(64)}))
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(512)
    replace_member(path, "values.npy", member)
    with pytest.raises(DamagedError):
        read_kept(path)


def test_members_that_are_compressed(tmp_path: Path) -> None:
    """A few bytes of them may stand for gigabytes."""
    file = io.BytesIO()
    np.savez_compressed(file, header=np.frombuffer(json.dumps({"digest": ""}).encode(), np.uint8), a=np.zeros(1 << 20))
    (tmp_path / "x.npz").write_bytes(file.getvalue())
    with pytest.raises(DamagedError, match="is compressed"):
        read_kept(tmp_path / "x.npz")


def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    assert read_kept(tmp_path / "pipe.npz") is None
    assert read_kept(tmp_path / "missing.npz") is None
