"""Docstrings of public names: what functions take, give and raise, and examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import mil_palettize
from mil_palettize.errors import PalettizeError

PUBLIC = {name: getattr(mil_palettize, name) for name in mil_palettize.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
SLOW = ("compare", "fisher_importance", "plan_mixed_bits", "Limits", "Recipe")  # torch, or loops that are compiled
WITH_TORCH = ("compare", "fisher_importance", "EvaluationError", "ModelComparison", "UnsupportedOpError")
# Those of coremltools are left out, which have coremltools' docstrings.
OF_TORCH = [
    "CalibratedPalettizer", "DKMPalettizer", "DKMPalettizerConfig", "MILModule", "Pipeline", "PostTrainingPalettizer",
    "PostTrainingPalettizerConfig", "SKMPalettizer", "SKMPalettizerConfig", "compare_with", "open_model",
]  # fmt: skip
SLOW_OF_TORCH = ("CalibratedPalettizer", "compare_with")


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


def cases(names: Iterable[str], slow: Collection[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def run_example(value: object, name: str, names: Mapping[str, object]) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=dict(names))
    assert example.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example).failed == 0


@pytest.fixture
def beside_fixtures(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixtures").symlink_to(fixtures)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_fixtures")
@pytest.mark.parametrize("name", cases(PUBLIC, SLOW))
def test_examples_run(name: str) -> None:
    if name in WITH_TORCH:
        pytest.importorskip("torch")
    run_example(PUBLIC[name], name, PUBLIC)


@pytest.mark.usefixtures("beside_fixtures")
@pytest.mark.parametrize("name", cases(OF_TORCH, SLOW_OF_TORCH))
def test_examples_with_torch_run(name: str) -> None:
    pytest.importorskip("torch")
    package = importlib.import_module("mil_palettize.torch")
    names = {public: getattr(package, public) for public in package.__all__}
    assert {public for public, value in names.items() if value.__module__.startswith("mil_palettize")} == set(OF_TORCH)
    run_example(names[name], name, PUBLIC | names)
