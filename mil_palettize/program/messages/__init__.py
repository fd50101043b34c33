"""Core ML's messages: the modules that coremltools generated from its ``.proto`` files, without importing coremltools.

``import coremltools`` takes seconds, for converters and for torch and scikit-learn where they are installed; packages
need its messages alone. So this folder is searched together with coremltools' folder of such modules, which import
nothing but protobuf and each other. protobuf keeps one class for each message, so those of coremltools, imported before
or later, are the same.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coremltools.proto import FeatureTypes_pb2 as FeatureTypes
    from coremltools.proto import MIL_pb2 as MIL
    from coremltools.proto import Model_pb2 as CoreML
    from coremltools.proto import NonMaximumSuppression_pb2 as Suppression


def _folders() -> list[str]:
    """coremltools' folders of generated modules. Raises ImportError where coremltools is not installed."""
    try:
        spec = find_spec("coremltools")  # of a top-level package: nothing of it is executed
    except ValueError:  # None or a stand-in without a spec is in its place
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("coremltools is not installed: pip install coremltools", name="coremltools")
    return [str(Path(place, "proto")) for place in spec.submodule_search_locations]


__path__ += _folders()
if not TYPE_CHECKING:
    CoreML = import_module(f"{__name__}.Model_pb2")
    FeatureTypes = import_module(f"{__name__}.FeatureTypes_pb2")
    MIL = import_module(f"{__name__}.MIL_pb2")
    Suppression = import_module(f"{__name__}.NonMaximumSuppression_pb2")

__all__ = ["MIL", "CoreML", "FeatureTypes", "Suppression"]
