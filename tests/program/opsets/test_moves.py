"""What moves, what does not, and how a refusal reads. Negative indices and typed forms have files of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.proto import MIL_pb2 as MIL
from opset_programs import block_of, built, loaded, moved, op_named, unchanged

from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.program.opsets.move import OPSETS, Move, apply_move, opset_of, parse_target, plan_move

X = mb.TensorSpec((1, 4, 6))
I32 = types.int32


def refusal(program: MIL.Program, target: str = "iOS17") -> str:
    """The message a move is refused with; neither planning nor applying may have changed anything."""
    before = program.SerializeToString(deterministic=True)
    with pytest.raises(PlanError) as caught:
        plan_move(program, parse_target(target))
    with pytest.raises(PlanError):
        apply_move(program, Move(OPSETS[0], parse_target(target), ()))
    assert program.SerializeToString(deterministic=True) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_targets_are_named_as_coremltools_names_them() -> None:
    for opset in OPSETS:
        assert ct._OPSET[opset.spec] == opset.name
        assert parse_target(opset) is opset
        for name in (opset.name, opset.target, *opset.aliases):
            assert parse_target(name) is parse_target(name.upper()) is opset
        assert opset_of(opset.name) is opset
    for name, member in ct.target.__members__.items():
        if member.value >= OPSETS[0].spec:
            assert parse_target(member) is parse_target(name) is parse_target(OPSETS[member.value - 6].name)


@pytest.mark.parametrize("wrong", ["iOS14", "iOS 18", "", 9, None, ct.target.iOS14, "CoreML4"])
def test_other_targets_are_refused_with_the_list(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"allowed are iOS15 .*iOS16 .*iOS17 .*iOS18 \(macOS15, CoreML8\), iOS26"):
        parse_target(wrong)


def plain(x):
    y = mb.conv(x=x, weight=np.ones((5, 4, 3), np.float32), pad_type="same", name="y")
    return mb.upsample_bilinear(x=y, scale_factor_width=2, align_corners=False, name="z"), mb.topk(x=y, k=2)[0]


@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18", "iOS26"])
def test_ops_that_mean_the_same_are_the_same_messages(target: str, tmp_path: Path) -> None:
    program = built(plain, [X], "iOS15", tmp_path)
    after, move = moved(program, target)
    assert (move.source.target, move.target.target, move.changes) == ("iOS15", target, ())
    assert after.functions["main"].opset == parse_target(target).name
    unchanged(program, after, set())
    if target != "iOS26":  # coremltools 9.0 registers no ops for it
        loaded(after, tmp_path)


def test_nothing_moves_down_or_in_place(tmp_path: Path) -> None:
    program = built(plain, [X], "iOS17", tmp_path)
    for target in ("iOS15", "iOS16", "iOS17"):
        after, move = moved(program, target)
        assert after == program
        assert (move.source.name, move.changes) == ("CoreML7", ())


def test_each_function_moves_from_its_own_opset(tmp_path: Path) -> None:
    def body(x, i):
        return mb.gather(x=x, indices=i, name="g")

    specs = [mb.TensorSpec((5, 3)), mb.TensorSpec((2,), dtype=I32)]
    program = built(body, specs, "iOS16", tmp_path)
    for name, target in (("late", "iOS18"), ("old", "iOS15")):
        other = built(body, specs, target, tmp_path)
        program.functions[name].CopyFrom(other.functions["main"])
    late = program.functions["late"].SerializeToString(deterministic=True)
    after, move = moved(program, "iOS17")
    assert [change.function for change in move.changes] == ["main", "old"]
    assert move.source.name == "CoreML5"
    assert {name: f.opset for name, f in after.functions.items()} == {
        "main": "CoreML7", "late": "CoreML8", "old": "CoreML7",
    }  # fmt: skip
    assert after.functions["late"].SerializeToString(deterministic=True) == late


def test_a_second_specialization_stays_and_is_not_overwritten(tmp_path: Path) -> None:
    program = built(plain, [X], "iOS16", tmp_path)
    main = program.functions["main"]
    main.block_specializations["CoreML5"].CopyFrom(main.block_specializations["CoreML6"])
    after = moved(program, "iOS18")[0].functions["main"]
    assert sorted(after.block_specializations) == ["CoreML5", "CoreML8"]
    assert after.block_specializations["CoreML5"] == main.block_specializations["CoreML5"]
    main.block_specializations["CoreML8"].CopyFrom(main.block_specializations["CoreML6"])
    assert "'main' of opset CoreML6 also has a block for CoreML8" in refusal(program, "iOS18")


def test_unknown_opsets_and_missing_blocks_are_named(tmp_path: Path) -> None:
    program = built(plain, [X], "iOS16", tmp_path)
    del program.functions["main"].block_specializations["CoreML6"]
    assert "'main' states opset CoreML6 but has no block" in refusal(program)
    program.functions["main"].opset = "CoreML77"
    with pytest.raises(PlanError, match="'CoreML77'; known are CoreML5"):
        plan_move(program, parse_target("iOS17"))


def test_unknown_ops_are_refused_in_nested_blocks_too(tmp_path: Path) -> None:
    def body(x):
        picked = mb.squeeze(x=mb.slice_by_size(x=x, begin=[0, 0, 0], size=[1, 1, 1]))
        condition = mb.greater(x=picked, y=0.0)
        return mb.cond(pred=condition, _true_fn=lambda: mb.relu(x=x, name="odd"), _false_fn=lambda: mb.exp(x=x))

    program = built(body, [X], "iOS15", tmp_path)
    (cond,) = [op for op in block_of(program).operations if op.type == "cond"]
    op_named(cond.blocks[0], "odd").type = "fancy_new_op"
    text = refusal(program, "iOS16")
    assert "1 fancy_new_op ('odd' of function 'main'): its meaning in a later opset is not known" in text
    assert "cannot move to iOS16 (CoreML6)" in text


def test_all_refusals_are_told_at_once(tmp_path: Path) -> None:
    def body(x, boxes, scores):
        for number in range(5):
            mb.clip(x=x, alpha=2.0, beta=2.0, name=f"clip_{number}")
        kept = mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.1, max_boxes=2,
            per_class_suppression=False, name="nms",
        )  # fmt: skip
        return kept[0], mb.clip(x=x, alpha=-1.0, beta=1.0, name="fine")

    specs = [X, mb.TensorSpec((1, 8, 4)), mb.TensorSpec((1, 8, 3))]
    program = built(body, specs, "iOS15", tmp_path)
    assert moved(program, "iOS16")[1].changes == ()
    text = refusal(program)
    assert (
        "5 clip ('clip_0' of function 'main', 'clip_1' of function 'main', 'clip_2' of function 'main' "
        "and 2 more): alpha 2 must be below beta 2 there" in text
    )
    assert "1 non_maximum_suppression ('nms' of function 'main'): score_threshold" in text
    assert "fine" not in text


def test_crop_resize_moves_one_opset_only(tmp_path: Path) -> None:
    def body(x, roi):
        return mb.crop_resize(x=x, roi=roi, target_height=2, target_width=2, name="crop")

    specs = [mb.TensorSpec((1, 3, 8, 8)), mb.TensorSpec((1, 1, 4, 1, 1))]
    program = built(body, specs, "iOS15", tmp_path)
    unchanged(program, moved(program, "iOS16")[0], set())
    assert "1 crop_resize ('crop' of function 'main'): roi became boxes and box_indices" in refusal(program)


def first_dims(x) -> Iterator:
    """The first two dimensions of x, each as a vector of one."""
    shape = mb.shape(x=x)
    return (mb.slice_by_size(x=shape, begin=[axis], size=[1]) for axis in range(2))


RESHAPES = {
    "no zero": (True, lambda x, s: [24]),
    "zero, same rank": (True, lambda x, s: [0, 0, -1]),
    "run time, same rank": (True, lambda x, s: s),
    "run time, dimensions": (True, lambda x, s: mb.concat(values=[*first_dims(x), [2, 3]], axis=0)),
    "run time, product": (True, lambda x, s: mb.concat(values=[mb.mul(x=next(first_dims(x)), y=4), [-1]], axis=0)),
    "run time, may be zero": (False, lambda x, s: mb.concat(values=[s, [-1]], axis=0)),
    "run time, sum": (False, lambda x, s: mb.concat(values=[mb.add(x=next(first_dims(x)), y=0), [-1]], axis=0)),
}


@pytest.mark.parametrize(("safe", "shape"), RESHAPES.values(), ids=RESHAPES.keys())
def test_reshape_with_a_zero_needs_equal_ranks(safe: bool, shape, tmp_path: Path) -> None:
    def body(x, s):
        return mb.reshape(x=x, shape=shape(x, s), name="out")

    program = built(body, [X, mb.TensorSpec((3,), dtype=I32)], "iOS15", tmp_path)
    if safe:
        after, move = moved(program, "iOS17")
        assert move.changes == ()
        unchanged(program, after, set())
    else:
        assert "1 reshape ('out' of function 'main'): ambiguous reshape: a shape computed at run" in refusal(program)


@pytest.mark.parametrize(("shape", "text"), [([0, 24], "a 0 in shape, with 2 entries for an x of rank 3"),
                                             ([1, 0, 4, 6], "a 0 in shape, with 4 entries")])  # fmt: skip
def test_constant_shapes_with_a_misplaced_zero_are_refused(shape: list, text: str, tmp_path: Path) -> None:
    program = built(lambda x: mb.reshape(x=x, shape=[1, 24], name="out"), [X], "iOS15", tmp_path)
    name = op_named(block_of(program), "out").inputs["shape"].arguments[0].name
    value = op_named(block_of(program), name).attributes["val"]
    value.type.tensorType.dimensions[0].constant.size = len(shape)
    value.immediateValue.tensor.ints.values[:] = shape
    op_named(block_of(program), name).outputs[0].type.CopyFrom(value.type)
    assert f"ambiguous reshape: {text}" in refusal(program)
    assert moved(program, "iOS16")[1].changes == ()
