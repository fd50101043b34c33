"""Runs that replace packages made by hand, and ways to interrupt them, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handmade import write_package

from mil_palettize.package import disk
from mil_palettize.package.blob import BlobReader, BlobWriter
from mil_palettize.package.mlpackage import Package
from mil_palettize.package.replacement import replacing

WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


class Killed(BaseException):
    """What the seam raises to interrupt a run."""


def package_with(folder: Path, data: bytes) -> Path:
    """A package whose one blob holds ``data``."""
    write_package(folder, model=b"the model")
    (folder / WEIGHTS).unlink()
    with BlobWriter(folder / WEIGHTS) as writer:
        writer.append(3, data)
    return folder


def rewrite(source: Path, destination: Path, data: bytes, overwrite: bool = True) -> None:
    """What a palettizing run does: carry files over, write a blob file, swap."""
    package = Package.open(source)
    with replacing(destination, overwrite=overwrite, needed_bytes=package.nbytes()) as staging:
        for file in package.files():
            if file != WEIGHTS:
                disk.copy_file(source / file, staging / file)
        disk.make_folders((staging / WEIGHTS).parent)
        with BlobReader(source / WEIGHTS) as reader, BlobWriter(staging / WEIGHTS) as writer:
            assert reader.all_records()
            writer.append(3, data)


def blob_of(folder: Path) -> bytes:
    """The blob of a complete package of :func:`package_with` or :func:`rewrite`; fails for any other."""
    package = Package.open(folder)
    files = {str(f) for f in package.files()}
    assert files == {"Manifest.json", "Data/com.apple.CoreML/model.mlmodel", str(WEIGHTS)}
    assert package.model_bytes() == b"the model"
    with BlobReader(folder / WEIGHTS) as reader:
        (record,) = reader.all_records()
        return bytes(reader.read(record))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def acting(after: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Call ``act`` in place of the change number ``after`` (from 0); yields the operations announced."""
    operations: list[str] = []
    original = disk.announce

    def announce(operation: str, path: Path) -> None:
        operations.append(f"{operation} {path}")
        if len(operations) == after + 1:
            act()

    disk.announce = announce
    try:
        yield operations
    finally:
        disk.announce = original


def raise_killed() -> None:
    raise Killed
