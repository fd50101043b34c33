"""Every form that coremltools writes as well, held against its own package: the same ops, types and shapes, and a
squared error that is not above its own. What differs stands in one table, whose rows have to be needed."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools_palettes import Palettes, described, sound_unique, squared_error, weights
from form_packages import ALL, GROUPS, Form
from packages import constants
from threadpoolctl import threadpool_limits

SLACK = 1e-6
TYPED = ("iOS18", "iOS26")
MODES: dict[str, dict[str, object]] = {"kmeans": {"nbits": 3}, "uniform": {"nbits": 4}, "unique": {}}
AXES = (None, 0, 1, -1, -2)
BYTES = {"int8": "linear_symmetric", "uint8": "linear"}


def form(mode: str = "kmeans", kind: str = "dense", target: str = "iOS18", dtype: str = "fp16", **more: object) -> Form:
    return Form(
        {"mode": mode, **MODES[mode], **more}, kind, target, dtype, levels=20 if mode == "unique" else 0
    )


def grouped(axis: int | None = None, **more: object) -> dict[str, object]:
    return GROUPS | {"channel_axis": axis} | more


CASES: dict[str, Form] = {
    **{
        f"{mode} {dtype} {target}": form(mode, target=target, dtype=dtype)
        for mode, dtype, target in product(MODES, ("fp16", "fp32"), ("iOS16", "iOS17", *TYPED))
    },
    **{
        f"grouped {dtype} {target} along {axis}": form(target=target, dtype=dtype, **grouped(axis))
        for dtype, target, axis in product(("fp16", "fp32"), TYPED, AXES)
    },
    **{
        f"grouped {mode} along {axis}": form(mode, **grouped(axis))
        for mode, axis in product(("uniform", "unique"), AXES[:3])
    },
    **{
        f"vectors of {dim} {dtype}": form(dtype=dtype, cluster_dim=dim)
        for dim, dtype in product((2, 4), ("fp16", "fp32"))
    },
    **{
        f"vectors of {dim} grouped along {axis}": form(cluster_dim=dim, **grouped(axis, group_size=8))
        for dim, axis in product((2, 4), (None, -1))
    },
    "vectors of 2 iOS26": form(target="iOS26", cluster_dim=2),
    **{
        f"{kind} {mode}{' grouped' * bool(groups)}": form(mode, kind, **groups)
        for kind, mode, groups in product(("sparse", "few left"), MODES, ({}, grouped()))
    },
    "sparse fp32 iOS26 along -1": form(kind="sparse", target="iOS26", dtype="fp32", **grouped(-1)),
    "nothing left": form(kind="nothing left"),
    **{
        f"{kind} {target}{' grouped' * bool(groups)}": form(kind=kind, target=target, **groups)
        for kind, target, groups in product(("int8", "uint8 offset", "int8 offset"), TYPED, ({}, grouped()))
    },
    **{
        f"{kind} {mode}": form(mode, kind)
        for kind, mode in product(("int8 tensor", "int8 blocks", "uint8 blocks"), ("kmeans", "uniform", "unique"))
    },
    "int8 fp32": form(kind="int8", dtype="fp32"),
    "int4 iOS18": form(kind="int4"),
    "int4 blocks iOS26": form(kind="int4 blocks", target="iOS26"),
    **{
        f"{lut_dtype} table {mode} {dtype}": form(mode, dtype=dtype, lut_dtype=lut_dtype)
        for lut_dtype, mode, dtype in product(BYTES, ("kmeans", "uniform"), ("fp16", "fp32"))
    },
    **{f"{name} tables along {axis}": form(lut_dtype=name, **grouped(axis)) for name, axis in product(BYTES, (None, -1))},
    **{f"{name} table of vectors": form(lut_dtype=name, cluster_dim=2) for name in BYTES},
    **{f"sparse {name} table": form(kind="sparse", lut_dtype=name) for name in BYTES},
    "int8 table iOS26": form(target="iOS26", lut_dtype="int8"),
    "scaled": form(enable_per_channel_scale=True),
    "scaled grouped": form(enable_per_channel_scale=True, **grouped()),
    "scaled iOS26": form(target="iOS26", enable_per_channel_scale=True),
}
KNOWN: dict[str, tuple[set[str], str]] = {}


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


def differences(asked: Form, mine: Palettes, other: Palettes) -> dict[str, object]:
    """"weights" that only one of both compressed, and those of other "ops" and with a larger "error" than theirs."""
    found: dict[str, object] = {}
    if mine.found.keys() ^ other.found.keys():
        found["weights"] = mine.found.keys() ^ other.found.keys()
    before = {key[1:]: decode for key, (_, decode) in constants(asked.source()).items()}
    for key in mine.found.keys() & other.found.keys():
        (op, decode), (their_op, their_decode) = mine.found[key], other.found[key]
        if described(op, mine.package, decode.args[2]) != described(their_op, other.package, their_decode.args[2]):
            found.setdefault("ops", set()).add(key[2])
        error, their_error = (squared_error(before[key](), call()) for call in (decode, their_decode))
        if error > their_error * (1 + SLACK):
            found.setdefault("error", {})[key[2]] = error / their_error if their_error else error
    return found


@pytest.mark.parametrize("case", CASES)
def test_same_ops_and_no_larger_error(case: str, tmp_path: Path) -> None:
    asked, (known, _) = CASES[case], KNOWN.get(case, (set(), ""))
    report = asked.palettize(tmp_path / "ours.mlpackage")
    mine = weights(tmp_path / "ours.mlpackage")
    assert {w.name for w in report.palettized} == {name for _, _, name in mine.found}
    try:
        theirs(asked, tmp_path / "theirs.mlpackage")
    except Exception as error:
        found: dict[str, object] = {"refused": error}
    else:
        found = differences(asked, mine, weights(tmp_path / "theirs.mlpackage"))
    assert found.keys() == known, found


def test_known_differences_are_of_cases() -> None:
    assert KNOWN.keys() <= CASES.keys()
