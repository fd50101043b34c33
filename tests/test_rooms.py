"""Imports point one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mil_palettize

PACKAGE = Path(mil_palettize.__file__).parent
TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "docs" / "ARCHITECTURE.md"
ALL_ABOVE = "every room above"
TOP = ("__main__", "")  # they may import everything; "" is mil_palettize itself


def rooms() -> dict[str, set[str]]:
    """Each room with those it may import from, in the order of the table in ``docs/ARCHITECTURE.md``."""
    found: dict[str, set[str]] = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            allowed = set(found) if cells[2] == ALL_ABOVE else set(re.findall(r"`(\w+)`", cells[2]))
            found[cells[0].strip("`")] = allowed
    return found


ROOMS = rooms()


def module_name(file: Path) -> str:
    """``mil_palettize.program.weight`` of its file."""
    parts = list(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """Every module that a module's source imports anywhere, also inside functions and for type checking only."""
    return set(_imported(FILES[module], module))


def _imported(file: Path, module: str) -> Iterator[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:  # "from package import module" means the module
                inner = f"{source}.{alias.name}"
                yield inner if inner in FILES else source
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load":  # the command line's way to import
            yield from (f"mil_palettize.{name.value}" for name in node.args if isinstance(name, ast.Constant))


def own(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "mil_palettize"}


def top(module: str) -> str:
    """``program`` of ``mil_palettize.program.weight``."""
    return module.removeprefix("mil_palettize").lstrip(".").partition(".")[0]


def reached(start: str) -> set[str]:
    """All modules imported from ``start`` on, within the library as far as they are its own."""
    found, waiting = set(), [start]
    while waiting:
        for name in imported(waiting.pop()) - found:
            found.add(name)
            waiting += [name] if name in FILES else []
    return found


def test_every_module_is_in_a_room() -> None:
    assert {top(module) for module in FILES} == {*ROOMS, *TOP}


def test_arrows_point_one_way() -> None:
    """Every room stands below those it imports from."""
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        assert allowed <= set(order[: order.index(room)]), room


@pytest.mark.parametrize("module", [name for name in FILES if top(name) not in TOP])
def test_imports_come_from_allowed_rooms(module: str) -> None:
    for name in own(imported(module)) - {"mil_palettize"}:
        assert top(name) in ROOMS[top(module)] | {top(module)}, f"{module} imports {name}"


@pytest.mark.parametrize("room", list(ROOMS))
def test_allowed_neighbours_are_used(room: str) -> None:
    """A neighbour that nothing imports from is one that the table need not allow."""
    if room == "doors":
        return
    used = {top(name) for module in FILES if top(module) == room for name in own(imported(module))}
    assert ROOMS[room] <= used


@pytest.mark.parametrize("module", [name for name in FILES if top(name) not in ("cli", *TOP)])
def test_only_the_top_imports_the_package_itself(module: str) -> None:
    """``from mil_palettize import …`` would load lazily whatever the name belongs to."""
    assert "mil_palettize" not in imported(module)


def test_there_are_no_cycles() -> None:
    """Also within a layer; a package's ``__init__`` counts as one more module. Raises CycleError otherwise."""
    graph = {module: own(imported(module)) - {"mil_palettize", module} for module in FILES}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) >= FILES.keys() - {"mil_palettize"}


@pytest.mark.parametrize("module", [name for name in FILES if top(name) in ("algorithms", "package")])
def test_algorithms_and_files_know_no_coremltools(module: str) -> None:
    assert not {name for name in reached(module) if name.partition(".")[0] == "coremltools"}


@pytest.mark.parametrize("module", FILES)
def test_heavy_libraries_are_imported_in_one_place_each(module: str) -> None:
    heavy = {name.partition(".")[0] for name in imported(module)} & {"torch", "sklearn", "scipy"}
    assert heavy <= {"torch": {"torch"}, "budget": {"scipy"}}.get(top(module), set())


TRAINING = "mil_palettize.torch.training"
DOOR_OF_TORCH = "mil_palettize.torch"  # names what others have
JUDGES = [name for name in FILES if top(name) == "torch" and not name.startswith(TRAINING)]


@pytest.mark.parametrize("module", JUDGES)
def test_the_evaluator_shares_no_code_with_what_it_judges(module: str) -> None:
    assert module == DOOR_OF_TORCH or not {name for name in own(imported(module)) if name.startswith(TRAINING)}
    assert not {top(name) for name in own(imported(module))} & {
        "algorithms",
        "calibration",
        "encoding",
        "planning",
        "rewriting",
    }
    assert not imported(module) & {
        f"mil_palettize.program.{name}"
        for name in ("expression_reader", "fingerprints", "form_names", "palette_ops", "site_values")
    }


@pytest.mark.parametrize("module", ["verification", "dense_verification"])
def test_verification_does_not_use_what_it_checks(module: str) -> None:
    used = reached(f"mil_palettize.rewriting.{module}")
    assert not {
        name for name in used if re.match(r"mil_palettize\.(algorithms|encoding|planning|reports\.summary)", name)
    }


@pytest.mark.parametrize("name", ["packages", "mil_decoding"])
def test_the_reader_that_judges_packages_is_independent(name: str) -> None:
    assert not own(set(_imported(TESTS / "helpers" / f"{name}.py", name)))


# What is loaded when


def loaded(*arguments: str) -> set[str]:
    """Top-level names of all modules a Python with these arguments imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 20
    return {line.partition(".")[0] for line in lines}


HEAVY = {"coremltools", "numba", "numpy", "yaml", "tqdm", "torch", "sklearn", "google"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["palettize", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    names = loaded("-m", "mil_palettize", *arguments)
    assert "argparse" in names
    assert not names & HEAVY


def test_importing_the_package_is_light() -> None:
    names = loaded("-c", "import mil_palettize, mil_palettize.errors; dir(mil_palettize)")
    assert "mil_palettize" in names
    assert not names & HEAVY


def test_algorithms_run_without_coremltools() -> None:
    modules = [name for name in FILES if top(name) in ("algorithms", "package")]
    names = loaded("-c", f"import {', '.join(modules)}")
    assert {"mil_palettize", "numpy"} <= names
    assert not names & {"coremltools", "torch"}


# Lazy names


def test_public_names_are_what_their_home_has() -> None:
    assert sorted(mil_palettize._HOMES) == mil_palettize.__all__
    for name, home in mil_palettize._HOMES.items():
        assert getattr(mil_palettize, name) is getattr(importlib.import_module(f"mil_palettize.{home}"), name)
    assert set(mil_palettize.__all__) <= set(dir(mil_palettize))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'mil_palettize' has no attribute 'palettise'"):
        mil_palettize.palettise  # noqa: B018
