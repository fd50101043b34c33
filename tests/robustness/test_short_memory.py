"""Memory that is not there is one line at every door, and still the ``MemoryError`` that callers may wait for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import contents

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    OutOfMemoryError,
    PalettizeError,
    decompress_package,
    diff_packages,
    inspect_package,
    palettize_package,
)
from mil_palettize.program.model import Model

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4))
DOORS: dict[str, Callable[[Path, Path], object]] = {
    "palettize": lambda package, out: palettize_package(package, out, CONFIG, workers=1),
    "decompress": lambda package, out: decompress_package(package, out, workers=1),
    "inspect": lambda package, out: inspect_package(package),
    "diff": lambda package, out: diff_packages(package, package),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("said", ["", "Unable to allocate 16.0 EiB for an array"])
def test_short_memory(door: str, said: str, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: Model) -> None:
        raise MemoryError(*([said] if said else []))

    monkeypatch.setattr(Model, "survey", fail)
    with pytest.raises(OutOfMemoryError, match=r"^not enough memory") as caught:
        DOORS[door](fixtures / "palettized_ios16.mlpackage", tmp_path / "out.mlpackage")
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, PalettizeError)
    assert said in str(caught.value)
    assert not contents(tmp_path)


def test_it_can_be_sent_to_another_process() -> None:
    error = OutOfMemoryError("not enough memory")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (OutOfMemoryError, "not enough memory")
