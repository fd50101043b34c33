"""The graph passes in coremltools' registry, as soon as there is one, and without importing it.

coremltools takes seconds to import. So ``import mil_palettize`` only puts a finder in front of ``sys.meta_path`` that
finds nothing: it sees coremltools import its modules, and when the registry among them is complete, enters the
passes. It imports nothing itself and changes no module's spec or loader, so it cannot close a circle of imports,
whichever module of coremltools or of this library is only half there. It stays: a coremltools that is removed from
``sys.modules`` and imported again is served again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

PALETTIZE = "mil_palettize::palettize_weights"
PALETTIZE_CLUSTERED = "mil_palettize::palettize_clustered_weights"
DECOMPRESS = "mil_palettize::decompress_weights"

_REGISTRY = "coremltools.converters.mil.mil.passes.pass_registry"
_HOME = "mil_palettize.doors.graph_passes"


def _deferred(name: str) -> type:
    """A class that makes a pass when it is called, as the registry does; the pass's module is imported only then."""

    def new(cls: type, *args: Any, **options: Any) -> Any:
        return getattr(import_module(_HOME), name)(*args, **options)

    return type(name, (), {"__new__": new, "__module__": __name__, "__doc__": f"``{_HOME}.{name}``, when it is used."})


_DEFERRED = {key: _deferred(key.partition("::")[2]) for key in (PALETTIZE, PALETTIZE_CLUSTERED, DECOMPRESS)}


def _entered() -> bool:
    """Enter the passes that are not in the registry yet; False when there is no registry yet."""
    registry = getattr(sys.modules.get(_REGISTRY), "PASS_REGISTRY", None)
    if registry is None:
        return False
    for key, deferred in _DEFERRED.items():
        registry.passes.setdefault(key, deferred)
    return True


class _Watch(MetaPathFinder):
    """Sees every import and finds nothing. Many modules of coremltools are imported after that of the registry."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.startswith("coremltools."):
            _entered()


_WATCH = _Watch()


def register() -> None:
    """Enter the passes now, or when coremltools is imported. Repeating it changes nothing."""
    if _WATCH not in sys.meta_path:
        sys.meta_path.insert(0, _WATCH)
    # Last: a registry that another thread completes meanwhile is seen either by the watch or here.
    _entered()
