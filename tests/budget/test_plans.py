"""What a plan keeps to, and what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import coremltools as ct
import numpy as np
import pytest
from coremltools.optimize import coreml

from mil_palettize import Budget, Limits, OptimizationConfig, Recipe, palettize_package
from mil_palettize import plan_mixed_bits as plan_measured
from mil_palettize.budget.distortion import evaluated
from mil_palettize.budget.limits import GROUP_SIZES
from mil_palettize.budget.weighed_choices import Source
from mil_palettize.budget.weighing import weighed
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.planning.device_rules import DEVICES, RULES, forbidden
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import dense
from mil_palettize.reports.curve import Point, curve_svg
from mil_palettize.request.normalised import normalise

# By what is predicted, which all of these are of.
plan_mixed_bits = partial(plan_measured, measure=False)
CONV = "conv_fp16_ios18.mlpackage"
BITS = Budget(bits_per_weight=3.2)


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Path:
    return Path(__file__).resolve().parents[2] / "fixtures" / CONV


@pytest.fixture(scope="module")
def recipe(source: Path) -> Recipe:
    return plan_mixed_bits(source, BITS)


def nbits(recipe: Recipe) -> dict[str, int | None]:
    return {one.names[0]: None if one.options is None else one.options["nbits"] for one in recipe.chosen}


def test_coremltools_reads_the_recipe(recipe: Recipe, tmp_path: Path) -> None:
    """And both of us understand it alike."""
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    theirs, ours = coreml.OptimizationConfig.from_yaml(str(file)), OptimizationConfig.from_yaml(str(file))
    assert theirs.global_config is None
    assert len(theirs.op_name_configs) == len(recipe.chosen)
    assert normalise(theirs) == normalise(ours) == normalise(recipe.config) == normalise(recipe.requests())


def test_coremltools_makes_the_same_forms_of_it(source: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "ours.mlpackage"
    recipe = plan_mixed_bits(source, Budget(bits_per_weight=4.5), limits=Limits(group_size=8))
    file.write_text(recipe.to_yaml())
    palettize_package(source, out, recipe)
    model = ct.models.MLModel(str(source), skip_model_load=True)
    theirs = coreml.palettize_weights(model, coreml.OptimizationConfig.from_yaml(str(file)))

    def tables(spec: object) -> list[tuple[int, ...]]:
        block = spec.mlProgram.functions["main"].block_specializations["CoreML8"]
        luts = [op.inputs["lut"] for op in block.operations if op.type == "constexpr_lut_to_dense"]
        types = (lut.arguments[0].value.type.tensorType for lut in luts)
        return sorted(tuple(d.constant.size for d in one.dimensions) for one in types)

    ours = tables(ct.models.MLModel(str(out), skip_model_load=True).get_spec())
    assert ours == tables(theirs.get_spec())
    assert any(shape[0] > 1 for shape in ours)


def test_the_file_is_a_config_of_the_package(recipe: Recipe, source: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "out.mlpackage"
    file.write_text(recipe.to_yaml())
    palettize_package(source, out, OptimizationConfig.from_yaml(str(file)), strict=True)
    assert sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) == recipe.nbytes


def test_names_that_yaml_would_take_for_something_else(recipe: Recipe) -> None:
    chosen = recipe.chosen[0]
    odd = ("no", "1.5", 'a"b', "ä: #x", "re:y")
    text = Recipe(**{**recipe.__dict__, "chosen": (type(chosen)(**{**chosen.__dict__, "names": odd}),)}).to_yaml()
    import yaml

    assert tuple(yaml.safe_load(text)["op_name_configs"]) == odd


def test_names_that_end_lines_of_yaml(recipe: Recipe) -> None:
    """Names come from packages, and stand in comments too."""
    import yaml

    ends = "\r\x85\u2028\n"
    odd = replace(recipe, left=tuple((f"main/a{end}b: {{", "small", 2) for end in ends), notes=("\x07",))
    assert yaml.safe_load(odd.to_yaml()) == recipe.to_dict()


def test_fewer_bits_are_never_said_to_lose_less(source: Path) -> None:
    with Workers(1) as pool:
        found = weighed(Source(source), Limits(), BITS, pool)
    for one in found.choices:
        by_kind: dict[object, list[tuple[int, float]]] = {}
        for candidate, error in zip(one.choice.candidates, one.errors, strict=True):
            if candidate.options is not None:
                kind = candidate.options.get("group_size", 0)
                by_kind.setdefault(kind, []).append((candidate.options["nbits"], error))
        assert set(by_kind) <= {0, *GROUP_SIZES}
        for pairs in by_kind.values():
            errors = [error for _, error in sorted(pairs)]
            assert errors == sorted(errors, reverse=True)
            assert errors[0] > errors[-1] > 0.0


def test_errors_are_those_that_compensation_leaves(source: Path) -> None:
    """Within a quarter of what solving under the structured moments gives, which takes far longer."""
    from mil_palettize.algorithms.layerwise.moments import objective
    from mil_palettize.algorithms.layerwise.reconstruction import reconstructed
    from mil_palettize.algorithms.making import ArraySource, make_palette
    from mil_palettize.calibration.without_samples import place_findings

    with Workers(1) as pool:
        found = weighed(Source(source), Limits(group_size=0), BITS, pool)
    one = next(c for c in found.choices if c.choice.names == ("stem_weight",))
    with Model.open(source) as model:
        array = next(dense(s, model.store) for s in model.survey().sites if s.weight.name == "stem_weight")
    (moments,) = place_findings(one.choice.weight).moments
    wide = array.astype(np.float64)
    aim = objective(moments, wide.reshape(-1), 0.0, asymmetric=False)
    rows = wide.reshape(-1)[moments.where]
    power = float(np.einsum("gri,gij,grj->", rows, moments.square, rows))
    for candidate, error in list(zip(one.choice.candidates, one.errors, strict=True))[1:]:
        made = make_palette(ArraySource("w", array), candidate.specification)
        left = reconstructed(made.expr, [aim], rounds=0).objective / power
        assert error == pytest.approx(left, rel=0.25)


def test_values_that_rule_palettes_out(source: Path) -> None:
    with Workers(1) as pool:
        one = weighed(Source(source), Limits(), BITS, pool).choices[0].choice
    broken = np.full(one.weight.shape, np.nan, np.float16)
    assert evaluated(one, broken).choice.candidates == one.candidates[:1]


def test_weights_that_are_kept(source: Path) -> None:
    limits = Limits(keep={"stem_weight": None, "re:h.*_weight": 6})
    found = nbits(plan_mixed_bits(source, Budget(bits_per_weight=6), limits=limits))
    assert found["stem_weight"] is None
    assert found["head_weight"] in (6, 8, None)
    assert found["hidden_weight"] in (6, 8, None)
    with pytest.raises(PlanError, match=r"keep\['nothere'\] matches no .*; names are like 'depthwise_weight', '"):
        plan_mixed_bits(source, BITS, limits=Limits(keep={"nothere": 4}))
    with pytest.raises(PlanError, match=r"keep\['steam_weight'\] matches no weight .*stem_weight"):
        plan_mixed_bits(source, BITS, limits=Limits(keep={"steam_weight": 4}))


def test_what_is_kept_with_a_weight_that_is_stored_once_with_it(fixtures: Path) -> None:
    """Is said, but where its name was meant too."""
    two = fixtures / "multifunction_ios18.mlpackage"
    seven = Budget(bits_per_weight=7)
    found = plan_mixed_bits(two, seven, limits=Limits(keep={"decode/base_weight": None}))
    (note,) = [note for note in found.notes if "holds for" in note]
    assert note.startswith(
        "keep['decode/base_weight'] holds for prefill/base_weight too: what is stored once is chosen"
    )
    for name in ("base_weight", "decode/adapter_weight"):
        both = plan_mixed_bits(two, seven, limits=Limits(keep={name: None}))
        assert not any("holds for" in note for note in both.notes)


def test_modules_and_globs_are_kept(source: Path) -> None:
    found = nbits(
        plan_mixed_bits(source, Budget(bits_per_weight=6), limits=Limits(keep={"stem.weight": None, "h*": 6}))
    )
    assert found["stem_weight"] is None
    assert found["head_weight"] in (6, 8, None)
    assert found["hidden_weight"] in (6, 8, None)


def test_names_of_the_ops_that_read_a_weight(source: Path) -> None:
    with Model.open(source) as model:
        reader = next(s.weight.consumers[0].op_name for s in model.survey().sites if s.weight.name == "stem_weight")
    found = plan_mixed_bits(source, Budget(bits_per_weight=7), limits=Limits(keep={reader: None}))
    assert nbits(found)["stem_weight"] is None


def test_both_ends(source: Path) -> None:
    found = nbits(plan_mixed_bits(source, Budget(bits_per_weight=3.8), limits=Limits(ends=6)))
    names = list(found)
    assert found[names[0]] in (6, 8, None)
    assert found[names[-1]] in (6, 8, None)
    assert min(n for n in found.values() if n) < 6


def test_one_granularity_for_all(source: Path) -> None:
    found = plan_mixed_bits(source, BITS, limits=Limits(group_size=0))
    assert not any("group_size" in (one.options or {}) for one in found.chosen)


@pytest.mark.parametrize("budget", [Budget(nbytes=9000), Budget(bits_per_weight=0.3)])
def test_a_budget_that_cannot_be_reached(source: Path, budget: Budget) -> None:
    limits = Limits(keep={"up_weight": None})
    with pytest.raises(
        PlanError, match=r"cannot be reached: the (smallest package|least) is .*'main/up_weight' \(12.3 kB"
    ):
        plan_mixed_bits(source, budget, limits=limits)


def test_the_smallest_package_can_be_had(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refused:
        plan_mixed_bits(source, 100)
    smallest = int(str(refused.value).partition("package is ")[2].split(":")[0].replace(",", ""))
    assert plan_mixed_bits(source, smallest).nbytes == smallest
    with pytest.raises(PlanError, match="cannot be reached"):
        plan_mixed_bits(source, smallest - 1)


def test_a_budget_above_all_palettes_leaves_everything_alone(source: Path) -> None:
    found = plan_mixed_bits(source, 10_000_000)
    assert found.nbytes == found.bytes_before
    assert all(one.options is None and one.error == 0.0 for one in found.chosen)


def test_what_is_stored_once_is_chosen_once(fixtures: Path) -> None:
    for name in ("shared_ios16", "multifunction_ios18"):
        found = plan_mixed_bits(
            fixtures / f"{name}.mlpackage", Budget(bits_per_weight=4), limits=Limits(weight_threshold=64)
        )
        with Model.open(fixtures / f"{name}.mlpackage") as model:
            sites = {s.weight.key: s.weight for s in model.survey().sites}
        by_storage: dict[object, set[int]] = {}
        for number, one in enumerate(found.chosen):
            for weight in sites.values():
                if weight.storage is not None and {weight.name, weight.key} & set(one.names):
                    by_storage.setdefault(weight.storage, set()).add(number)
        assert by_storage
        assert all(len(numbers) == 1 for numbers in by_storage.values())


def test_the_plan_does_not_depend_on_threads(source: Path) -> None:
    assert plan_mixed_bits(source, BITS, workers=1) == plan_mixed_bits(source, BITS, workers=3)


def test_what_a_device_does_not_take() -> None:
    assert {device for rule in RULES for device in rule.devices} <= set(DEVICES)
    assert all(rule.source and rule.what for rule in RULES)
    scaled = {"nbits": 4, "cluster_dim": 2, "enable_per_channel_scale": True}
    for device in DEVICES:
        grid = Limits(device=device, vectors=True).grid()
        assert all(forbidden(options, device) is None for options in grid)
        assert (scaled in grid) == (device in ("gpu", "cpu"))
    large = {"nbits": 8, "cluster_dim": 2}
    assert large in Limits(device="gpu", vectors=True).grid()
    assert large not in Limits(device="ane", vectors=True).grid()
    assert not any(0 < options.get("group_size", 0) < 8 for options in Limits(device="ane").grid())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Budget(), "give one of them"),
        (lambda: Budget(5, 5.0), "give one of them"),
        (lambda: Budget(nbytes=0), "above 0"),
        (lambda: Budget(bits_per_weight=math.nan), "above 0"),
        (lambda: Limits(device="npu"), "allowed are"),
        (lambda: Limits(keep={"a": 5}), r"keep\['a'\] is 5"),
        (lambda: Limits(keep={"re:(": 4}), "no regular expression"),
        (lambda: Limits(keep=["a"]), r"keep is \['a'\]; give a dict of names and bits"),
        (lambda: Limits(keep={5: 4}), "keep has 5, which is no name"),
        (lambda: Limits(keep={"a": True}), r"keep\['a'\] is True"),
        (lambda: Limits(ends=5), r"ends is 5, allowed are \(1, 2, 3, 4, 6, 8\)"),
        (lambda: Limits(ends="8"), "ends is '8'"),
        (lambda: Limits(group_size=-1), "group_size is -1"),
        (lambda: Limits(group_size=True), "group_size is True"),
        (lambda: Limits(weight_threshold=-1), "weight_threshold is -1"),
        (lambda: Limits(vectors="yes"), "vectors is 'yes'; give True or False"),
        (lambda: Limits(device=["ane"]), r"device is \['ane'\], allowed are"),
        (lambda: Limits(vectors=True, group_size=8), "vectors have one table for a weight, and group_size 8"),
        (lambda: Limits(device="ane", group_size=4), "group_size is 4, and device is 'ane': groups below 8 cost"),
        (lambda: plan_mixed_bits("nowhere.mlpackage", 5, limits={}), r"limits is \{\}; give Limits"),
    ],
)
def test_wrong_requests(make: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


def test_vectors_where_none_are_possible(source: Path) -> None:
    older = source.with_name("conv_fp16_ios16.mlpackage")
    needed = "no weight can have pairs of channels that share an index here: they need --target iOS18"
    budget = Budget(bits_per_weight=4.0)
    assert needed in plan_mixed_bits(older, budget, limits=Limits(vectors=True, device="gpu")).notes
    assert needed not in plan_mixed_bits(older, budget).notes


def test_what_no_palette_is_possible_of(source: Path, tmp_path: Path) -> None:
    """A package of palettes is left as it is, with the reason."""
    done = tmp_path / "done.mlpackage"
    palettize_package(source, done, plan_mixed_bits(source, Budget(bits_per_weight=4.0)))
    size = sum(file.stat().st_size for file in done.rglob("*") if file.is_file())
    recipe = plan_mixed_bits(done, size)
    assert recipe.chosen == ()
    assert recipe.nbytes == size
    assert "left alone: already compressed (constexpr_lut_to_dense)" in recipe.to_text(200)
    assert recipe.told(size)[0] == "planned: nothing, as no weight can get a palette"
    assert "error told beforehand 0 (none)" in recipe.to_text()
    assert ">none</span>" in recipe.to_html()
    with pytest.raises(PlanError, match="1 bit per weight cannot be reached: the least is"):
        plan_mixed_bits(source, Budget(bits_per_weight=1), limits=Limits(keep={"stem_weight": None}))


def test_report_json_and_text(recipe: Recipe) -> None:
    data = json.loads(recipe.to_json())
    assert data["nbytes"] == recipe.nbytes
    assert len(data["chosen"]) == len(recipe.chosen)
    text = recipe.to_text(100)
    assert f"{recipe.nbytes:,} bytes" in text
    assert all(name in text for one in recipe.chosen for name in one.names)


def test_curve(recipe: Recipe) -> None:
    """Plans lose less with more bytes, and no more than uniform palettes of as many."""
    plans = sorted((p.nbytes, p.error) for p in recipe.curve if not p.label)
    assert len(plans) > 5
    assert [error for _, error in plans] == sorted((error for _, error in plans), reverse=True)
    for uniform in (p for p in recipe.curve if p.label):
        best = plan_mixed_bits(Path(recipe.source), max(uniform.nbytes, recipe.smallest))
        assert best.error <= uniform.error * (1 + 1e-6)
    drawing = ElementTree.fromstring(curve_svg(recipe.curve, recipe.point))
    texts = [node.text for node in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "chosen" in texts
    assert "4 bits" in texts


def test_a_curve_of_nothing_is_a_picture_too() -> None:
    ElementTree.fromstring(curve_svg([], Point(5, 0.0, "chosen")))
