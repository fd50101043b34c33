"""The bytes that a plan says a palette takes are those of the palette that is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Scale, Sparse, WeightExpr
from mil_palettize.planning.sizes import not_smaller, palette_nbytes
from mil_palettize.program.forms import FORMS
from mil_palettize.program.weight import Weight

SHAPE = (24, 90)  # such that indices of 1 and of 3 bits end within a byte
LEGAL = (1, 2, 3, 4, 6, 8)


def weight_of(array: np.ndarray, opset: str, held: WeightExpr | None) -> Weight:
    """The constant that would be read from a package."""
    joint: dict[str, Any] = {}
    if isinstance(held, Sparse):
        joint = {"joint": "sparse", "stored": held.count, "stored_nbytes": held.data.nbytes}
    elif isinstance(held, Scale):
        joint = {"joint": "scaled", "stored": array.size, "stored_nbytes": held.data.nbytes, "blocks": held.scale.shape}
    dtype = {"float16": "fp16", "float32": "fp32"}[array.dtype.name]
    nbytes = array.nbytes if held is None else held.nbytes
    return Weight("w", "w", "main", array.shape, dtype, nbytes, opset, (), None, **joint)


def made(array: np.ndarray, specification: PaletteSpecification, opset: str, held: WeightExpr | None) -> int:
    form = FORMS[opset]
    assert form is not None
    task = Task(ArraySource("w", array), specification, form, held)
    encoded = task._made(map)  # also where it is not smaller than the weight
    assert isinstance(encoded, Encoded)
    return encoded.expr.nbytes


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("nbits", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"axis": 0, "group_size": 8},
        {"axis": 1, "group_size": 30},
        {"scale_axis": 0},
        {"axis": 1, "group_size": 45, "scale_axis": 0},
        {"lut_dtype": "int8"},
        {"lut_dtype": "uint8", "axis": 0, "group_size": 12},
        {"axis": 1, "cluster_dim": 2},
        {"axis": 0, "group_size": 12, "cluster_dim": 4, "lut_dtype": "uint8", "scale_axis": 1},
    ],
)
def test_of_a_dense_weight(dtype: type, nbits: int, options: dict[str, Any]) -> None:
    array = np.random.default_rng(0).standard_normal(SHAPE).astype(dtype)
    specification = PaletteSpecification("kmeans", nbits, LEGAL, **options)
    found = palette_nbytes(weight_of(array, "CoreML8", None), specification, nbits)
    assert found == made(array, specification, "CoreML8", None)


@pytest.mark.parametrize("opset", ["CoreML8", "CoreML9"])
@pytest.mark.parametrize("blocks", [(24, 1), (1, 30), (6, 5)])
@pytest.mark.parametrize("options", [{}, {"axis": 0, "group_size": 4}, {"axis": 1, "group_size": 9}])
def test_of_a_quantized_weight(opset: str, blocks: tuple[int, int], options: dict[str, Any]) -> None:
    """Tables are stored once for each scale, or scaled after the look-up."""
    rng = np.random.default_rng(0)
    held = Scale(Const(rng.integers(-90, 90, SHAPE, np.int8)), rng.random(blocks).astype(np.float16) + np.float16(0.1))
    array = held.decode()
    for nbits in (1, 3):
        specification = PaletteSpecification("kmeans", nbits, LEGAL, **options)
        found = palette_nbytes(weight_of(array, opset, held), specification, nbits)
        assert found == made(array, specification, opset, held)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("options", [{}, {"lut_dtype": "int8"}, {"group_size": 8}])
def test_of_a_sparse_weight(dim: int, options: dict[str, Any]) -> None:
    """Of vectors, where all of one is left or nothing: the least that it can be."""
    rng = np.random.default_rng(0)
    kept = np.repeat(rng.random((SHAPE[0] // dim, SHAPE[1])) < 0.4, dim, axis=0)
    values = np.where(kept, rng.standard_normal(SHAPE), 0).astype(np.float16)
    mask = Packed.pack(kept.astype(np.uint8), 1)
    held = Sparse(Const(values[kept]), mask)
    for nbits in (1, 3):
        specification = PaletteSpecification("kmeans", nbits, LEGAL, axis=0, cluster_dim=dim, **options)
        found = palette_nbytes(weight_of(values, "CoreML8", held), specification, nbits)
        assert found == made(values, specification, "CoreML8", held)


def test_what_is_said() -> None:
    assert not_smaller(1000, 999) == "its palette would take 1,000 bytes, the weight takes 999"
