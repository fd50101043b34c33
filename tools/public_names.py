"""A hook of MkDocs: the page of the Python interface has every public name, with its docstring.

Read from the sources, which are not imported: a build of the guide needs neither coremltools nor torch.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_MARK = "<!-- names of {} -->"
# Where the modules that these packages name lie, from the package on.
_PACKAGES = {"mil_palettize": "", "mil_palettize.torch": "training."}


def homes(package: str) -> dict[str, str]:
    """Each public name of ``package`` with the full name of what it is: functions, then classes, then errors.

    Raises KeyError for a name of ``__all__`` that is neither imported nor loaded when first used.
    """
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    assigned = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("__all__", "_HOMES")
    }
    found = {
        alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found |= {name: f"{package}.{_PACKAGES[package]}{home}.{name}" for name, home in assigned["_HOMES"].items()}
    return {name: found[name] for name in sorted(assigned["__all__"], key=_rank)}


def _rank(name: str) -> tuple[bool, bool, str]:
    return name.endswith("Error"), name[0].isupper(), name


def on_page_markdown(markdown: str, **_: Any) -> str:
    """``markdown`` with the names of a package in the place of each mark."""
    for package in _PACKAGES:
        mark = _MARK.format(package)
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(f"::: {home}\n" for home in homes(package).values()))
    return markdown
