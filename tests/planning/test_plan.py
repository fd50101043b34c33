"""What is decided before anything is written: what opsets can hold, moves, what strict refuses, nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, decisions, function, op, planned, program, write_package
from packages import constants, differences, read_spec

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PlanError,
    Report,
    palettize_package,
)
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.planning.plan import SELECTIONS
from mil_palettize.program.forms import FORMS, PACKED, TYPED, refusal
from mil_palettize.program.opsets.move import OPSETS

W = (64, 48)
LARGE = (64, 512)  # larger than its palettes of 8 bits in groups
GROUPED = {"granularity": "per_grouped_channel", "group_size": 8}
FOUR = OpPalettizerConfig(nbits=4)
MOVE = 'pass target="iOS18" (--target iOS18) to move the package up'
SINCE = (  # coremltools' sentence, and another way out
    "is supported since iOS18. Please re-convert your model with minimum_deployment_target set to at least "
    f"ct.target.iOS18. Or {MOVE}"
)
NO_3_BITS = f"nbits=3 is supported since iOS18: {MOVE}, or use one of (1, 2, 4, 6, 8)"
Palettize = Callable[..., tuple[Path, Report]]


def linear(opset: str = "CoreML8", shape: tuple[int, int] = W) -> MIL.Program:
    return program(const("w", shape=shape), op("linear", "l", {"x": "x", "weight": "w"}), opset=opset)


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# What an opset can hold


def test_every_opset_has_a_form() -> None:
    assert FORMS.keys() == {opset.name for opset in OPSETS}
    assert {name: form.name if form else None for name, form in FORMS.items()} == {
        "CoreML5": None, "CoreML6": "packed", "CoreML7": "packed", "CoreML8": "typed", "CoreML9": "typed",
    }  # fmt: skip


def test_forms_are_those_of_coremltools_registry() -> None:
    """The packed op has a ``shape``, iOS18 defined it anew with typed indices; before iOS16 there is none."""
    variants = SSAOpRegistry.core_ops["constexpr_lut_to_dense"]
    found = {target.name: set(op_class.input_spec.input_types) for target, op_class in variants.items()}
    packed, typed = {"indices", "lut", "shape"}, {"indices", "lut", "vector_axis"}
    assert found == {"iOS16": packed, "iOS17": packed, "iOS18": typed}


@pytest.mark.parametrize("nbits", [None, *LEGAL_NBITS])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("opset", ["CoreML6", "CoreML7", "CoreML8", "CoreML9"])
def test_refusals(opset: str, grouped: bool, nbits: int | None) -> None:
    """Before iOS18 neither groups nor 3 bits."""
    early = opset in ("CoreML6", "CoreML7")
    refused = refusal(FORMS[opset], nbits, grouped)
    assert bool(refused) == (early and (grouped or nbits == 3))
    options = {"nbits": nbits} if nbits else {"mode": "unique"}
    options |= GROUPED if grouped else {}
    if refused:
        with pytest.raises(PlanError, match=re.escape(f"weight 'main/w' ({opset}): {refused}")):
            planned(linear(opset, LARGE), **options)
        return
    plan = decisions(planned(linear(opset, LARGE), strict=True, **options))["w"].specification
    assert (plan.nbits, plan.granularity) == (nbits, "per_grouped_channel" if grouped else "per_tensor")
    assert plan.allowed_nbits == ((1, 2, 4, 6, 8) if early else LEGAL_NBITS)


def test_refusals_say_exactly_what_to_do() -> None:
    assert refusal(PACKED, 4, True) == f"The per_grouped_channel palettization {SINCE}"
    assert refusal(PACKED, 3, False).startswith(NO_3_BITS)
    assert refusal(TYPED, 3, True) == ""


def test_what_is_not_asked_of_any_weight_is_not_refused() -> None:
    """3 bits for an op type the model lacks, or for what is left alone anyway."""
    three = OpPalettizerConfig(nbits=3)
    planned(linear("CoreML6"), OptimizationConfig(global_config=FOUR, op_type_configs={"conv": three}))
    masked = program(const("w", shape=W), op("add", "a", {"x": "x", "y": "w"}), opset="CoreML6")
    assert decisions(planned(masked, nbits=3))["w"].specification is None


@pytest.mark.parametrize("select", SELECTIONS)
def test_unknown_opset_is_left_alone_with_that_reason(select: str) -> None:
    decision = decisions(planned(linear("CoreML99"), nbits=4, select=select))["w"]
    assert decision.reason == "opset CoreML99 is not known to this version"


def test_opset_after_a_move_is_what_counts() -> None:
    assert (
        decisions(planned(linear("CoreML5"), nbits=4, opset_after={"CoreML5": "CoreML6"}))["w"].specification
        is not None
    )
    assert decisions(planned(linear("CoreML5"), nbits=4))["w"].reason == "opset CoreML5 can hold no palettes"


def test_each_specialization_has_the_form_of_its_opset() -> None:
    """A palette that the older one cannot hold is refused, though the newer could."""
    blocks = {
        opset: block(const("w", shape=W), op("linear", "l", {"x": "x", "weight": "w"}), outputs=["l"])
        for opset in ("CoreML7", "CoreML8")
    }
    made = MIL.Program(version=1, functions={"main": function(blocks)})
    with pytest.raises(PlanError, match=r"weight 'main/w' \(CoreML7\): nbits=3 is supported since iOS18"):
        planned(made, nbits=3)
    plans = [d.specification.allowed_nbits for d in planned(made, mode="unique").decisions]
    assert plans == [(1, 2, 4, 6, 8), LEGAL_NBITS]


# Packages below their form


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nbits": 4, **GROUPED}, f"The per_grouped_channel palettization {SINCE}"),
        ({"mode": "unique", **GROUPED}, f"The per_grouped_channel palettization {SINCE}"),
        ({"nbits": 3}, NO_3_BITS),
    ],
)
@pytest.mark.parametrize("name", ["conv_fp16_ios15", "conv_fp32_ios16", "conv_fp16_ios17"])
def test_too_early_packages(
    name: str, options: dict, message: str, fixtures: Path, palettize: Palettize, tmp_path: Path
) -> None:
    source = fixtures / f"{name}.mlpackage"
    before = all_files(source)
    with pytest.raises(PlanError, match=re.escape(message)) as error:
        palettize(source, **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert all_files(source) == before
    if options.get("mode") != "unique":
        _, report = palettize(source, target="iOS18", verify=True, **options)
        assert report.palettized


# Moves


def opsets(package: Path) -> dict[str, tuple[str, list[str]]]:
    functions = read_spec(package).mlProgram.functions
    return {name: (f.opset, list(f.block_specializations)) for name, f in functions.items()}


def test_ios15_moves_up_to_ios16_by_itself(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "conv_fp16_ios15.mlpackage"
    written, report = palettize(source, nbits=4, verify=True)
    assert (read_spec(source).specificationVersion, opsets(source)) == (6, {"main": ("CoreML5", ["CoreML5"])})
    assert (read_spec(written).specificationVersion, opsets(written)) == (7, {"main": ("CoreML6", ["CoreML6"])})
    moved = report.moved[0]
    assert (moved.function, moved.op_name, moved.what) == ("main", "", "CoreML5 (iOS15) to CoreML6 (iOS16)")
    assert "moved to a later opset:\n  main: CoreML5 (iOS15) to CoreML6 (iOS16)" in report.to_text()


@pytest.mark.parametrize("config", [OptimizationConfig(), OptimizationConfig(op_type_configs={"gather": FOUR})])
def test_nothing_moves_where_nothing_is_palettized(
    config: OptimizationConfig, fixtures: Path, palettize: Palettize
) -> None:
    source = fixtures / "conv_fp16_ios15.mlpackage"
    written, report = palettize(source, config)
    assert differences(source, written) == []
    assert report.moved == []


@pytest.mark.parametrize("name", ["conv_fp16_ios16", "conv_fp16_ios17", "conv_fp16_ios18"])
def test_others_move_only_when_told(name: str, fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / f"{name}.mlpackage"
    written, report = palettize(source, nbits=4)
    assert report.moved == []
    assert opsets(written) == opsets(source)
    assert read_spec(written).specificationVersion == read_spec(source).specificationVersion


@pytest.mark.parametrize(("target", "opset", "spec"), [("iOS17", "CoreML7", 8), ("macOS15", "CoreML8", 9)])
def test_target_moves(target: str, opset: str, spec: int, fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "conv_fp32_ios16.mlpackage"
    written, report = palettize(source, nbits=4, target=target, verify=True)
    assert (read_spec(written).specificationVersion, opsets(written)) == (spec, {"main": (opset, [opset])})
    assert report.moved[0].what.startswith(f"CoreML6 (iOS16) to {opset}")
    form = FORMS[opset].name
    for o, _ in constants(written).values():
        if o.type == "constexpr_lut_to_dense":
            assert ("indices" in o.inputs, "indices" in o.attributes) == (form == "typed", form == "packed")


def test_target_moves_even_where_nothing_is_palettized(fixtures: Path, palettize: Palettize) -> None:
    written, report = palettize(fixtures / "conv_fp32_ios16.mlpackage", OptimizationConfig(), target="iOS18")
    assert opsets(written) == {"main": ("CoreML8", ["CoreML8"])}
    assert report.moved


def test_own_target_changes_nothing(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "conv_fp16_ios17.mlpackage"
    (with_target, report), (without, _) = palettize(source, nbits=4, target="iOS17"), palettize(source, nbits=4)
    assert differences(with_target, without) == []
    assert report.moved == []


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("iOS15", ConfigError, "target iOS15 can hold no palettes; use iOS16 or later"),
        ("iOS14", ConfigError, "target is 'iOS14'; allowed are iOS15"),
        (18, ConfigError, "target is 18; allowed are iOS15"),
        ("iOS16", PlanError, "packages are never moved down to iOS16"),
    ],
)
def test_wrong_targets(
    target: object, error: type, message: str, fixtures: Path, palettize: Palettize, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as raised:
        palettize(fixtures / "conv_fp16_ios17.mlpackage", nbits=4, target=target)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_pipeline_stages_keep_their_opsets(fixtures: Path, palettize: Palettize) -> None:
    written, report = palettize(fixtures / "pipeline_ios17.mlpackage", nbits=4, verify=True)
    stages = read_spec(written).pipeline.models
    assert [m.mlProgram.functions["main"].opset for m in stages] == ["CoreML6", "CoreML7"]
    assert report.moved == []


def test_two_functions_of_different_opsets(tmp_path: Path, palettize: Palettize) -> None:
    """The one that can hold no palette moves up to where it can, the other stays."""
    draw = np.random.default_rng(0)
    functions = {}
    for name, opset in (("old", "CoreML5"), ("new", "CoreML8")):
        weight = const("w", draw.standard_normal(W).astype(np.float16))
        relu = op("relu", "y", {"x": "l"}, shape=(1, 64))
        linear_op = op("linear", "l", {"x": "x", "weight": "w"}, shape=(1, 64))
        functions[name] = function({opset: block(weight, linear_op, relu, outputs=["y"])}, inputs=[("x", (1, 48))])
    source = write_package(tmp_path / "source.mlpackage", MIL.Program(version=1, functions=functions))
    written, report = palettize(source, nbits=4, verify=True)
    assert opsets(written) == {"old": ("CoreML6", ["CoreML6"]), "new": ("CoreML8", ["CoreML8"])}
    assert [(m.function, m.what) for m in report.moved] == [("old", "CoreML5 (iOS15) to CoreML6 (iOS16)")]
    assert len(report.palettized) == 2


# Ops from the future


def test_unknown_ops_pass_through(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "future_op_ios17.mlpackage"
    written, report = palettize(source, nbits=4, strict=True, verify=True)
    assert {w.name for w in report.palettized} == {"in_weight", "out_weight"}
    changed = {line.partition(":")[0] for line in differences(source, written)}
    assert changed == {"op main//in_weight", "op main//out_weight"}


# Strict


def three_unmet() -> tuple[MIL.Program, OptimizationConfig]:
    names = ["a", "b", "c", "d"]
    readers = [op("linear", f"l_{name}", {"x": "x", "weight": name}) for name in names]
    made = program(*(const(name, shape=(61, 64)) for name in names), *readers)
    return made, OptimizationConfig(global_config=OpPalettizerConfig(nbits=4, **GROUPED | {"group_size": 16}))


def test_strict_names_three_and_counts_the_rest() -> None:
    made, config = three_unmet()
    with pytest.raises(PlanError) as error:
        planned(made, config, strict=True)
    message = str(error.value)
    assert message.startswith("strict: 4 requests cannot be met as asked: 'main/a': group_size 16 does not divide")
    assert all(f"'main/{name}'" in message for name in "abc")
    assert "'main/d'" not in message
    assert message.endswith("(and 1 more)")
    assert "\n" not in message


def test_without_strict_the_same_is_done_and_noted() -> None:
    made, config = three_unmet()
    for decision in planned(made, config).decisions:
        assert (decision.unmet, decision.specification.axis, len(decision.notes)) == (True, None, 1)


@pytest.mark.parametrize("name", ["extras_ios16", "conv_fp16_ios15"])
def test_strict_refuses_before_anything_is_written(
    name: str, fixtures: Path, palettize: Palettize, tmp_path: Path
) -> None:
    config = OptimizationConfig(global_config=FOUR, op_name_configs={"nobody": FOUR})
    source = fixtures / f"{name}.mlpackage"
    before = all_files(source)
    with pytest.raises(PlanError, match=r"op_name_configs\['nobody'\] matches nothing"):
        palettize(source, config, strict=True)
    assert list(tmp_path.iterdir()) == []
    assert all_files(source) == before
    _, report = palettize(source, config)
    assert "op_name_configs['nobody'] matches nothing in function main" in report.to_text(200)


def test_strict_also_refuses_what_values_forbid(fixtures: Path, palettize: Palettize, tmp_path: Path) -> None:
    """Known only while writing: the destination still does not come to be."""
    with pytest.raises(PlanError, match=r"strict: \d weights? cannot be palettized as asked: 'main/.*distinct values"):
        palettize(fixtures / "conv_fp16_ios16.mlpackage", mode="unique", strict=True)
    assert list(tmp_path.iterdir()) == []


def test_named_op_that_nothing_comes_of() -> None:
    """Its weight has integer values, its bias has rank 1: an entry without effect is no silent success."""
    made = program(
        const("w", shape=W, dtype="INT32"),
        const("b", shape=(4096,)),
        const("v", shape=W),
        op("linear", "l", {"x": "x", "weight": "w", "bias": "b"}),
        op("linear", "m", {"x": "x", "weight": "v", "bias": "b"}),
    )
    config = OptimizationConfig(op_name_configs={"l": FOUR})
    (note,) = planned(made, config).notes
    assert note == (
        "op_name_configs['l']: no palette can be made of what it reads ('main/w': int32 values; palettes hold fp16 and "
        "fp32, 'main/b': rank 1; palettes are made of weights of rank 2 and more)"
    )
    with pytest.raises(PlanError, match=r"^strict: 1 request .* op_name_configs\['l'\]: no palette can be made"):
        planned(made, config, strict=True)
    # One palette is enough, and "leave alone" asks for none.
    assert planned(made, OptimizationConfig(op_name_configs={"m": FOUR}), strict=True).notes == []
    assert planned(made, OptimizationConfig(op_name_configs={"l": None}), strict=True).notes == []


# Dry runs


@pytest.mark.parametrize("destination", [None, "written.mlpackage"])
@pytest.mark.parametrize("name", ["conv_fp16_ios15", "conv_fp16_ios18", "multifunction_ios18", "non_weights_ios16"])
def test_dry_run_promises_what_a_run_does(
    name: str, destination: str | None, fixtures: Path, palettize: Palettize, tmp_path: Path
) -> None:
    source = fixtures / f"{name}.mlpackage"
    config = OptimizationConfig(global_config=FOUR)
    goal = tmp_path / destination if destination else None
    promised = palettize_package(source, goal, config, dry_run=True)
    assert promised.dry_run
    assert list(tmp_path.iterdir()) == []
    _, done = palettize(source, config)
    plain = [
        [(w.name, w.function, w.status, w.reason, w.nbits, w.bytes_before, w.bytes_after, w.notes) for w in r.weights]
        for r in (promised, done)
    ]
    assert plain[0] == plain[1]
    assert promised.moved == done.moved
    assert abs(promised.bytes_after - done.bytes_after) <= 0.02 * done.bytes_before + 1024


def test_only_a_dry_run_goes_without_destination(fixtures: Path) -> None:
    with pytest.raises(ConfigError, match="destination is missing"):
        palettize_package(fixtures / "extras_ios16.mlpackage", None, OptimizationConfig(global_config=FOUR))


def test_decisions_are_in_program_order(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "conv_fp16_ios18.mlpackage"
    _, report = palettize(source, nbits=4, weight_threshold=8, select="all")
    order = [name for (_, _, _, name), _ in constants(source).items()]
    assert [w.name for w in report.weights] == [name for name in order if name in {w.name for w in report.weights}]


def test_source_that_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        palettize_package(
            tmp_path / "absent.mlpackage", tmp_path / "x.mlpackage", OptimizationConfig(global_config=FOUR)
        )
    assert list(tmp_path.iterdir()) == []
