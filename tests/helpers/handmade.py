"""Small packages and weight files written byte by byte, for tests of the layer that reads and writes them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

ROOT_ID = "7EB69391-53BD-4281-BFA1-831180579ABC"
WEIGHTS_ID = "C784FB56-1BA8-4A0E-AC2A-F0388FE1A2DB"


def manifest(**changes: object) -> dict[str, object]:
    """The manifest of an ML Program, with top-level ``changes``."""
    stored: dict[str, object] = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            ROOT_ID: entry("com.apple.CoreML/model.mlmodel", "model.mlmodel"),
            WEIGHTS_ID: entry("com.apple.CoreML/weights", "weights"),
        },
        "rootModelIdentifier": ROOT_ID,
    }
    return stored | changes


def entry(path: object, name: object) -> dict[str, object]:
    return {"author": "com.apple.CoreML", "description": "made by hand", "name": name, "path": path}


def write_package(folder: Path, *, model: bytes = b"model", weights: bytes = b"weights") -> Path:
    """A package of a manifest, a model and one weight file."""
    inner = folder / "Data" / "com.apple.CoreML"
    (inner / "weights").mkdir(parents=True)
    (folder / "Manifest.json").write_text(json.dumps(manifest(), indent=4))
    (inner / "model.mlmodel").write_bytes(model)
    (inner / "weights" / "weight.bin").write_bytes(weights)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below ``folder``."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def metadata(offset: int, size: int, *, data_type: int = 1, sentinel: int = 0xDEADBEEF, padding: int = 0) -> bytes:
    return struct.pack("<IIQQQ32s", sentinel, data_type, size, offset, padding, b"")


def blob_file(*blobs: bytes, count: int | None = None, version: int = 2) -> bytes:
    """A weight file of fp16 ``blobs``."""
    stored = struct.pack("<II56s", len(blobs) if count is None else count, version, b"")
    for blob in blobs:
        stored += bytes(-len(stored) % 64)
        stored += metadata(len(stored) + 64, len(blob)) + blob
    return stored
