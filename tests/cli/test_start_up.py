"""What the commands of packages import: coremltools' messages, and nothing else of coremltools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from light_imports import LIGHT
from test_rooms import loaded

MODULES = """
import sys
from mil_palettize.program import messages
from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2, NonMaximumSuppression_pb2
theirs = {"CoreML": Model_pb2, "FeatureTypes": FeatureTypes_pb2, "MIL": MIL_pb2}
theirs["Suppression"] = NonMaximumSuppression_pb2
for name, module in theirs.items():
    kinds = module.DESCRIPTOR.message_types_by_name
    assert kinds
    for kind in kinds:
        assert getattr(getattr(messages, name), kind) is getattr(module, kind), kind
"""


def python(code: str) -> None:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "first", ["", "import coremltools\n", pytest.param("import coremltools.proto.MIL_pb2\n", marks=pytest.mark.slow)]
)
def test_messages_are_those_of_coremltools(first: str) -> None:
    """Whichever is imported first."""
    python(LIGHT + first + MODULES)


def test_messages_without_coremltools() -> None:
    python("""
import sys
sys.modules["coremltools"] = None
try:
    import mil_palettize.program.messages
except ImportError as error:
    assert "coremltools is not installed" in str(error)
else:
    raise AssertionError
""")


def test_inspect_imports_neither_coremltools_nor_compiled_loops(fixtures: Path) -> None:
    names = loaded("-m", "mil_palettize", "inspect", str(fixtures / "conv_fp16_ios16.mlpackage"))
    assert "numpy" in names
    assert not names & {"coremltools", "torch", "sklearn", "numba"}


@pytest.mark.parametrize("recipe", [False, True])
def test_palettize_imports_no_coremltools(fixtures: Path, tmp_path: Path, recipe: bool) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("config_type: OpPalettizerConfig\nglobal_config: {nbits: 4}\nop_type_configs: {linear: null}\n")
    options = ["--config", str(file)] if recipe else ["--nbits", "4"]
    source = str(fixtures / "conv_fp16_ios16.mlpackage")
    names = loaded("-m", "mil_palettize", "palettize", source, str(tmp_path / "out.mlpackage"), *options, "--verify")
    assert (tmp_path / "out.mlpackage").is_dir()
    assert "numba" in names
    assert not names & {"coremltools", "torch", "sklearn"}
