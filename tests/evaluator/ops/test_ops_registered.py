"""Every file of ops is loaded: an op of a file that is not in ``FAMILIES`` would be refused as unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from mil_palettize.torch.evaluator import ops

NO_OPS = {"__init__", "fused_recurrent", "registry"}


def test_every_file_of_ops_is_a_family() -> None:
    files = {file.stem for file in Path(ops.__file__).parent.glob("*.py")}
    assert files == {*ops.FAMILIES} | NO_OPS
