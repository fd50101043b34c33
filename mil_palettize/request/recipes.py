"""Configs for kinds of models, which come with the package as files in coremltools' own format."""

from __future__ import annotations

from pathlib import Path

from mil_palettize.errors import ConfigError
from mil_palettize.request.near_names import near_names

_FOLDER = Path(__file__).resolve().parent.parent / "recipes"
_SUFFIX = ".yaml"


def recipe_names() -> tuple[str, ...]:
    """``"detector"``, ``"llm"`` and so on, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}")))


def recipe_path(name: str) -> Path:
    """Where the recipe called ``name`` lies.

    Args:
        name: of a recipe that comes with this library, without ``.yaml``.

    Returns:
        A file for ``OptimizationConfig.from_yaml``, coremltools' or ours, whose comments say what it is for and what
        was measured with it.

    Raises:
        ConfigError: for a name that there is no recipe of.

    >>> recipe_path("llm").name
    'llm.yaml'
    """
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"recipe is {name!r}; there are {', '.join(names)}{near_names(str(name), names)}")
    return _FOLDER / f"{name}{_SUFFIX}"
