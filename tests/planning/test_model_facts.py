"""What device rules are asked about, of ops written by hand."""

from __future__ import annotations

import numpy as np
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, op, value

from mil_palettize.planning.device_facts import OpFacts
from mil_palettize.planning.model_facts import _ops, _vector_axis


def facts(*operations: MIL.Operation, x: tuple[int, ...] = (1, 64)) -> dict[str, OpFacts]:
    """By the op's name."""
    return dict(_ops(function({"CoreML8": block(*operations)}, [("x", x)])))


def test_rows_of_tables_that_are_looked_up() -> None:
    """Those of a constant that is the table, and not of its positions, nor of what is computed."""
    found = facts(
        const("table", shape=(300, 8)),
        const("positions", np.arange(5000, dtype=np.int32)),
        op("gather", "constant", {"x": "table", "indices": "positions"}, shape=(5000, 8)),
        op("gather", "computed", {"x": "x", "indices": "positions"}, shape=(5000, 64)),
        op("linear", "read", {"x": "x", "weight": "table"}, shape=(1, 300)),
        x=(9000, 64),
    )
    assert {name: of.table_rows for name, of in found.items()} == {"constant": 300, "computed": 0, "read": 0}


def test_shapes_strides_and_groups() -> None:
    found = facts(
        const("weight", shape=(32, 1, 3, 3)),
        op(
            "conv",
            "c",
            {
                "x": "x",
                "weight": "weight",
                "strides": value(np.array([2, 1])),
                "dilations": value(np.array([1, 4])),
                "groups": value(32),
            },
            shape=(1, 32, 8, 8),
        ),
        op("relu", "r", {"x": "c"}, shape=(1, 32, 8, 8)),
        x=(1, 32, 8, 8),
    )
    assert found == {
        "c": OpFacts("conv", "fp16", strides=(2, 1), dilations=(1, 4), groups=32, channels=32, kernel=(3, 3)),
        "r": OpFacts("relu", "fp16", channels=32),
    }


def test_scalars_lie_along_no_axis() -> None:
    """Whatever the op of their table says, which need not say it."""
    given = op("constexpr_lut_to_dense", "w", {"vector_axis": value(1)})
    assert [_vector_axis(given, dim) for dim in (1, 2)] == [None, 1]
    assert _vector_axis(op("constexpr_lut_to_dense", "w"), 2) is None
