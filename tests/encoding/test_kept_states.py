"""What a run that goes on later keeps under a key of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mil_palettize.encoding.kept_files import Arrays, DamagedError
from mil_palettize.encoding.palette_cache import Clustered

KEY = "ab" * 32


def both(header: dict[str, Any], arrays: Arrays) -> tuple[int, list[float]]:
    return header["epoch"], arrays["weights"].tolist()


def unusable(header: dict[str, Any], arrays: Arrays) -> None:
    raise DamagedError("it is of another network")


def test_the_last_that_was_kept_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Clustered(str(tmp_path / "kept"))
    assert folder.state(KEY, "the run", both) is None
    for epoch in (1, 2):
        folder.keep_state(KEY, {"epoch": epoch}, {"weights": np.full(3, epoch, np.float32)})
    assert folder.state(KEY, "the run", both) == (2, [2.0, 2.0, 2.0])
    assert folder.state("cd" * 32, "the run", both) is None
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    with caplog.at_level(logging.WARNING):
        assert folder.state(KEY, "the run", unusable) is None
        assert folder.state(KEY, "the run", lambda header, arrays: header["no such entry"]) is None
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("the run is made again: ")
    assert first.endswith(" was not what was kept: it is of another network")
    assert second.endswith("its parts do not fit together (KeyError)")
