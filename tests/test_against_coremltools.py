"""Our packages against those that coremltools' own ``palettize_weights`` writes: the same ops and records, no larger error.

Both are read back by ``packages.py``, which shares no code with either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load as load_pymil
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, Var, types
from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource
from coremltools.optimize import coreml as cto
from coremltools.proto import MIL_pb2 as MIL
from packages import blob_file, constants, decode_value, read_record, read_spec, weights_dir

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError, Report, palettize_package
