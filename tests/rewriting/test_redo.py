"""``redo``: palettes that are there already made anew, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from door_networks import config, converted, layers, names, pruned, tied
from handmade import contents, metadata
from packages import blob_file, blob_users, constants, differences, normalised, weights_dir

from mil_palettize import (
    OptimizationConfig,
    PackageError,
    PlanError,
    Report,
    VerifyError,
    decompress_package,
    palettize_package,
)
from mil_palettize.doors import palettize_run as api
from mil_palettize.rewriting import palettization

GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}
Palettized = Callable[..., Path]


@pytest.fixture
def palettized(fixtures: Path, tmp_path: Path) -> Palettized:
    """``palettized("conv_fp16_ios18", nbits=8)``: a fixture with palettes."""

    def make(name: str, **options: object) -> Path:
        path = tmp_path / f"{name}_before.mlpackage"
        palettize_package(fixtures / f"{name}.mlpackage", path, config(**{"nbits": 8, **options}))
        return path

    return make


def again(source: Path, name: str = "after", asked: OptimizationConfig | None = None, **options: object) -> Report:
    """``source`` palettized anew, into the package ``name`` beside it."""
    goal = source.parent / f"{name}.mlpackage"
    return palettize_package(source, goal, config() if asked is None else asked, redo=True, **options)


def stepwise(source: Path, asked: OptimizationConfig, **options: object) -> Path:
    """The same in two steps."""
    dense, goal = source.parent / "dense.mlpackage", source.parent / "stepwise.mlpackage"
    decompress_package(source, dense, overwrite=True)
    palettize_package(dense, goal, asked, overwrite=True, **options)
    return goal


def values(package: Path) -> dict[tuple[str, str], list[np.ndarray]]:
    """(function as reports call it, name) -> values."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for (model, function, _, name), (_, decode) in constants(package).items():
        found.setdefault((f"{model}/{function}".lstrip("/"), name), []).append(decode())
    return found


def kinds(package: Path) -> dict[str, str]:
    return {key[3]: op.type for key, (op, _) in constants(package).items() if op.type != "const"}


# What comes of it

CASES: dict[str, tuple[str, dict[str, object], dict[str, object], dict[str, object]]] = {
    # name: (fixture, palettes before, palettes after, options)
    "fewer bits": ("conv_fp16_ios18", {}, {}, {}),
    "fewer bits, packed": ("conv_fp16_ios16", {}, {}, {}),
    "more bits": ("conv_fp16_ios17", {"nbits": 2}, {"nbits": 6}, {}),
    "the same bits": ("conv_fp16_ios18", {"nbits": 4}, {}, {}),
    "fp32": ("conv_fp32_ios18", {}, {"nbits": 2}, {}),
    "groups after a move": ("conv_fp16_ios16", {}, GROUPS, {"target": "iOS18"}),
    "one table instead of groups": ("conv_fp16_ios18", {"nbits": 4, **GROUPS}, {}, {}),
    "scalars instead of vectors": ("conv_fp16_ios18", {"nbits": 4, "cluster_dim": 2}, {"nbits": 2}, {}),
    "unique": ("conv_fp16_ios18", {"nbits": 3}, {"mode": "unique", "nbits": None}, {}),
    "with scales": ("conv_fp16_ios18", {}, {"enable_per_channel_scale": True}, {}),
    "of scales": ("conv_fp16_ios18", {"nbits": 4, "enable_per_channel_scale": True}, {"nbits": 2}, {}),
    "of quantized tables": ("conv_fp16_ios18", {"nbits": 4, "lut_dtype": "int8"}, {"lut_dtype": "uint8"}, {}),
    "several blocks": ("branches_ios16", {}, {}, {}),
    "a loop": ("loop_ios16", {}, {}, {"target": "iOS18"}),
    "several consumers": ("shared_ios16", {}, {}, {}),
    "two functions": ("multifunction_ios18", {}, GROUPS, {}),
    "a pipeline": ("pipeline_ios17", {}, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_as_if_made_dense_and_then_palettized(case: str, palettized: Palettized, temporary: Path) -> None:
    name, before, after, options = CASES[case]
    source = palettized(name, **before)
    untouched = contents(source)
    report = again(source, asked=config(**after), verify=True, **options)
    goal = source.parent / "after.mlpackage"
    assert report.verified
    assert report.palettized
    assert all("in place of what was compressed already" in w.notes[-1] for w in report.palettized)
    assert differences(goal, stepwise(source, config(**after), **options)) == []
    assert contents(source) == untouched
    assert not list(temporary.iterdir())
    was, now = values(source), values(goal)
    for weight in report.palettized:
        place = weight.function, weight.name
        if len(was[place]) == 1:  # else sibling blocks have constants of one name
            noise = np.sum((was[place][0].astype(float) - now[place][0].astype(float)) ** 2)
            assert weight.squared_error == pytest.approx(noise, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("case", ["groups after a move", "a loop", "of scales", "of quantized tables", "two functions"])
def test_the_report_is_that_of_two_steps(case: str, palettized: Palettized) -> None:
    """What was moved or small, and why weights were left alone, say nothing of the ops that are gone."""
    name, before, after, options = CASES[case]
    source = palettized(name, **before)
    report = again(source, asked=config(**after), **options)
    dense = source.parent / "dense.mlpackage"
    decompress_package(source, dense)
    steps = palettize_package(dense, source.parent / "steps.mlpackage", config(**after), **options)
    planned = again(source, "planned", asked=config(**after), dry_run=True, **options)
    for other in (steps, planned):
        assert (report.moved, report.small, report.notes) == (other.moved, other.small, other.notes)
        assert [(w.name, w.status, w.reason) for w in report.weights] == [
            (w.name, w.status, w.reason) for w in other.weights
        ]
    assert [(w.digest, w.squared_error) for w in report.weights] == [(w.digest, w.squared_error) for w in steps.weights]


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_knows_the_bytes(case: str, palettized: Palettized) -> None:
    name, before, after, options = CASES[case]
    source = palettized(name, **before)
    real = again(source, asked=config(**after), **options)
    planned = again(source, "planned", asked=config(**after), dry_run=True, **options)
    assert not (source.parent / "planned.mlpackage").exists()
    assert planned.dry_run
    assert [(w.name, w.function, w.bytes_before) for w in planned.weights] == [
        (w.name, w.function, w.bytes_before) for w in real.weights
    ]
    assert [w.bytes_after for w in planned.weights if w.bytes_after] == [
        w.bytes_after for w, p in zip(real.weights, planned.weights, strict=True) if p.bytes_after
    ]
    assert [n for w in planned.palettized for n in w.notes[-1:]] == [n for w in real.palettized for n in w.notes[-1:]]
    if after.get("mode") != "unique" and name != "branches_ios16":
        # Ops and the padding of records are not in an estimate, nor is which of two constants of one name it is.
        assert abs(planned.bytes_after - real.bytes_after) <= 500 * len(real.palettized)
    assert planned.bytes_before == real.bytes_before


def test_what_is_shared_stays_shared(palettized: Palettized, fixtures: Path, tmp_path: Path) -> None:
    """As many records as in a package that was palettized once."""
    for name in ("multifunction_ios18", "shared_ios16"):
        source = palettized(name)
        again(source, name)
        palettize_package(fixtures / f"{name}.mlpackage", tmp_path / "once.mlpackage", config(), overwrite=True)
        assert len(blob_users(tmp_path / f"{name}.mlpackage")) == len(blob_users(tmp_path / "once.mlpackage"))


def test_without_it_the_reason_says_so(palettized: Palettized) -> None:
    source = palettized("conv_fp16_ios18")
    report = palettize_package(source, source.parent / "after.mlpackage", config())
    assert not report.palettized
    assert {w.reason for w in report.skipped if w.name.endswith("weight")} == {
        "already compressed (constexpr_lut_to_dense); redo (--redo) palettizes it again"
    }
    assert differences(source, source.parent / "after.mlpackage") == []


def test_what_a_weight_was_is_told(palettized: Palettized) -> None:
    source = palettized("conv_fp16_ios18", nbits=3, **GROUPS)
    before = palettize_package(source, None, config(), dry_run=True).weights
    report = again(source)
    (head,) = (w for w in report.palettized if w.name == "hidden_weight")
    count = head.shape[0] // 4
    note = f"in place of what was compressed already (3-bit palette, {count} groups), made of the values that stood for"
    assert head.notes == (note,)
    assert {w.name: w.bytes_before for w in report.weights} == {w.name: w.bytes_before for w in before}
    assert note in report.to_text()
    assert report.source == str(source)
    assert report.bytes_before == sum(f.stat().st_size for f in source.rglob("*") if f.is_file())
    assert report.bytes_after == sum(
        f.stat().st_size for f in (source.parent / "after.mlpackage").rglob("*") if f.is_file()
    )


# Only what is asked for


def unchanged(one: Path, two: Path, *but: str) -> None:
    """Every op is the same but for ``but``, data included, wherever it is stored."""
    left, right = normalised(one), normalised(two)
    keys = [key for key in left.keys() | right.keys() if key.startswith("op ") and not key.endswith(but)]
    assert len(keys) > 3
    assert all(left.get(key) == right.get(key) for key in keys)


def test_only_what_the_config_asks_for(palettized: Palettized) -> None:
    source = palettized("conv_fp16_ios18")
    asked = OptimizationConfig(op_type_configs={"conv": config().global_config}, op_name_configs={"stem_weight": None})
    report = again(source, asked=asked)
    assert {w.name for w in report.palettized} == {"depthwise_weight", "pointwise_weight"}
    unchanged(source, source.parent / "after.mlpackage", "depthwise_weight", "pointwise_weight")
    assert {w.name: w.reason for w in report.skipped}["stem_weight"].startswith("left alone by op_name_configs")
    nothing = again(source, "nothing", OptimizationConfig(op_name_configs={"hidden": None}))
    assert not nothing.palettized
    assert differences(source, source.parent / "nothing.mlpackage") == []


def test_a_palette_that_functions_share_is_kept_for_the_one_left_alone(palettized: Palettized) -> None:
    source = palettized("multifunction_ios18")
    (name,) = {w.name for w in again(source).palettized if w.function == "prefill" and w.name.startswith("base")}
    asked = OptimizationConfig(config().global_config, op_name_configs={f"prefill/{name}": None})
    report = again(source, "one", asked, verify=True)
    assert ("decode", name) in {(w.function, w.name) for w in report.palettized}
    assert ("prefill", name) not in {(w.function, w.name) for w in report.palettized}
    before, after = values(source), values(source.parent / "one.mlpackage")
    assert np.array_equal(before["prefill", name][0], after["prefill", name][0])
    both = values(source.parent / "after.mlpackage")
    assert np.array_equal(both["decode", name][0], after["decode", name][0])


@pytest.mark.parametrize("joint", [False, True])
def test_other_compressed_weights_stay(joint: bool, fixtures: Path, tmp_path: Path) -> None:
    source = tmp_path / "joint.mlpackage"
    palettize_package(fixtures / "joint_ios18.mlpackage", source, OptimizationConfig())
    before = kinds(source)
    report = again(source, joint_compression=joint, verify=True)
    after = kinds(tmp_path / "after.mlpackage")
    assert after["blocks_weight"] == before["blocks_weight"] == "constexpr_blockwise_shift_scale"
    unchanged(source, tmp_path / "after.mlpackage", *(w.name for w in report.palettized), *(before.keys() - after))
    made = {w.name for w in report.palettized}
    assert made >= {"scaled_lut_weight", "int8_lut_weight", "sparse_lut_weight", "vector_weight"}
    assert all(after[name] == "constexpr_lut_to_dense" for name in made)
    assert not after.keys() & {"scaled_lut_palette", "sparse_lut_palette_0", "sparse_lut_palette_1"}


def test_sparse_palettes_and_what_is_sparse(tmp_path: Path) -> None:
    """A sparse palette is made dense; a sparse weight is not, with joint_compression it stays sparse."""
    source = tmp_path / "sparse.mlpackage"
    pruned(converted(layers)).save(str(tmp_path / "pruned.mlpackage"))
    first, second = (f"{name}_weight_to_fp16_sparsified" for name in ("first", "second"))
    only = OptimizationConfig(op_name_configs={first: config(nbits=3).global_config})
    palettize_package(tmp_path / "pruned.mlpackage", source, only, joint_compression=True)
    assert {k: v for k, v in kinds(source).items() if k in (first, second)} == dict.fromkeys(
        (first, second), "constexpr_sparse_to_dense"
    )
    report = again(source, joint_compression=True, verify=True)
    assert {w.name: (w.joint, w.notes) for w in report.palettized}.keys() == {first, second}
    assert {w.name: w.joint for w in report.palettized} == {first: "", second: "sparse"}
    after = kinds(tmp_path / "after.mlpackage")
    assert (after[first], after[second]) == ("constexpr_lut_to_dense", "constexpr_sparse_to_dense")
    assert list(after.values()).count("constexpr_lut_to_sparse") == 2  # outputs of one op
    now, was = values(tmp_path / "after.mlpackage"), values(source)
    assert np.array_equal(now["main", first][0], was["main", first][0])  # 3 bits and zero fit into 4


def test_weights_whose_values_rule_it_out_keep_their_palette(palettized: Palettized, temporary: Path) -> None:
    source = palettized("conv_fp16_ios18", nbits=6)
    (op,) = (op for key, (op, _) in constants(source).items() if key[3] == "hidden_weight")
    table = op.inputs["lut"].arguments[0].value
    file = blob_file(table, source)
    data = bytearray(file.read_bytes())
    at = int.from_bytes(data[table.blobFileValue.offset + 16 : table.blobFileValue.offset + 24], "little")
    data[at : at + 2] = np.float16(np.nan).tobytes()
    file.write_bytes(data)
    report = again(source)
    (left,) = (w for w in report.skipped if w.name == "hidden_weight")
    assert left.reason.startswith("already compressed (constexpr_lut_to_dense)")
    assert "hidden_weight" not in {w.name for w in report.palettized}
    assert len(report.palettized) == 5
    unchanged(source, source.parent / "after.mlpackage", *(w.name for w in report.palettized))
    assert not list(temporary.iterdir())


# Files


def test_in_its_own_place(palettized: Palettized) -> None:
    source = palettized("multifunction_ios18")
    again(source)
    with pytest.raises(PackageError, match="exists; use --overwrite"):
        again(source, source.stem)
    report = again(source, source.stem, overwrite=True, verify=True)
    assert report.palettized
    assert differences(source, source.parent / "after.mlpackage") == []
    assert sorted(p.name for p in source.parent.iterdir()) == ["after.mlpackage", source.name]


def test_nothing_is_left_after_an_error(
    palettized: Palettized, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = palettized("conv_fp16_ios18")
    before = contents(source.parent)

    def fail(*arguments: object) -> None:
        raise VerifyError("wrong")

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    for module, name, act, error in (
        (api, "verify_package", fail, VerifyError),
        (palettization, "complete", interrupt, KeyboardInterrupt),
        (api, "carry_out", interrupt, KeyboardInterrupt),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, act)
            with pytest.raises(error):
                again(source, verify=True)
        assert contents(source.parent) == before
        assert not list(temporary.iterdir())
    with pytest.raises(PlanError, match="strict"):
        again(source, asked=config(granularity="per_grouped_channel", group_size=7), strict=True)
    assert contents(source.parent) == before


def test_records_that_nothing_pointed_at_are_counted(palettized: Palettized) -> None:
    source = palettized("conv_fp16_ios18")
    file = weights_dir(source) / "weight.bin"
    data = file.read_bytes()
    count, end = int.from_bytes(data[:4], "little"), -(-len(data) // 64) * 64
    unused = metadata(end + 64, 64) + bytes(64)
    file.write_bytes((count + 1).to_bytes(4, "little") + data[4:].ljust(end - 4, b"\0") + unused)
    report = again(source, verify=True)
    assert report.dropped_records == 1
    assert "1 record that nothing pointed at dropped" in report.to_text()
    assert again(source.parent / "after.mlpackage", "again").dropped_records == 0


def test_the_model_door_decompresses_first(tmp_path: Path) -> None:
    """It has no ``redo``: two calls do the same."""
    from mil_palettize import decompress_weights, palettize_weights

    once = palettize_weights(converted(tied), config(nbits=8))
    assert names(palettize_weights(once, config())) == names(once)
    twice = palettize_weights(decompress_weights(once), config())
    once.save(str(tmp_path / "once.mlpackage"))
    again(tmp_path / "once.mlpackage")
    decoded = values(tmp_path / "after.mlpackage")["main", "table_to_fp16_palettized"][0]
    twice.save(str(tmp_path / "twice.mlpackage"))
    assert np.array_equal(
        values(tmp_path / "twice.mlpackage")["main", "table_to_fp16_palettized_palettized"][0], decoded
    )
