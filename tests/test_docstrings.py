"""Docstrings of public names: what functions take, give and raise, and examples that run."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import mil_palettize
from mil_palettize.errors import PalettizeError

PUBLIC = {name: getattr(mil_palettize, name) for name in mil_palettize.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
EXAMPLES = [*FUNCTIONS, "OpPalettizerConfig", "OptimizationConfig", "Report"]
SLOW = ("compare", "fisher_importance", "plan_mixed_bits")  # that torch or compiled loops are imported for


def test_every_public_name_has_a_docstring() -> None:
    assert all(inspect.getdoc(value) for value in PUBLIC.values())
    assert len(FUNCTIONS) > 10


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_take_give_and_raise(name: str) -> None:
    function = PUBLIC[name]
    doc = inspect.getdoc(function) or ""
    arguments = doc.partition("\nArgs:\n")[2].partition("\nReturns:\n")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.M) == list(inspect.signature(function).parameters)
    raised = re.findall(r"^    (\w+): ", doc.partition("\nRaises:\n")[2], re.M)
    assert raised
    assert all(issubclass(getattr(mil_palettize, error), PalettizeError) for error in raised)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in EXAMPLES])
def test_examples_run(name: str, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in SLOW:
        pytest.importorskip("torch")
    (tmp_path / "fixtures").symlink_to(fixtures)
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs=dict(PUBLIC))
    assert example.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example).failed == 0
