"""The guide's page of the Python interface has every public name, found without importing it."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("torch")

from tools.public_names import homes, on_page_markdown


@pytest.mark.parametrize("package", ["mil_palettize", "mil_palettize.torch"])
def test_homes_are_where_the_names_are(package: str) -> None:
    names = importlib.import_module(package)
    found = homes(package)
    assert set(found) == set(names.__all__)
    for name, home in found.items():
        module, _, attribute = home.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(names, name)


def test_a_mark_becomes_the_names() -> None:
    page = on_page_markdown("before\n<!-- names of mil_palettize -->\nafter")
    assert "::: mil_palettize.doors.package.palettize_package\n" in page
    assert page.startswith("before\n::: ")
    assert page.endswith("\nafter")
    assert "<!--" not in page
