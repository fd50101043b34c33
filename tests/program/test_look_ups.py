"""Tables that are looked up: cosines and sines of positions are told apart from embeddings."""

from __future__ import annotations

from mil_messages import block, const, function, op, planned, surveyed

from mil_palettize import OpPalettizerConfig, OptimizationConfig
from mil_palettize.planning.plan import ROTARY
from mil_palettize.program.messages import MIL


def rotary(*, muls: int = 2, name: str = "table", other: str = "x") -> MIL.Program:
    """A table that is looked up with the input ``positions``, and multiplied ``muls`` times with ``other``."""
    parts = [
        const(name, shape=(512, 64)),
        const("scale", [2.0]),
        op("gather", "rows", {"x": name, "indices": "positions"}, shape=(1, 64)),
        op("expand_dims", "row", {"x": "rows"}, shape=(1, 1, 64)),
        *(op("mul", f"turned_{i}", {"x": "row", "y": other}, shape=(1, 1, 64)) for i in range(muls)),
    ]
    body = block(*parts, outputs=["turned_0"])
    inputs = (("x", (1, 64)), ("positions", (1,)))
    return MIL.Program(version=1, functions={"main": function({"CoreML8": body}, inputs)})


def rotary_of(made: MIL.Program, name: str = "table") -> bool:
    weight = next(site.weight for site in surveyed(made).sites if site.weight.name == name)
    return all(consumer.rotary for consumer in weight.consumers)


def test_rotary_tables_are_told_apart() -> None:
    assert rotary_of(rotary())
    assert rotary_of(rotary(muls=1, name="cos_cached"), "cos_cached")
    assert not rotary_of(rotary(muls=1))  # an embedding that is masked
    assert not rotary_of(rotary(other="scale"))  # one that is scaled


def test_rotary_tables_are_left_alone_unless_they_are_named() -> None:
    (left,) = planned(rotary(), nbits=4).decisions
    assert left.reason == ROTARY
    config = OptimizationConfig(op_name_configs={"table": OpPalettizerConfig(nbits=4)})
    assert planned(rotary(), config).decisions[0].specification
    assert planned(rotary(), nbits=4, select="all").decisions[0].specification
