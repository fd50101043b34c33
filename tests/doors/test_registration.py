"""The graph passes are in coremltools' registry whichever is imported first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from light_imports import LIGHT

import mil_palettize

ROOT = Path(mil_palettize.__file__).resolve().parent.parent
PASSES = ["mil_palettize::palettize_weights", "mil_palettize::palettize_clustered_weights"]
PASSES += ["mil_palettize::decompress_weights"]
USED = f"""
import coremltools as ct
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
pipeline = ct.PassPipeline()
for name in {PASSES}:
    pipeline.append_pass(name)
    made = PASS_REGISTRY[name]
    assert type(made).__module__ == "mil_palettize.doors.graph_passes" and str(made) == name.partition("::")[2], made
"""
# A coremltools that imports in no time: its registry, then one more module, as of the real one many.
FAKE = {
    "coremltools/__init__.py": "from .converters.mil.mil.passes import pass_registry, defs",
    "coremltools/converters/mil/mil/passes/pass_registry.py": (
        "import time\n"
        "class Registry:\n    def __init__(self): self.passes = {}\n"
        "time.sleep(0.05)\n"
        "PASS_REGISTRY = Registry()"
    ),
    "coremltools/converters/mil/mil/passes/defs.py": "",
}
REGISTERED = f"""
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
assert sorted(PASS_REGISTRY.passes) == sorted({PASSES}), PASS_REGISTRY.passes
"""


def run(code: str, *paths: Path, cwd: Path) -> None:
    path = [str(p) for p in (*paths, ROOT)]
    code = f"import sys; sys.path[:0] = {path}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "first",
    [
        "import mil_palettize",
        "from mil_palettize import OptimizationConfig",  # coremltools is imported while one of our modules is
        pytest.param(
            "import coremltools, mil_palettize, importlib; importlib.reload(mil_palettize)", marks=pytest.mark.slow
        ),
    ],
)
def test_import_is_enough(first: str, tmp_path: Path) -> None:
    run(f"{LIGHT}{first}\n{USED}", cwd=tmp_path)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in FAKE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "code",
    [
        "import mil_palettize, coremltools",
        "import coremltools, mil_palettize",
        "import mil_palettize, importlib; importlib.reload(mil_palettize); import coremltools",
        "import mil_palettize, importlib, mil_palettize.doors.registration as r; importlib.reload(r)\n"
        "importlib.reload(mil_palettize); import coremltools; importlib.reload(mil_palettize)",
        "import mil_palettize, coremltools\n"
        "for name in [n for n in sys.modules if n.startswith('coremltools')]: del sys.modules[name]\n"
        "import coremltools",
        "import coremltools, mil_palettize\n"
        "for name in [n for n in sys.modules if n.startswith('mil_palettize')]: del sys.modules[name]\n"
        "import mil_palettize",
    ],
)
def test_orders_reloads_and_fresh_copies(code: str, fake: Path) -> None:
    run(f"{code}\n{REGISTERED}", fake, cwd=fake)


@pytest.mark.parametrize("delay", [0, 0.02, 0.06])
def test_imported_by_two_threads_at_once(delay: float, fake: Path) -> None:
    """Also while the registry's module is half imported."""
    code = f"""
import threading, time
def theirs(): import coremltools
threads = [threading.Thread(target=theirs) for _ in range(2)]
for thread in threads: thread.start()
time.sleep({delay})
import mil_palettize
for thread in threads: thread.join()
"""
    run(code + REGISTERED, fake, cwd=fake)


def test_without_coremltools(tmp_path: Path) -> None:
    code = """
sys.modules["coremltools"] = None
import mil_palettize
assert issubclass(mil_palettize.ConfigError, ValueError)
"""
    run(code, cwd=tmp_path)


def test_nothing_of_ours_is_in_the_way_of_other_imports(fake: Path) -> None:
    """The finder finds nothing, so loaders and specs of every module are those they were."""
    code = """
import mil_palettize, coremltools
from coremltools.converters.mil.mil.passes import pass_registry
assert type(pass_registry.__spec__.loader).__name__ == "SourceFileLoader"
assert sum(type(finder).__module__ == "mil_palettize.doors.registration" for finder in sys.meta_path) == 1
light = {"mil_palettize.doors", "mil_palettize.doors.registration", "mil_palettize.text"}
assert not [name for name in sys.modules if name.startswith("mil_palettize.") and name not in light]
"""
    run(code, fake, cwd=fake)
