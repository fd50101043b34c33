"""What is released fits together: named extras exist, the workflow runs what CI runs, the version is in one place."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

import mil_palettize

ROOT = Path(__file__).resolve().parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = set(CONFIG["options.extras_require"])
TEXTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("examples/*"),
    *ROOT.glob("mil_palettize/**/*.py"),
    *ROOT.glob("tests/*.py"),
    ROOT / "Containerfile",
    ROOT / ".ci/run",
]


def test_extras() -> None:
    assert {"torch", "dask", "plot", "docs", "test", "images"} <= EXTRAS


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_named_extras_exist(file: Path) -> None:
    found = re.findall(r"(?:mil-palettize|['\"]\.|/source)\[([\w,]+)\]", file.read_text(encoding="utf-8"))
    assert {extra for several in found for extra in several.split(",")} <= EXTRAS


def test_the_version_is_in_one_place() -> None:
    assert CONFIG["metadata"]["version"] == "attr: mil_palettize.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", mil_palettize.__version__)


def test_files_that_are_no_code_are_installed() -> None:
    patterns = [line.strip() for line in re.split(r"[,\n]", CONFIG["options.package_data"]["mil_palettize"])]
    package = Path(mil_palettize.__file__).parent
    installed = {file for pattern in patterns for file in package.glob(pattern)}
    others = {f for f in package.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc", ".nbi", ".nbc")}
    assert others == installed


def test_the_workflow_is_ci() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == [".ci/run"]
