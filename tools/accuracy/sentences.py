"""Sentences from the docstrings of installed packages."""

from __future__ import annotations

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = ("numpy", "torch", "coremltools")
_FILES = 120  # of each package
_WORDS = range(5, 40)
_ROLES = re.compile(r":\w+:`~?([^`]*)`|[`*]+")


def sentences(seed: int = 0) -> list[str]:
    """Different ones, shuffled by ``seed``; the same wherever the same versions are installed."""
    found: dict[str, None] = {}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        files = sorted(path for path in root.rglob("*.py") if "test" not in str(path.relative_to(root)))
        for path in sorted(random.Random(seed).sample(files, min(_FILES, len(files)))):
            found.update(dict.fromkeys(_sentences(path)))
    shuffled = sorted(found)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _sentences(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            text = " ".join(_ROLES.sub(r"\1", paragraph).split())
            for sentence in re.split(r"(?<=\.) (?=[A-Z])", text):
                words = sentence.split()
                prose = sum(word.strip(".,;()'").isalpha() for word in words) > 0.7 * len(words)
                if len(words) in _WORDS and prose and sentence.endswith("."):
                    yield sentence
