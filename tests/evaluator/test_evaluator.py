"""The core of the evaluator: blocks, states, functions, features, listeners, precision, errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from packages import read_spec, spec_file

torch = pytest.importorskip("torch")

from evaluator import evaluated, mb, opened, program_of, same, saved  # noqa: E402

from mil_palettize import ConfigError, EvaluationError, PackageError, UnsupportedOpError  # noqa: E402
from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.evaluator.program import OpInfo  # noqa: E402

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# Blocks


def test_cond() -> None:
    def build(pred: Any, x: Any) -> Any:
        return mb.cond(
            pred=mb.cast(x=mb.squeeze(x=pred), dtype="bool"),
            _true_fn=lambda: mb.add(x=x, y=1.0),
            _false_fn=lambda: mb.mul(x=x, y=3.0),
        )

    x = floats(2, 3)
    same(evaluated(build, np.array([1], np.int32), x), [x + 1])
    same(evaluated(build, np.array([0], np.int32), x), [x * 3])


def test_while_loop_with_outer_values_and_nested_cond() -> None:
    def build(count: Any, x: Any) -> Any:
        def body(i: Any, total: Any) -> Any:
            even = mb.equal(x=mb.mod(x=i, y=2), y=0)
            step = mb.cond(pred=even, _true_fn=lambda: mb.mul(x=x, y=2.0), _false_fn=lambda: mb.identity(x=x))
            return mb.add(x=i, y=1), mb.add(x=total, y=step)

        start = mb.sub(x=x, y=x)
        return mb.while_loop(
            _cond=lambda i, total: mb.less(x=i, y=mb.squeeze(x=count)), _body=body, loop_vars=(np.int32(0), start)
        )[1]

    x = floats(2, 3)
    for count, times in ((0, 0), (1, 2), (5, 8)):
        same(evaluated(build, np.array([count], np.int32), x), [x * times])


def test_lists_in_a_loop() -> None:
    def build(x: Any) -> Any:
        ls = mb.make_list(init_length=4, elem_shape=(3,), dynamic_length=False)

        def body(i: Any, items: Any) -> Any:
            row = mb.squeeze(x=mb.gather(x=x, indices=mb.expand_dims(x=i, axes=[0]), axis=0), axes=[0])
            return mb.add(x=i, y=1), mb.list_write(ls=items, index=i, value=mb.mul(x=row, y=2.0))

        _, items = mb.while_loop(_cond=lambda i, _: mb.less(x=i, y=4), _body=body, loop_vars=(np.int32(0), ls))
        return mb.list_gather(ls=items, indices=[3, 0]), mb.list_read(ls=items, index=1)

    x = floats(4, 3)
    same(evaluated(build, x, target=ct.target.iOS16), [x[[3, 0]] * 2, x[1] * 2])


def test_list_length_and_scatter() -> None:
    def build(x: Any) -> Any:
        ls = mb.make_list(init_length=3, elem_shape=(2,), dynamic_length=False)
        ls = mb.list_scatter(ls=ls, indices=[2, 0], value=x)
        return mb.list_gather(ls=ls, indices=[0, 1, 2]), mb.list_length(ls=ls)

    x = floats(2, 2)
    same(evaluated(build, x, target=ct.target.iOS16), [np.stack([x[1], np.zeros(2, np.float32), x[0]]), np.int32(3)])


def test_select() -> None:
    a, b = floats(2, 3), floats(2, 3)
    found = evaluated(lambda a, b: mb.select(cond=mb.greater(x=a, y=b), a=a, b=b), a, b)
    same(found, [np.maximum(a, b)])


# States and functions


def test_states_outlive_a_prediction(fixtures: Path) -> None:
    module = MILModule.from_package(fixtures / "stateful_ios18.mlpackage")
    inputs = {n: np.ones(tuple(f.type.multiArrayType.shape), np.float32) for n, f in module.features.inputs.items()}
    state = module.make_state()
    assert state
    first, second = module.predict(inputs, state), module.predict(inputs, state)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    again = module.predict(inputs, module.make_state())
    same(list(again.values()), list(first.values()))
    same(list(module.predict(inputs).values()), list(first.values()))


def test_functions(fixtures: Path) -> None:
    path = fixtures / "multifunction_ios18.mlpackage"
    spec = read_spec(path)
    names = sorted(spec.mlProgram.functions)
    assert len(names) > 1
    assert MILModule.from_package(path).function.name == spec.description.defaultFunctionName
    for name in names:
        assert MILModule.from_package(path, name).function.name == name
    with pytest.raises(ConfigError, match=r"has no function 'nothing'; it has \['"):
        MILModule.from_package(path, "nothing")


# Features


class Planes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0


@pytest.mark.parametrize("layout", ["RGB", "BGR", "GRAYSCALE"])
def test_image_inputs(layout: str) -> None:
    channels = 1 if layout == "GRAYSCALE" else 3
    shape = (1, channels, 4, 5)
    traced = torch.jit.trace(Planes(), torch.zeros(shape))
    image = ct.ImageType(
        name="image", shape=shape, scale=0.5, bias=[1.0] * channels, color_layout=getattr(ct.colorlayout, layout)
    )
    model = ct.convert(traced, inputs=[image], minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
    pixels = RNG.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    given = pixels[..., 0] if layout == "GRAYSCALE" else pixels
    (found,) = MILModule.from_package(model.package_path).predict({"image": given}).values()
    planes = given[None, None] if layout == "GRAYSCALE" else given.transpose(2, 0, 1)[None]
    planes = planes[:, ::-1] if layout == "BGR" else planes
    np.testing.assert_allclose(found, planes * np.float32(0.5) + 1, rtol=1e-3)


@pytest.mark.parametrize("layout", ["RGB", "BGR", "GRAYSCALE"])
def test_image_outputs(layout: str) -> None:
    channels = 1 if layout == "GRAYSCALE" else 3
    shape = (1, channels, 4, 5)
    traced = torch.jit.trace(Planes(), torch.zeros(shape))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=shape)],
        outputs=[ct.ImageType(name="y", color_layout=getattr(ct.colorlayout, layout))],
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    x = RNG.uniform(-20, 280, shape).astype(np.float32)
    found = MILModule.from_package(model.package_path).predict({"x": x})["y"]
    planes = np.rint(np.clip(x[0], 0, 255)).astype(np.uint8)
    wanted = planes[0] if layout == "GRAYSCALE" else (planes[::-1] if layout == "BGR" else planes).transpose(1, 2, 0)
    assert found.dtype == np.uint8
    assert np.array_equal(found, wanted)


def test_classifiers() -> None:
    traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1)), torch.zeros(1, 4))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=(1, 4))],
        classifier_config=ct.ClassifierConfig(["cat", "dog", "eel"]),
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    module = MILModule.from_package(model.package_path)
    found = module.predict({"x": floats(1, 4)})
    label, probabilities = found[module.features.label], found[module.features.probabilities]
    assert set(probabilities) == {"cat", "dog", "eel"}
    assert label == max(probabilities, key=probabilities.get)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)


def test_flexible_shapes(fixtures: Path) -> None:
    module = MILModule.from_package(fixtures / "flexible_ios16.mlpackage")
    (name, feature), *_ = module.features.inputs.items()
    array = feature.type.multiArrayType
    shape = list(array.shape)
    for axis, size in enumerate(array.shapeRange.sizeRanges):
        if size.lowerBound != size.upperBound:
            shape[axis] += 1
    assert shape != list(array.shape) or array.enumeratedShapes.shapes
    assert module.predict({name: np.zeros(shape, np.float32)})


# Listeners and precision


def test_listeners_see_every_op(tmp_path: Path) -> None:
    module = opened(lambda x: mb.relu(x=mb.add(x=x, y=1.0, name="sum"), name="y"), [((2, 3), np.float32)], tmp_path)
    seen: list[tuple[str, Any]] = []

    class Listener:
        def will_run(self, op: OpInfo, inputs: Any) -> None:
            seen.append((f"will {op.type} {op.name}", sorted(inputs)))

        def did_run(self, op: OpInfo, outputs: Any) -> None:
            seen.append((f"did {op.name}", [tuple(o.shape) for o in outputs]))

    with module.listening(Listener()):
        module.predict({"x0": floats(2, 3)})
    module.predict({"x0": floats(2, 3)})
    assert seen == [
        ("will add sum", ["x", "y"]),
        ("did sum", [(2, 3)]),
        ("will relu y", ["x"]),
        ("did y", [(2, 3)]),
    ]


def test_half_precision_rounds_every_result(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.cast(x=mb.mul(x=mb.cast(x=x, dtype="fp16"), y=np.float16(3)), dtype="fp32", name="y")

    path = saved(program_of(build, [((1000,), np.float32)]), tmp_path)
    x = floats(1000)
    (wide,) = MILModule.from_package(path).predict({"x0": x}).values()
    (half,) = MILModule.from_package(path, precision="fp16").predict({"x0": x}).values()
    assert np.array_equal(wide, x * np.float32(3))
    assert np.array_equal(half, (x.astype(np.float16) * np.float16(3)).astype(np.float32))
    with pytest.raises(ConfigError, match="precision is 'fp8'; use one of"):
        MILModule.from_package(path, precision="fp8")


def test_half_precision_rounds_inputs(tmp_path: Path) -> None:
    path = saved(program_of(lambda x: mb.sub(x=x, y=np.float16(1), name="y"), [((1,), np.float16)]), tmp_path)
    x = np.array([1.0003], np.float32)
    (half,) = MILModule.from_package(path, precision="fp16").predict({"x0": x}).values()
    assert half[0] == np.float16(1.0003) - np.float16(1) == 0


# Errors


def test_missing_ops_are_all_named_before_running(fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", path)
    spec = read_spec(path)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    renamed = [op for op in block.operations if op.type not in ("const",)]
    renamed[0].type, renamed[1].type, renamed[-1].type = "warp_core", "flux", "flux"
    spec_file(path).write_bytes(spec.SerializeToString())
    with pytest.raises(UnsupportedOpError, match=r"does not know: flux \(2x\), warp_core \(1x\)"):
        MILModule.from_package(path)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, r"input 'x0' is missing; the model takes \['x0'\]"),
        ({"x0": floats(2, 3), "z": floats(1)}, r"no input 'z'; it takes 'x0' \[2, 3\]"),
        ({"x0": floats(3, 2)}, r"input 'x0' has shape \[3, 2\]; the model takes \[2, 3\]"),
        ({"x0": floats(6)}, r"input 'x0' has shape \[6\]; the model takes \[2, 3\]"),
    ],
)
def test_wrong_inputs(inputs: dict[str, np.ndarray], told: str, tmp_path: Path) -> None:
    module = opened(lambda x: mb.relu(x=x, name="y"), [((2, 3), np.float32)], tmp_path)
    with pytest.raises(EvaluationError, match=told):
        module.predict(inputs)


@pytest.mark.parametrize("value", [0.9, np.nan, 2.0**40])
def test_integers_that_are_none(value: float, tmp_path: Path) -> None:
    module = opened(lambda x: mb.add(x=x, y=np.int32(1), name="y"), [((2,), np.int32)], tmp_path)
    assert module.predict({"x0": np.array([3.0, -1.0])})["y"].tolist() == [4, 0]
    with pytest.raises(EvaluationError, match="input 'x0' has values that int32 cannot hold"):
        module.predict({"x0": np.array([1.0, value])})


def test_outputs_are_the_callers_own(tmp_path: Path) -> None:
    module = opened(lambda x: mb.identity(x=x, name="y"), [((2, 3), np.float32)], tmp_path)
    x = floats(2, 3)
    assert not np.shares_memory(x, module.predict({"x0": x})["y"])


def test_errors_of_listeners_are_their_own(tmp_path: Path) -> None:
    module = opened(lambda x: mb.relu(x=x, name="y"), [((2, 3), np.float32)], tmp_path)

    class Listener:
        def will_run(self, op: OpInfo, inputs: Any) -> None:
            raise KeyError("mine")

        def did_run(self, op: OpInfo, outputs: Any) -> None: ...

    with pytest.raises(KeyError, match="mine"), module.listening(Listener()):
        module.predict({"x0": floats(2, 3)})


def test_an_op_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = opened(lambda x: mb.relu(x=x, name="y"), [((2, 3), np.float32)], tmp_path)

    def fail(**inputs: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(module.function.block.steps[0], "call", fail)
    with pytest.raises(
        EvaluationError,
        match=r"op 'y' \(relu\) cannot be run: RuntimeError: no such thing; its inputs are x float32\[2, 3\]",
    ):
        module.predict({"x0": floats(2, 3)})


def test_programs_that_are_none(fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", path)
    spec = read_spec(path)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    last = block.operations[-1]
    next(iter(last.inputs.values())).arguments[0].name = "nowhere"
    spec_file(path).write_bytes(spec.SerializeToString())
    with pytest.raises(PackageError, match="reads 'nowhere', which nothing before it makes"):
        MILModule.from_package(path)
