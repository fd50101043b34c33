"""Programs that no converter writes: whatever an op, a constant or a state cannot do is one line that names it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, kind, op, value, write_package

torch = pytest.importorskip("torch")

from evaluator import evaluated, mb  # noqa: E402

from mil_palettize import EvaluationError, PackageError, PalettizeError  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.evaluator import memory  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.evaluator.ops import control_flow  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402

LEAST = -(2**31)
X = [("x", (1, 4))]
HUGE = 2**30


def package(folder: Path, *ops: MIL.Operation, outputs: Sequence[str] = ("y",), state: Sequence[int] = ()) -> Path:
    """Of one function that takes ``x`` [1, 4], and a state ``s`` of a shape where that is given."""
    made = function({"CoreML8": block(*ops, outputs=outputs)}, X)
    if state:
        held = MIL.ValueType()
        held.stateType.wrappedType.CopyFrom(kind(state))
        made.inputs.add(name="s", type=held)
    return write_package(folder / "p.mlpackage", MIL.Program(version=1, functions={"main": made}))


def refusal(error: type[PalettizeError], path: Path) -> str:
    """What the only line says of running a package."""
    with pytest.raises(error) as caught:
        run_package(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Integers


@pytest.mark.parametrize("name", ["real_div", "floor_div", "mod"])
def test_integers_divided_by_minus_one_and_zero(name: str) -> None:
    """The processor has no quotient of the least integer and -1, and ends the process that asks."""
    x = np.array([LEAST, 7, -7, LEAST, 5, LEAST], np.int32)
    y = np.array([-1, -1, -1, 1, 0, 3], np.int32)
    (found,) = evaluated(lambda x, y: getattr(mb, name)(x=x, y=y), x, y)
    quotients = [LEAST, -7, 7, LEAST, 0, -715827882 if name == "real_div" else -715827883]
    assert found.tolist() == (quotients if name != "mod" else [0, 0, 0, 0, 0, 1])


def test_scattered_integers_divided_by_minus_one() -> None:
    data, indices, updates = np.array([LEAST, 9], np.int32), np.array([0, 1], np.int32), np.array([-1, 2], np.int32)
    (found,) = evaluated(lambda d, i, u: mb.scatter(data=d, indices=i, updates=u, mode="div"), data, indices, updates)
    assert found.tolist() == [LEAST, 4]


# Memory


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (op("fill", "y", {"shape": value([HUGE, HUGE]), "value": value(1.0)}), r"'y' \(fill\).*shape \[1073741824"),
        (op("tile", "y", {"x": "x", "reps": value([HUGE, HUGE])}), r"'y' \(tile\).*x float32\[1, 4\]"),
        (op("pad", "y", {"x": "x", "pad": value([0, HUGE, 0, HUGE])}), r"'y' \(pad\).*float32\[1, 4\]"),
        (
            op("range_1d", "y", {"end": value(1e4), "start": value(0.0), "step": value(6e-8)}),
            r"'y' \(range_1d\).*end 10000",
        ),
        (op("random_normal", "y", {"shape": value([HUGE, HUGE])}), r"'y' \(random_normal\)"),
        (
            op("upsample_nearest_neighbor", "y", {"x": "x", "scale_factor_height": value([HUGE]),
                                                  "scale_factor_width": value([HUGE])}),
            r"'y' \(upsample_nearest_neighbor\)",
        ),
    ],
    ids=lambda item: item.type if isinstance(item, MIL.Operation) else "",
)  # fmt: skip
def test_ops_that_ask_for_more_than_there_is(made: MIL.Operation, told: str, tmp_path: Path) -> None:
    message = refusal(EvaluationError, package(tmp_path, made))
    assert "more than 50% of the" in message
    assert re.search(told, message), message


def test_broadcast_and_products_that_ask_for_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what they would give, not by what they get: the inputs are a few kilobytes."""
    monkeypatch.setattr(memory, "_ALWAYS", 1 << 10)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 16)
    column, row = np.ones((200, 1), np.float16), np.ones((1, 200), np.float16)
    for number, name in enumerate(("add", "matmul")):
        made = op(name, "y", {"x": "a", "y": "b"})
        folder = tmp_path / str(number)
        path = package(folder, const("a", column), const("b", row), made)
        told = refusal(EvaluationError, path)
        assert f"op 'y' ({name}) cannot be run: MemoryError: 160 kB are asked for, more than 50% of the 65.5 kB" in told
        assert "x float32[200, 1]" in told  # in any order: the program has none
        assert "y float32[1, 200]" in told


@pytest.mark.parametrize("shape", [(HUGE, HUGE), (2**62,)])
def test_states_that_no_machine_holds(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = package(tmp_path, op("read_state", "y", {"input": "s"}), state=shape)
    told = refusal(EvaluationError, path)
    assert f"state 's' of shape {list(shape)} cannot be made" in told


def test_constants_are_counted_together(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = open_model(fixtures / "conv_fp16_ios18.mlpackage")
    assert isinstance(module, MILModule)
    monkeypatch.setattr(memory, "_ALWAYS", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 10)
    with pytest.raises(EvaluationError, match=r"the constants of .*conv_fp16_ios18.mlpackage are too large"):
        module.state_dict()


def test_what_is_small_is_never_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: pytest.fail("was asked"))
    memory.claim((1 << 12, 1 << 12), torch.float32)


def test_free_memory_is_some() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.free_bytes() <= pages


# Programs that do not fit together


def nothing(*outputs: str) -> MIL.Block:
    return block(outputs=outputs)


def taking(*outputs: str, operations: Sequence[MIL.Operation] = ()) -> MIL.Block:
    return block(*operations, inputs=[("a", (1, 4))], outputs=outputs)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (op("matmul", "y", {"x": "x", "y": "x"}), "op 'y' (matmul) cannot be run: RuntimeError"),
        (op("reshape", "y", {"x": "x", "shape": value([3])}), "op 'y' (reshape) cannot be run: RuntimeError"),
        (op("identity", "y", {"x": "x"}, outputs=[("y", (1,)), ("z", (1,))]), "has 1 output, the program declares 2"),
        (op("identity", "y", {"x": "x"}, blocks=[nothing()]), "op 'y' (identity) cannot be run: TypeError"),
        (op("cond", "y", {"pred": value(False)}, blocks=[nothing()]), "op 'y' (cond) cannot be run: ValueError"),
        (op("cond", "y", {"pred": value(True)}, blocks=[nothing(), nothing()]), "has 0 outputs, the program declares"),
        (op("while_loop", "y", {"loop_vars": "x"}, blocks=[nothing()]), "op 'y' (while_loop) cannot be run"),
        (op("while_loop", "y", {"loop_vars": "x"}, blocks=[taking(), taking("a")]), "(while_loop) cannot be run"),
        (op("while_loop", "y", {"loop_vars": "x"}, blocks=[taking("a"), taking("a")]), "more than one value is ambig"),
        (
            op("while_loop", "y", {"loop_vars": "x"},
               blocks=[taking("k", operations=[const("k", True)]),
                       taking("a", "a")]),
            "a block of it takes 1 values and gets 2",
        ),
    ],
)  # fmt: skip
def test_ops_that_cannot_be_run(made: MIL.Operation, told: str, tmp_path: Path) -> None:
    message = refusal(EvaluationError, package(tmp_path, made))
    assert told in message
    if "cannot be run" in told:
        assert "its inputs are" in message


def test_loops_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_flow, "MOST_ROUNDS", 100)
    forever = [taking("k", operations=[const("k", True)]), taking("a")]
    path = package(tmp_path, op("while_loop", "y", {"loop_vars": "x"}, blocks=forever))
    assert "the loop has not ended after 100 rounds" in refusal(EvaluationError, path)


def test_outputs_of_more_axes_than_arrays_have(tmp_path: Path) -> None:
    path = package(tmp_path, op("reshape", "y", {"x": "x", "shape": value([1] * 69 + [4])}))
    assert "output 'y' of shape [1, 1," in refusal(EvaluationError, path)


def test_outputs_that_are_no_tensors(tmp_path: Path) -> None:
    path = package(tmp_path, op("identity", "y", {"x": "s"}), state=(2,))
    assert "output 'y' is a State, which no model gives" in refusal(EvaluationError, path)


def test_the_errors_of_a_listener_are_its_own(tmp_path: Path) -> None:
    """Also inside of an op with blocks, which fails only because of it."""

    class Stopped(Exception):
        pass

    class Listener:
        def will_run(self, op: object, inputs: object) -> None:
            if op.type == "identity":  # type: ignore[attr-defined]
                raise Stopped

        def did_run(self, op: object, outputs: object) -> None: ...

    inner = block(op("identity", "a", {"x": "x"}), outputs=["a"])
    module = open_model(package(tmp_path, op("cond", "y", {"pred": value(True)}, blocks=[inner, inner])))
    with module.listening(Listener()), pytest.raises(Stopped):
        module.predict({"x": np.zeros((1, 4))})


# Constants


def palette(shape: Sequence[int], data: bytes) -> MIL.Operation:
    indices = MIL.Value(type=kind(shape, "UINT4"))
    indices.immediateValue.tensor.bytes.values = data
    made = op("constexpr_lut_to_dense", "w", {"indices": indices, "lut": value(np.zeros((1, 16, 1), np.float16))})
    made.outputs[0].type.CopyFrom(kind(shape))
    return made


@pytest.mark.parametrize("count", [64, 2**40])
def test_palettes_whose_indices_are_not_there(count: int, tmp_path: Path) -> None:
    path = package(tmp_path, palette((count,), b"12"), op("add", "y", {"x": "x", "y": "w"}))
    with pytest.raises(
        PalettizeError, match=r"constant 'w' \(constexpr_lut_to_dense\) cannot|constants of .* too large"
    ):
        run_package(path)


def test_constants_made_of_constants_without_an_end(tmp_path: Path) -> None:
    """One that reads another twice, which reads another twice, …: 2^n steps where nothing is kept."""
    chain = [const("w0", np.zeros((1, 4), np.float16))]
    for number in range(60):
        below, name = f"w{number}", f"w{number + 1}"
        chain.append(op("constexpr_blockwise_shift_scale", name, {"data": below, "scale": below, "offset": below}))
    path = package(tmp_path, *chain, op("add", "y", {"x": "x", "y": "w60"}))
    assert "over 8 deep" in refusal(PackageError, path)
