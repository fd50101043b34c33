"""Palettes of what sparse and quantized constants hold: their masks and scales stay as they are, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from compressed_programs import program, saved
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from coremltools_palettes import part, squared_error, weights
from form_packages import ALL, GROUPS, source
from packages import (
    blob_users,
    constants,
    differences,
    normalised,
    read_spec,
    spec_file,
)

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError, Report, palettize_package
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import expression

SHAPE = (40, 64)
MODES = {"kmeans": {"nbits": 2}, "uniform": {"nbits": 3}, "unique": {}, "custom": {}}


def quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A lut_function; its argument is its own to change."""
    flat = np.array(values, np.float64).reshape(-1)
    values[...] = 0
    table = np.rint(np.quantile(flat, [0.1, 0.5, 0.9, 1.0]) * 64) / 64
    table = (np.rint(table) if values.dtype.kind == "i" else table).astype(values.dtype)
    return table, np.abs(flat[:, None] - table).argmin(axis=1).astype(np.uint8)


def joint(package: Path, written: Path | None, mode: str = "kmeans", **options: object) -> Report:
    """Palettized and verified. Options of ``palettize_package`` are ``target`` and ``strict``."""
    keywords = {
        name: options.pop(name) for name in ("target", "strict", "joint_compression", "dry_run") if name in options
    }
    own = {"lut_function": quantiles} if mode == "custom" else {}
    config = OptimizationConfig(OpPalettizerConfig(**(ALL | {"mode": mode} | MODES[mode] | own | options)))
    keywords = {"joint_compression": True} | keywords
    return palettize_package(package, written, config, select="all", verify=True, **keywords)


def built(make: Callable[[], Var], folder: Path, target: str = "iOS18") -> Path:
    """A package of the weight ``w`` alone."""
    return saved(program(lambda draw: make(), ct.target[target]), ct.target[target], folder)


def as_type(values: np.ndarray, name: str) -> np.ndarray:
    """Marked as MIL's type ``name``, as coremltools does."""
    return values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def lattice(shape: tuple[int, ...], dtype: type, levels: int = 40) -> np.ndarray:
    """Some distinct values, none of them zero, more of them small than large."""
    draw = np.random.default_rng(levels)
    choices = np.concatenate([-np.geomspace(0.01, 3, levels // 2), np.geomspace(0.02, 2, levels - levels // 2)])
    return draw.choice(choices, shape).astype(dtype)


def check_reported(before: Path, after: Path, report: Report) -> None:
    """The independent reader's error, and the digest of what is stored, are those reported."""
    dense = {(key[1], key[3]): decode for key, (_, decode) in constants(before).items()}
    found = {(key[0], key[2]): decode for key, (_, decode) in weights(after).found.items()}
    assert report.verified
    with Model.open(after) as model:
        stored = {(s.weight.function, s.weight.name): expression(s, model.store) for s in model.survey().sites}
    for weight in report.palettized:
        key = weight.function, weight.name
        assert squared_error(dense[key](), found[key]()) == pytest.approx(weight.squared_error, rel=1e-9, abs=1e-300)
        assert expression_digest(stored[key]) == weight.digest
        assert stored[key].nbytes == weight.bytes_after < weight.bytes_before


# Sparse


def masks() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    found = {f"{share:.0%} set": draw.random(SHAPE) < share for share in (0.1, 0.5, 0.9)}
    found["everything set"] = np.ones(SHAPE, bool)
    rows = draw.random(SHAPE) < 0.6
    rows[[0, 7, 39]] = False  # channels without any value
    rows[8:12] = False  # a group without any
    found["channels without any"] = rows
    columns = draw.random(SHAPE) < 0.6
    columns[:, 1:63] = False
    return found | {"columns without any": columns}


MASKS = masks()


def sparse(mask: np.ndarray, dtype: type = np.float16) -> Callable[[], Var]:
    def make() -> Var:
        values = lattice((int(mask.sum()),), dtype)
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=as_type(mask, "uint1"), name="w")

    return make


SPARSE = [
    *product(MASKS, ["kmeans"], [{}, GROUPS | {"nbits": 1}, GROUPS | {"channel_axis": 1, "nbits": 1}], [np.float16]),
    *product(["50% set", "channels without any"], ["uniform", "unique", "custom"], [{}, GROUPS], [np.float32]),
]


@pytest.mark.parametrize(("mask", "mode", "groups", "dtype"), SPARSE)
def test_sparse(mask: str, mode: str, groups: dict[str, object], dtype: type, tmp_path: Path) -> None:
    before = built(sparse(MASKS[mask], dtype), tmp_path)
    after = tmp_path / "after.mlpackage"
    report = joint(before, after, mode, **groups)
    if not report.palettized:
        (reason,) = {w.reason for w in report.skipped if w.name == "w"}
        assert reason.startswith("its palette would take")
        assert groups
        assert MASKS[mask].mean() < 0.2 or mode in ("unique", "custom")
        assert differences(before, after) == []
        return
    check_reported(before, after, report)
    ((op, decode),) = weights(after).found.values()
    assert part(op, decode.args[2], after, "indices_mask").tobytes() == MASKS[mask].astype(np.uint8).tobytes()
    assert not decode()[~MASKS[mask]].view(np.uint16).any(), "zeros stay zeros, to the bit"
    assert decode()[MASKS[mask]].all()
    (w,) = report.palettized
    assert (w.joint, w.lossless) == ("sparse", mode == "unique")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("options", [{}, {"lut_dtype": "int8"}, GROUPS | {"nbits": 1}, {"channel_axis": 1}])
def test_sparse_vectors(whole: bool, options: dict[str, object], tmp_path: Path) -> None:
    """Where vectors are left or pruned as a whole, zeros stay zeros; others get a palette, and are counted."""
    axis, draw = options.get("channel_axis", 0), np.random.default_rng(2)
    shape = tuple(size // 2 if i == axis else size for i, size in enumerate(SHAPE))
    mask = np.repeat(draw.random(shape) < 0.4, 2, axis=axis)
    if not whole:
        mask &= draw.random(SHAPE) < 0.7
    before, after = built(sparse(mask), tmp_path), tmp_path / "after.mlpackage"
    report = joint(before, after, cluster_dim=2, strict=True, **options)
    check_reported(before, after, report)
    ((op, decode),) = weights(after).found.values()
    vectors = np.logical_or.reduce([np.moveaxis(mask, axis, 0)[i::2] for i in range(2)])
    stored = part(op, decode.args[2], after, "indices_mask").astype(bool)
    assert np.array_equal(np.moveaxis(stored, axis, 0), vectors)
    kept = np.moveaxis(np.repeat(vectors, 2, axis=0), 0, axis)
    assert not decode()[~kept].view(np.uint16).any()
    (w,) = report.palettized
    assert (w.joint, w.cluster_dim) == ("sparse", 2)
    shared, pruned = int(kept.sum() - mask.sum()), int((~mask).sum())
    said = f"{shared:,} of {pruned:,} zeros share a vector with other values and are palettized with them"
    assert (said in w.notes) == (not whole)
    assert (shared == 0) == whole
    (dry,) = joint(before, None, cluster_dim=2, dry_run=True, **options).palettized
    assert dry.bytes_after is None


def test_nothing_left_is_left_alone(tmp_path: Path) -> None:
    before = built(sparse(np.zeros(SHAPE, bool)), tmp_path)
    report = joint(before, tmp_path / "after.mlpackage")
    assert [w.status for w in report.weights if w.name == "w"] == ["skipped"]
    assert differences(before, tmp_path / "after.mlpackage") == []


# Quantized


def quantized(data: str, blocks: tuple[int, int], offset: bool, dtype: type = np.float16) -> Callable[[], Var]:
    def make() -> Var:
        draw = np.random.default_rng(3)
        spread = 5 if data == "int4" else 60
        low, high = {"int4": (-8, 7), "int8": (-128, 127), "uint8": (0, 255)}[data]
        middle = (low + high + 1) // 2
        step = 1 if data == "int4" else 6
        values = np.clip(np.rint(draw.normal(middle, spread / 2, SHAPE) / step) * step, low, high)
        shift = {"offset": as_type(draw.integers(middle - 4, middle + 4, blocks), data)} if offset else {}
        scale = draw.uniform(0.001, 0.1, blocks).astype(dtype)
        return mb.constexpr_blockwise_shift_scale(data=as_type(values, data), scale=scale, name="w", **shift)

    return make


QUANTIZED = [
    *product(["int8", "uint8"], [(1, 1), (40, 1), (10, 8)], [True], ["iOS18", "iOS26"], ["kmeans"], [{}]),
    *product(["int8"], [(5, 4)], [True, False], ["iOS18", "iOS26"], ["kmeans"], [GROUPS]),
    *product(["uint8"], [(5, 4), (1, 64)], [True], ["iOS18", "iOS26"], ["uniform", "unique", "custom"], [{}]),
    *product(["int4"], [(1, 1), (20, 16)], [False], ["iOS18", "iOS26"], ["kmeans"], [{}, GROUPS | {"nbits": 1}]),
]


@pytest.mark.parametrize(("data", "blocks", "offset", "target", "mode", "groups"), QUANTIZED)
def test_quantized(
    data: str,
    blocks: tuple[int, int],
    offset: bool,
    target: str,
    mode: str,
    groups: dict[str, object],
    tmp_path: Path,
) -> None:
    before = built(quantized(data, blocks, offset, np.float32 if mode == "custom" else np.float16), tmp_path, target)
    after = tmp_path / "after.mlpackage"
    report = joint(before, after, mode, **groups)
    if not report.palettized:
        (reason,) = {w.reason for w in report.skipped if w.name == "w"}
        assert reason.startswith("its palette would take")
        assert (target, data) == ("iOS18", "int4") or groups or mode == "unique"
        assert differences(before, after) == []
        return
    check_reported(before, after, report)
    (old,), (new,) = weights(before).found.values(), weights(after).found.values()
    for name in ("scale", "offset")[: 1 + offset]:
        kept = [part(op, decode.args[2], path, name) for (op, decode), path in ((old, before), (new, after))]
        assert kept[0].tobytes() == kept[1].tobytes()
    assert new[0].type == f"constexpr_{'blockwise_shift_scale' if target == 'iOS26' else 'lut_to_dense'}"
    (w,) = report.palettized
    assert w.joint == "scaled"
    assert w.lossless == (mode == "unique")


@pytest.mark.parametrize("target", ["iOS18", "iOS26"])
def test_int4_with_offsets_is_left_alone(target: str, tmp_path: Path) -> None:
    """An offset has the type of the data, which no table can have."""
    before = built(quantized("int4", (10, 8), True), tmp_path, target)
    report = joint(before, tmp_path / "after.mlpackage")
    (reason,) = [w.reason for w in report.skipped if w.name == "w"]
    assert reason.startswith("already compressed (constexpr_blockwise_shift_scale)")
    assert differences(before, tmp_path / "after.mlpackage") == []


# Packages


@pytest.mark.parametrize("kind", ["sparse", "int8", "uint8 offset"])
def test_without_asking_for_it(kind: str, tmp_path: Path) -> None:
    report = joint(source(kind), tmp_path / "after.mlpackage", joint_compression=False)
    reasons = {w.reason for w in report.skipped if w.name.startswith("product")}
    (reason,) = {r for r in reasons if "already compressed" in r}
    assert reason.endswith("; joint_compression palettizes what is left of it")
    assert not report.palettized
    assert differences(source(kind), tmp_path / "after.mlpackage") == []


SENTENCE = (
    r"Joint compression is only supported since iOS18\. Please re-convert your model with "
    r"minimum_deployment_target set to at least ct\.target\.iOS18\."
)


@pytest.mark.parametrize("kind", ["sparse", "int8", "int8 offset"])
def test_before_ios18(kind: str, tmp_path: Path) -> None:
    """As coremltools says it; with a target the package moves first."""
    before = source(kind, "iOS16")
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2, **ALL))
    with pytest.raises(ValueError, match=SENTENCE):
        cto.palettize_weights(ct.models.MLModel(str(before), skip_model_load=True), config, joint_compression=True)
    with pytest.raises(PlanError, match=SENTENCE + r' Or pass target="iOS18"'):
        joint(before, tmp_path / "after.mlpackage")
    assert not (tmp_path / "after.mlpackage").exists()
    report = joint(before, tmp_path / "after.mlpackage", target="iOS18")
    assert len(report.palettized) == 4
    check_reported(before, tmp_path / "after.mlpackage", report)


def test_quantized_activations_stay(tmp_path: Path) -> None:
    """8-bit activations: quantize and dequantize around the ops."""

    @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=ct.target.iOS18)
    def main(x: Var) -> Var:
        def through_bytes(value: Var, name: str) -> Var:
            scale, zero = np.float32(0.05), np.int8(3)
            q = mb.quantize(input=value, scale=scale, zero_point=zero, output_dtype="int8", name=f"{name}_q")
            return mb.dequantize(input=q, scale=scale, zero_point=zero, name=f"{name}_dq")

        w = quantized("int8", (40, 1), False, np.float32)()
        y = mb.linear(x=through_bytes(x, "x"), weight=w, name="linear")
        return through_bytes(y, "y")

    before, after = saved(main, ct.target.iOS18, tmp_path), tmp_path / "after.mlpackage"
    report = joint(before, after)
    check_reported(before, after, report)
    changed = {line.partition(":")[0] for line in differences(before, after)}
    assert changed == {"op main//w", "op main//w_data_0_palettized", "order main/"}
    kept = [key for key in normalised(after) if "_q" in key or "_dq" in key]
    assert len(kept) >= 4
    assert [w.name for w in report.palettized] == ["w"]


def test_two_readers_and_nested_blocks(tmp_path: Path) -> None:
    """One of the weights is read inside a branch and outside of it, the other stands in the branch."""
    mask = MASKS["50% set"]

    @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=ct.target.iOS18)
    def main(x: Var) -> Var:
        outside = mb.constexpr_sparse_to_dense(
            nonzero_data=lattice((int(mask.sum()),), np.float32), mask=as_type(mask, "uint1"), name="outside"
        )

        def branch() -> Var:
            inner = quantized("int8", (10, 8), True, np.float32)()
            both = mb.add(x=mb.linear(x=x, weight=inner), y=mb.linear(x=x, weight=outside))
            return mb.identity(x=both)

        positive = mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=0.0)
        chosen = mb.cond(pred=positive, _true_fn=branch, _false_fn=lambda: mb.linear(x=x, weight=outside))
        return mb.add(x=chosen, y=mb.linear(x=x, weight=outside))

    before, after = saved(main, ct.target.iOS18, tmp_path), tmp_path / "after.mlpackage"
    report = joint(before, after, "kmeans", nbits=1)
    check_reported(before, after, report)
    assert {(w.name, w.joint, len(w.consumers)) for w in report.palettized} == {
        ("outside", "sparse", 3),
        ("w", "scaled", 1),
    }


def test_functions_that_share_their_records(tmp_path: Path) -> None:
    shared = ct.utils.MultiFunctionDescriptor()
    for name in ("one", "two"):
        shared.add_function(str(source("sparse")), "main", name)
    shared.default_function_name = "one"
    before, after = tmp_path / "before.mlpackage", tmp_path / "after.mlpackage"
    ct.utils.save_multifunction(shared, str(before))
    report = joint(before, after)
    check_reported(before, after, report)
    assert len(report.palettized) == 8
    users = [sorted({key[1] for key in keys}) for keys in blob_users(after).values()]
    assert users == [["one", "two"]] * len(users), "records are still shared"


def test_one_record_under_two_masks(tmp_path: Path) -> None:
    """The same values, put where each constant's own mask says."""
    first = MASKS["50% set"]
    second = first[::-1].copy()

    @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=ct.target.iOS18)
    def main(x: Var) -> Var:
        both = [
            mb.constexpr_sparse_to_dense(
                nonzero_data=lattice((int(first.sum()),), np.float32), mask=as_type(mask, "uint1"), name=name
            )
            for name, mask in (("a", first), ("b", second))
        ]
        return mb.add(x=mb.linear(x=x, weight=both[0]), y=mb.linear(x=x, weight=both[1]))

    before, after = saved(main, ct.target.iOS18, tmp_path), tmp_path / "after.mlpackage"
    spec = read_spec(before)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    values = [o.inputs["nonzero_data"].arguments[0].value for o in block.operations if o.type.startswith("constexpr")]
    values[1].blobFileValue.offset = values[0].blobFileValue.offset
    spec_file(before).write_bytes(spec.SerializeToString())
    for groups in ({}, GROUPS):
        report = joint(before, after, **groups)
        check_reported(before, after, report)
        assert {w.name for w in report.palettized} == {"a", "b"}
        for (_, _, name), (op, decode) in weights(after).found.items():
            mask = first if name == "a" else second
            assert np.array_equal(decode() != 0, mask)
            assert np.array_equal(part(op, decode.args[2], after, "indices_mask"), mask)
        after = tmp_path / "again.mlpackage"
