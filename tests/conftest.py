"""Fixtures shared by the tests: where packages are, and coremltools kept quiet."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Tests run side by side: numpy and torch, which read these when they are loaded, would have a thread for each core in
# each of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from coremltools.converters import _converters_entry
from coremltools.converters.mil.mil import Program

ROOT = Path(__file__).resolve().parent.parent

logging.getLogger("coremltools").setLevel(logging.CRITICAL)
# ct.convert collects garbage each time, which with a whole suite in memory takes most of a small conversion's time.
_converters_entry.gc = SimpleNamespace(collect=lambda: 0)
_validate = Program.validate


def _validate_seldom(program: Program, check_essential_scope: bool | None = None) -> None:
    """Not after each of coremltools' ninety passes, which takes half of a conversion, but before all of them, wherever
    dead code has been removed, and at the end, so that what a pass spoils is still found."""
    if check_essential_scope is not False:
        _validate(program, check_essential_scope=bool(check_essential_scope))


Program.validate = _validate_seldom


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The packages that are checked in."""
    return ROOT / "fixtures"


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Real packages of others, where they lie beside the project (or where MIL_PALETTIZE_MODELS says)."""
    folder = Path(os.environ.get("MIL_PALETTIZE_MODELS", ROOT.parent / "shared" / "models"))
    if not folder.is_dir():
        pytest.skip(f"no real packages at {folder}; set MIL_PALETTIZE_MODELS")
    return folder


@pytest.fixture
def palettize(tmp_path: Path) -> Callable[..., tuple[Path, object]]:
    """``palettize(source, nbits=4, …)`` → (written package, report); config keywords and function keywords mix."""
    from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package

    own = ("target", "select", "strict", "verify", "overwrite", "workers", "progress", "dry_run", "redo")
    count = iter(range(1000))

    def run(source: Path, config: OptimizationConfig | None = None, **keywords: object) -> tuple[Path, object]:
        options = {name: keywords.pop(name) for name in own if name in keywords}
        if config is None:
            config = OptimizationConfig(global_config=OpPalettizerConfig(**keywords))
        written = tmp_path / f"{source.stem}_{next(count)}.mlpackage"
        return written, palettize_package(source, written, config, **options)

    return run


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders and packages go, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Any]:
    """Of two workers, each a process."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install '.[dask]'")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
