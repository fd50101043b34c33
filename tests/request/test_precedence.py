"""Which request applies to a weight: precedence, names, and what the requests of several ops come to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import pytest
from coremltools.optimize import coreml as cto
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, op, planned

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError, Report
from mil_palettize.program.weight import Consumer, Weight
from mil_palettize.request.normalised import Requests, normalise
from mil_palettize.request.precedence import resolve

W = (64, 48)
Palettize = Callable[..., tuple[Path, Report]]


def bits(nbits: int, **options: object) -> OpPalettizerConfig:
    return OpPalettizerConfig(nbits=nbits, **options)


def lut_function(weight: object) -> object:
    return weight


# One weight, one or several requests


def weight(*consumers: Consumer, name: str = "w", label: str = "main") -> Weight:
    return Weight(name, f"{name}_op", label, W, "fp16", 6144, "CoreML8", consumers, None)


def reader(op_type: str, name: str, *path: tuple[str, str]) -> Consumer:
    return Consumer(op_type, name, "weight", 0, path)


def requests(**levels: object) -> Requests:
    return normalise(OptimizationConfig(**levels))


CONV = reader("conv", "c")


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=4)))
@pytest.mark.parametrize("alone", [None, "constant", "name", "type", "global"])
def test_precedence(present: tuple[bool, ...], alone: str | None) -> None:
    """constant, op name, op type, global: the first that is configured, also where it says "leave alone"."""
    levels = ("constant", "name", "type", "global")
    asked = dict(zip(levels, (bits(1), bits(2), bits(3), bits(4)), strict=True))
    asked = {level: None if level == alone else config for level, config in asked.items()}
    here = {level for level, given in zip(levels, present, strict=True) if given}
    found = resolve(
        weight(CONV),
        requests(
            global_config=asked["global"] if "global" in here else None,
            op_type_configs={"conv": asked["type"]} if "type" in here else None,
            op_name_configs={key: asked[level] for level, key in (("constant", "w"), ("name", "c")) if level in here},
        ),
    )
    winner = next((level for level in levels if level in here), "global")
    expected = asked[winner] if winner in here else None
    assert found.level == winner
    assert (found.request.nbits if found.request else None) == (expected.nbits if expected else None)
    assert found.note == ""
    assert found.explicit == (winner != "global" and expected is not None)


@pytest.mark.parametrize(
    ("key", "label", "matches"),
    [
        ("w", "main", True),
        ("w", "other", True),
        ("main/w", "main", True),
        ("main/w", "other", False),
        ("w_op", "main", True),
        ("main/w_op", "main", True),
        ("stage/main/w", "stage/main", True),
        ("main/w", "stage/main", True),
        ("w", "stage/main", True),
        ("stage/w", "stage/main", False),
        ("other/main/w", "stage/main", False),
        ("W", "main", False),
        ("c", "main", True),
        ("main/c", "main", True),
        ("other/c", "main", False),
    ],
)
def test_bare_and_qualified_names(key: str, label: str, matches: bool) -> None:
    found = resolve(weight(CONV, label=label), requests(op_name_configs={key: bits(4)}))
    assert (found.request is not None) == matches
    assert found.keys == ({key} if matches else frozenset())


def test_qualified_name_before_bare() -> None:
    by_name = {"w": bits(4), "main/w": bits(2)}
    assert resolve(weight(CONV), requests(op_name_configs=by_name)).request.nbits == 2
    assert resolve(weight(CONV, label="other"), requests(op_name_configs=by_name)).request.nbits == 4


def test_ops_in_between_speak_too() -> None:
    behind = reader("linear", "l", ("cast", "half"), ("transpose", "turned"))
    assert resolve(weight(behind), requests(op_name_configs={"turned": bits(2)})).by == "op_name_configs['turned']"
    assert resolve(weight(behind), requests(op_type_configs={"cast": bits(2)})).by == "op_type_configs['cast']"
    both = requests(op_type_configs={"cast": bits(2), "linear": bits(3)})
    assert resolve(weight(behind), both).request.nbits == 3  # the op that uses it first
    named = requests(op_type_configs={"linear": bits(3)}, op_name_configs={"turned": bits(2)})
    assert resolve(weight(behind), named).request.nbits == 2


def test_nobody_reads_it() -> None:
    found = resolve(weight(), requests(global_config=bits(4), op_type_configs={"conv": bits(2)}))
    assert (found.request.nbits, found.level) == (4, "global")


GROUPED = "per_grouped_channel"
# From the one that wins to the one that loses.
RANKING = [
    None,
    OpPalettizerConfig(mode="unique"),
    OpPalettizerConfig(mode="custom", lut_function=lut_function),
    bits(8, granularity=GROUPED, group_size=4),
    bits(8, granularity=GROUPED, group_size=16),
    bits(8, granularity=GROUPED, group_size=0),  # all channels
    bits(8),
    bits(6, mode="uniform"),
    bits(4, granularity=GROUPED, group_size=1),
    bits(4),
    bits(1),
]


@pytest.mark.parametrize(("better", "worse"), list(itertools.combinations(range(len(RANKING)), 2)))
def test_one_level_more_is_kept(better: int, worse: int) -> None:
    """ "Leave alone", then unique, then more bits, then smaller groups, in either order of the ops."""
    for types in (("conv", "gather"), ("gather", "conv")):
        configs = dict(zip(types, (RANKING[better], RANKING[worse]), strict=True))
        found = resolve(weight(CONV, reader("gather", "g")), requests(op_type_configs=configs))
        winner = requests(global_config=RANKING[better]).global_request
        assert found.request == winner
        assert found.by == f"op_type_configs[{types[0]!r}]"
        assert found.note.startswith("the ops that read it are configured differently (op_type_configs['conv'] asks")
        assert found.note.endswith(f"op_type_configs[{types[0]!r}] decides")


def test_more_specific_level_wins_over_more_bits_and_over_none() -> None:
    two = weight(CONV, reader("gather", "g"))
    found = resolve(two, requests(global_config=bits(8), op_type_configs={"gather": bits(2)}))
    assert (found.request.nbits, found.level) == (2, "type")
    found = resolve(two, requests(op_type_configs={"gather": None}, op_name_configs={"c": bits(2)}))
    assert (found.request.nbits, found.level) == (2, "name")
    found = resolve(two, requests(global_config=None, op_type_configs={"conv": bits(2)}))
    assert (found.request.nbits, found.level) == (2, "type")
    assert "global_config asks for leave alone" in found.note


def test_equal_requests_are_no_disagreement() -> None:
    two = weight(CONV, reader("gather", "g"))
    found = resolve(two, requests(op_type_configs={"conv": bits(4), "gather": bits(4)}))
    assert (found.request.nbits, found.note) == (4, "")
    assert resolve(two, requests(op_type_configs={"conv": None, "gather": None})).note == ""


def test_first_op_of_equals_decides() -> None:
    two = weight(CONV, reader("gather", "g"))
    uniform, kmeans = bits(4, mode="uniform"), bits(4)
    found = resolve(two, requests(op_type_configs={"conv": uniform, "gather": kmeans}))
    assert found.request.mode == "uniform"


# In whole models


@pytest.mark.parametrize("name", ["embedding_matmul_ios16", "embedding_linear_ios16"])
def test_tied_embedding_with_gather_none(name: str, fixtures: Path, palettize: Palettize) -> None:
    """coremltools raises "compression config conflict detected" here."""
    config = OptimizationConfig(global_config=bits(4), op_type_configs={"gather": None})
    source = fixtures / f"{name}.mlpackage"
    with pytest.raises(PlanError, match="nothing is palettized"):
        palettize(source, config, strict=True)
    _, report = palettize(source, config)
    (table,) = [w for w in report.weights if w.name == "table"]
    assert (table.status, table.reason) == ("skipped", "left alone by op_type_configs['gather']")
    assert table.notes[0].startswith("the ops that read it are configured differently (")
    assert table.notes[0] in report.to_text(400)
    model = ct.models.MLModel(str(source), skip_model_load=True)
    with pytest.raises(ValueError, match="compression config conflict detected"):
        cto.palettize_weights(model, config)


def test_tied_embedding_taken_by_name(fixtures: Path, palettize: Palettize) -> None:
    config = OptimizationConfig(
        global_config=bits(4), op_type_configs={"gather": None}, op_name_configs={"table": bits(6)}
    )
    _, report = palettize(fixtures / "embedding_linear_ios16.mlpackage", config, strict=True)
    (table,) = [w for w in report.weights if w.name == "table"]
    assert (table.nbits, table.notes) == (6, ())


def test_precedence_in_a_package(fixtures: Path, palettize: Palettize) -> None:
    config = OptimizationConfig(
        global_config=bits(8),
        op_type_configs={"conv": bits(4), "linear": None},
        op_name_configs={"stem": bits(6), "hidden_weight": bits(2), "up": None},
    )
    _, report = palettize(fixtures / "conv_fp16_ios16.mlpackage", config, strict=True)
    assert {w.name: w.nbits for w in report.weights} == {
        "stem_weight": 6, "depthwise_weight": 4, "up_weight": None, "hidden_weight": 2, "head_weight": None,
    }  # fmt: skip
    assert {w.name: w.reason for w in report.skipped} == {
        "up_weight": "left alone by op_name_configs['up']",
        "head_weight": "left alone by op_type_configs['linear']",
    }


def test_names_in_several_functions(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "multifunction_ios18.mlpackage"
    config = OptimizationConfig(op_name_configs={"base_weight": bits(4), "decode/base_weight": bits(2)})
    _, report = palettize(source, config, strict=True)
    assert {w.function: w.nbits for w in report.palettized} == {"prefill": 4, "decode": 2}
    with pytest.raises(PlanError, match=r"'decoder/base_weight'\] matches nothing .*did you mean 'decode/base_weight'"):
        palettize(source, OptimizationConfig(op_name_configs={"decoder/base_weight": bits(2)}), strict=True)


def test_names_in_pipelines(fixtures: Path, palettize: Palettize) -> None:
    """Both stages have a function ``main`` with a constant ``weight``."""
    source = fixtures / "pipeline_ios17.mlpackage"
    _, report = palettize(source, nbits=4)
    first, second = (w.function for w in report.palettized)
    assert first != second
    config = OptimizationConfig(global_config=bits(4), op_name_configs={f"{first}/weight": bits(2)})
    _, report = palettize(source, config, strict=True)
    assert [w.nbits for w in report.palettized] == [2, 4]
    _, report = palettize(source, OptimizationConfig(op_name_configs={"main/weight": bits(2)}), strict=True)
    assert [w.nbits for w in report.palettized] == [2, 2]


def test_requests_of_two_functions_do_not_mix() -> None:
    body = block(const("w", shape=W), op("linear", "l", {"x": "x", "weight": "w"}), outputs=["l"])
    made = MIL.Program(version=1, functions={name: function({"CoreML8": body}) for name in ("prefill", "decode")})
    plan = planned(made, OptimizationConfig(global_config=bits(4), op_name_configs={"decode/l": None}), strict=True)
    assert {d.weight.function: d.specification is not None for d in plan.decisions} == {
        "prefill": True,
        "decode": False,
    }
