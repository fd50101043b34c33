"""Every form that coremltools writes as well, held against its own package: the same ops, types and shapes, and a
squared error that is not above its own. What differs stands in one table, whose rows have to be needed."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools_palettes import Palettes, described, part, sound_unique, squared_error, weights
from form_packages import ALL, GROUPS, Form
from handmade import contents
from packages import constants
from slow_cases import slow_where
from threadpoolctl import threadpool_limits

from mil_palettize import Report

# coremltools' k-means, of fewer values than entries.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SLACK = 1e-6
BITS = {"kmeans": {"nbits": 4}, "uniform": {"nbits": 4}, "unique": {}}
REFUSALS = (NotImplementedError, ValueError)
BYTES = {"int8": "linear_symmetric", "uint8": "linear"}
FLOATS = ("fp16", "fp32")
TYPED = ("iOS18", "iOS26")


def form(mode: str = "kmeans", kind: str = "dense", target: str = "iOS18", dtype: str = "fp16", **more: object) -> Form:
    return Form({"mode": mode, **BITS[mode], **more}, kind, target, dtype, levels=20 if mode == "unique" else 0)


def grouped(axis: int | None = None, **more: object) -> dict[str, object]:
    return GROUPS | {"channel_axis": axis} | more


TENSORS = {
    **{f"{m} {d} {t}": form(m, target=t, dtype=d) for m, d, t in product(BITS, FLOATS, ("iOS16", "iOS18"))},
    **{f"kmeans {t}": form(target=t) for t in ("iOS17", "iOS26")},
    "three bits": form(nbits=3),
    **{f"groups {d} along {a}": form(dtype=d, **grouped(a)) for d, a in product(FLOATS, (None, 0, 1))},
    **{f"groups {m} along {a}": form(m, **grouped(a)) for m, a in product(("uniform", "unique"), (None, 1))},
    "groups iOS26": form(target="iOS26", dtype="fp32", **grouped(nbits=2)),
    "groups along -1": form(**grouped(-1)),
    **{f"vectors of {n} {d}": form(dtype=d, cluster_dim=n) for n, d in product((2, 4), FLOATS)},
    **{f"vectors of {n} in groups": form(cluster_dim=n, **grouped(group_size=8)) for n in (2, 4)},
    "vectors iOS26": form(target="iOS26", cluster_dim=2),
    "vectors, scaled iOS26": form(target="iOS26", cluster_dim=2, enable_per_channel_scale=True),
    "scaled": form(enable_per_channel_scale=True),
    "scaled groups": form(enable_per_channel_scale=True, **grouped()),
    "scaled iOS26": form(target="iOS26", enable_per_channel_scale=True),
}
JOINT = {
    **{f"sparse {m}": form(m, "sparse") for m in BITS},
    **{f"sparse {m} groups": form(m, "sparse", **grouped()) for m in BITS},
    "sparse groups along 1": form("kmeans", "sparse", "iOS26", "fp32", **grouped(1)),
    **{kind: form(kind=kind) for kind in ("dense mask", "few left", "nothing left")},
    **{f"{k} {t}": form(kind=k, target=t) for k, t in product(("int8", "int8 offset", "uint8 offset"), TYPED)},
    **{f"{k} groups {t}": form(kind=k, target=t, **grouped()) for k, t in product(("int8", "uint8 offset"), TYPED)},
    **{f"int8 tensor {m}": form(m, "int8 tensor") for m in BITS},
    **{f"{k} {d}": form(kind=k, dtype=d, nbits=1) for k, d in product(("int8 blocks", "uint8 blocks"), FLOATS)},
    **{f"int4 {t}": form(kind="int4", target=t, nbits=2) for t in TYPED},
}
TABLES = {
    **{f"{b} {m} table": form(m, lut_dtype=b) for b, m in product(BYTES, ("kmeans", "uniform"))},
    **{f"{b} table fp32": form(dtype="fp32", lut_dtype=b, nbits=8) for b in BYTES},
    **{f"{b} tables along {a}": form(lut_dtype=b, **grouped(a)) for b, a in product(BYTES, (None, 1))},
    **{f"{b} table of vectors": form(lut_dtype=b, cluster_dim=2) for b in BYTES},
    **{f"sparse {b} table": form(kind="sparse", lut_dtype=b) for b in BYTES},
    "int8 table of few": form(lut_dtype="int8", nbits=3),
    "int8 table iOS26": form(target="iOS26", lut_dtype="int8"),
}
CASES = TENSORS | JOINT | TABLES


class Known(NamedTuple):
    """``found``: which differences; ``most``: how many times their error ours may be."""

    found: set[str]
    why: str
    most: float = 1.0


LUCK = Known(
    {"error"}, "entries at equal distances, theirs summed in the weight's own precision or cut to whole ones", 1.03
)
SCALED = Known(
    {"ops", "error"},
    "coremltools scales each position within a channel, not each channel (pull request 2777), and repeats the table "
    "for every scale (canonicalize_quantized_lut_pattern)",
    1.2,
)
SCALES = Known({"ops"}, "coremltools scales the tables of all groups by one number, not each by its own")
ZERO = Known({"ops"}, "coremltools counts zero among the values, which a sparse weight does not store")
NEGATIVE = Known({"refused"}, "coremltools takes a negative channel_axis for blocks along several axes")
INT4 = Known({"refused"}, "coremltools makes an int4 table, which constexpr_lut_to_dense cannot have; ours is int8")
KNOWN = {
    **dict.fromkeys((f"uniform fp16 {t}" for t in ("iOS16", "iOS18")), LUCK),
    **dict.fromkeys((f"groups uniform along {a}" for a in (None, 1)), LUCK),
    **dict.fromkeys(("sparse uniform", "sparse uniform groups", "int8 tensor uniform"), LUCK),
    "int8 uniform table": LUCK,
    **dict.fromkeys((f"{b} tables along {a}" for b, a in product(BYTES, (None, 1))), SCALES),
    **dict.fromkeys(("scaled", "scaled groups", "scaled iOS26"), SCALED),
    "vectors, scaled iOS26": Known({"ops"}, SCALED.why),
    **dict.fromkeys(("sparse unique", "sparse unique groups"), ZERO),
    "groups along -1": NEGATIVE,
    **dict.fromkeys((f"int4 {t}" for t in TYPED), INT4),
    "nothing left": Known({"left"}, "coremltools does not ask whether a palette is smaller than what it is of"),
    "int8 table of few": Known({"ops"}, "coremltools quantizes no table of fewer than ten entries"),
    "int8 table iOS26": Known({"refused"}, "coremltools 9 swaps table and scale for iOS26 with a scale of rank 2"),
}


def theirs(asked: Form, package: Path) -> None:
    """coremltools' package of the same request; tables are quantized in a second step."""
    options = {**ALL, **asked.options}
    lut_dtype = options.pop("lut_dtype", None)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(np, "unique", partial(sound_unique, np.unique))
        model = ct.models.MLModel(str(asked.source()), skip_model_load=True)
        config = cto.OptimizationConfig(cto.OpPalettizerConfig(**options))
        model = cto.palettize_weights(model, config, joint_compression=asked.joint)
    if lut_dtype is not None:
        quantizer = cto.OpLinearQuantizerConfig(
            mode=BYTES[lut_dtype], dtype=lut_dtype, granularity="per_tensor", weight_threshold=1
        )
        model = cto.linear_quantize_weights(model, cto.OptimizationConfig(quantizer), joint_compression=True)
    model.save(str(package))


def differences(asked: Form, report: Report, mine: Palettes, other: Palettes) -> dict[str, object]:
    """Weights we "left" alone and those of other "ops" and with a larger "error" than theirs."""
    before = {key[1:]: decode for key, (_, decode) in constants(asked.source()).items()}
    left = {w.name for w in report.skipped if w.reason.startswith("its palette would take")}
    found: dict[str, object] = {"left": left} if left else {}
    assert mine.found.keys() | left == other.found.keys() | left
    for key in mine.found.keys() & other.found.keys():
        if key[2] in left:
            continue
        (op, decode), (their_op, their_decode) = mine.found[key], other.found[key]
        if described(op, mine.package, decode.args[2]) != described(their_op, other.package, their_decode.args[2]):
            found.setdefault("ops", set()).add(key[2])
        error, their_error = (squared_error(before[key](), call()) for call in (decode, their_decode))
        if error > their_error * (1 + SLACK):
            found.setdefault("error", {})[key[2]] = error / their_error if their_error else error
    return found


def repeats(case: str) -> bool:
    """Another dtype or kind of bytes, of a form that is tried by default as well."""
    return "fp32" in case or (case.startswith("uint8") and case in TABLES and case != "uint8 kmeans table")


@pytest.mark.parametrize("case", slow_where(repeats, CASES))
def test_same_ops_and_no_larger_error(case: str, tmp_path: Path) -> None:
    """Also that each known difference is still there: it goes out of the table when coremltools mends it."""
    asked, known = CASES[case], KNOWN.get(case, Known(set(), ""))
    report = asked.palettize(tmp_path / "ours.mlpackage")
    mine = weights(tmp_path / "ours.mlpackage")
    assert len(report.palettized) + ("left" in known.found) * 4 == 4
    assert {w.name for w in report.palettized} <= {name for _, _, name in mine.found}
    try:
        theirs(asked, tmp_path / "theirs.mlpackage")
    except REFUSALS as error:
        found: dict[str, object] = {"refused": error}
    else:
        found = differences(asked, report, mine, weights(tmp_path / "theirs.mlpackage"))
    assert found.keys() == known.found, found
    assert all(ratio <= known.most for ratio in found.get("error", {}).values()), found


def test_known_differences_are_of_cases() -> None:
    assert KNOWN.keys() <= CASES.keys()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("negative", "axis"), [(-1, 1), (-2, 0)])
@pytest.mark.parametrize("options", [{}, {"cluster_dim": 2}, {"lut_dtype": "uint8"}])
def test_negative_axes_count_from_the_end(
    options: dict[str, object], negative: int, axis: int, dtype: str, tmp_path: Path
) -> None:
    """Which coremltools refuses."""
    paths = {channel_axis: tmp_path / f"{channel_axis}.mlpackage" for channel_axis in (negative, axis)}
    for channel_axis, path in paths.items():
        (made,) = form(dtype=dtype, **grouped(channel_axis, **options)).palettize(path, short=True).palettized
        assert (made.channel_axis, made.group_size) == (axis, 4)
    assert contents(paths[negative]) == contents(paths[axis])


# coremltools goes on from our packages


@pytest.mark.parametrize("options", [{"nbits": 4}, {"nbits": 3} | GROUPS], ids=["tensor", "groups"])
def test_pruned_afterwards(options: dict[str, object], tmp_path: Path) -> None:
    """By coremltools: what it keeps has our values."""
    Form(options).palettize(tmp_path / "ours.mlpackage")
    config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.6, **ALL))
    model = ct.models.MLModel(str(tmp_path / "ours.mlpackage"), skip_model_load=True)
    cto.prune_weights(model, config, joint_compression=True).save(str(tmp_path / "pruned.mlpackage"))
    ours, pruned = weights(tmp_path / "ours.mlpackage"), weights(tmp_path / "pruned.mlpackage")
    assert len(pruned.found) == 4
    for (function, place, name), (op, decode) in pruned.found.items():
        dense = name.removesuffix("_sparsified").removesuffix("_palettized")
        before, after = ours.found[function, place, dense][1](), decode()
        assert op.type == "constexpr_sparse_to_dense"
        kept = after != 0
        assert 0.3 < kept.mean() < 0.5
        assert np.array_equal(after[kept], before[kept])
        assert np.abs(before[~kept]).max() <= np.abs(before[kept]).min()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("options", [{"nbits": 4}, {"nbits": 4} | GROUPS], ids=["tensor", "groups"])
def test_quantized_afterwards(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    """By coremltools: its tables are ours, rounded to its scales."""
    Form(options, kind).palettize(tmp_path / "ours.mlpackage")
    quantizer = cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_tensor", weight_threshold=1)
    model = ct.models.MLModel(str(tmp_path / "ours.mlpackage"), skip_model_load=True)
    made = cto.linear_quantize_weights(model, cto.OptimizationConfig(quantizer), joint_compression=True)
    made.save(str(tmp_path / "quantized.mlpackage"))
    ours, after = weights(tmp_path / "ours.mlpackage"), weights(tmp_path / "quantized.mlpackage")
    assert ours.found.keys() == after.found.keys()
    for key, (op, decode) in after.found.items():
        scale = part(op, decode.args[2], after.package, "scale").astype(np.float64)
        before, now = (call().astype(np.float64) for call in (ours.found[key][1], decode))
        assert np.abs(before - now).max() <= scale.max() * 0.6  # half of it, and the rounding of fp16
        assert len(np.unique(now)) > 2
    assert contents(tmp_path / "ours.mlpackage").keys() == contents(tmp_path / "quantized.mlpackage").keys()
