"""Everything loaded and compiled before the first child is forked, which then takes no time for it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tools.attack.cases import FIXTURES, Case, Outcome
from tools.attack.evaluating import EVALUATING, has_pictures
from tools.attack.families import FAMILIES
from tools.attack.verbs import MODES, Attempts

# Between them: both floats, both forms of palettes, all that joint compression takes.
CHOSEN = ("conv_fp16_ios18", "conv_fp32_ios18", "joint_ios18", "palettized_ios16", "quantized_sparse_ios16")


def warm_up() -> None:
    """All verbs and modes on some sound packages. Raises RuntimeError when one falls: the rest would say little."""
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        for number, fixture in enumerate(CHOSEN):
            source = Path(folder, "in.mlpackage")
            shutil.copytree(FIXTURES / f"{fixture}.mlpackage", source)
            attempts = Attempts(Path(folder), source, FIXTURES / f"{fixture}.mlpackage")
            attempts.look()
            attempts.differ()
            attempts.decompress(verify=bool(number % 2))
            for mode in MODES:
                attempts.palettize(mode)
            shutil.rmtree(source)
            _told(fixture, attempts.outcome)
    _warm_evaluator()


def _warm_evaluator() -> None:
    """Or leave out the families that need what is not there."""
    try:
        import torch
    except ImportError:
        for family in EVALUATING:
            del FAMILIES[family]
        return
    torch.set_num_threads(1)
    if not has_pictures():
        del FAMILIES["pictures"]
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        for family in FAMILIES.keys() & EVALUATING.keys():
            place = Path(folder, family)
            place.mkdir()
            FAMILIES[family](Case(family, 0), place)


def _told(fixture: str, outcome: Outcome) -> None:
    if outcome.violations:
        raise RuntimeError(f"{fixture}, which is sound: {outcome.violations}")
