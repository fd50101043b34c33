"""Constants of fewer than ten elements, which the program itself holds: every door palettizes them."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types
from packages import constants

from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package, palettize_weights, pass_pipeline

WEIGHT = np.array([[1, -2, 1, 3], [0.5, 3, -2, 1]], np.float32)


def program(target: ct.target, sparse: bool = False) -> Program:
    """Two branches whose weights are called the same and are not, and one outside."""

    def small(values: np.ndarray, name: str):
        if not sparse:
            return mb.const(val=values, name=name)
        mask = (values != 0.5).astype(types.nptype_from_builtin(types.string_to_builtin("uint1")))
        return mb.constexpr_sparse_to_dense(nonzero_data=values[values != 0.5], mask=mask, name=name)

    @mb.program(input_specs=[mb.TensorSpec((1, 4)), mb.TensorSpec((1,), dtype=types.bool)], opset_version=target)
    def made(x, flag):
        x = mb.linear(x=x, weight=small(np.concatenate([WEIGHT, WEIGHT + 4]), "w"), name="first")

        def branch(values: np.ndarray):
            return lambda: mb.linear(x=x, weight=small(values, "in_branch"), name="second")

        return mb.cond(pred=mb.squeeze(x=flag), _true_fn=branch(WEIGHT), _false_fn=branch(-2 * WEIGHT), name="y")

    return made


def config(names: tuple[str, ...] = ("first", "second")) -> OptimizationConfig:
    """Each is named: of other constants of this size none is a weight."""
    asked = OpPalettizerConfig(mode="kmeans", nbits=1, weight_threshold=0)
    return OptimizationConfig(op_name_configs=dict.fromkeys(names, asked))


def converted(target: ct.target, pipeline: ct.PassPipeline, sparse: bool) -> ct.models.MLModel:
    return ct.convert(
        program(target, sparse), minimum_deployment_target=target, compute_precision=ct.precision.FLOAT32,
        pass_pipeline=pipeline, skip_model_load=True,
    )  # fmt: skip


def decoded(package: Path) -> list[bytes]:
    last = ("constexpr_lut_to_dense", "constexpr_sparse_to_dense")
    return sorted(decode().tobytes() for op, decode in constants(package).values() if op.type in last)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("sparse", [False, True])
def test_all_doors_palettize_them(target: str, sparse: bool, tmp_path: Path) -> None:
    if sparse and target == "iOS16":
        pytest.skip("joint compression begins with iOS18")
    goal = ct.target[target]
    dense = converted(goal, ct.PassPipeline.EMPTY, sparse)
    paths = [tmp_path / f"{name}.mlpackage" for name in ("dense", "package", "model", "pass")]
    dense.save(str(paths[0]))
    report = palettize_package(paths[0], paths[1], config(), joint_compression=sparse, verify=True)
    assert [weight.shape for weight in report.palettized] == [(4, 4), (2, 4), (2, 4)]
    palettize_weights(dense, config(), sparse).save(str(paths[2]))
    pipeline = pass_pipeline(config(), ct.PassPipeline.EMPTY, joint_compression=sparse)
    converted(goal, pipeline, sparse).save(str(paths[3]))
    package, model, in_conversion = (decoded(path) for path in paths[1:])
    assert len(package) == 3
    assert package == model == in_conversion
