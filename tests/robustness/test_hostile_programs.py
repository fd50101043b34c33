"""Programs that no converter writes: one line or success, in time that follows the size of the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from handmade import contents
from mil_messages import block, const, function, kind, op, program, reading, surveyed, value, write_package
from packages import constants

from mil_palettize import (
    BlobError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PalettizeError,
    PlanError,
    Report,
    decompress_package,
    diff_packages,
    inspect_package,
    palettize_package,
)
from mil_palettize.program import expression_reader
from mil_palettize.program.chains import chain_ops
from mil_palettize.program.consumers import LONGEST_PATH
from mil_palettize.program.scopes import MOST_PARTS
from mil_palettize.reports.weight_report import WeightReport

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=8))
RANDOM = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float16)


def palettize(package: Path, **options: object) -> Report:
    return palettize_package(package, package.with_name("out.mlpackage"), CONFIG, workers=1, **options)


def of(report: Report, name: str) -> WeightReport:
    (found,) = [weight for weight in report.weights if weight.name == name]
    return found


# Chains


def chain(length: int, kind_of_op: str) -> MIL.Program:
    ops, last = [const("w", RANDOM)], "w"
    for number in range(length):
        bound = {
            "scale": {"data": last, "scale": last},
            "concat": {"values": [last, last]},
            "identity": {"x": last},
            "cast": {"source_val": last, "output_dtype": value("fp16")},
        }[kind_of_op]
        op_type = {"scale": "constexpr_blockwise_shift_scale", "cast": "constexpr_cast"}.get(kind_of_op, kind_of_op)
        ops.append(op(op_type, f"c{number}", bound, shape=(16, 16)))
        last = f"c{number}"
    return program(*ops, reading(last), outputs=["y"])


@pytest.mark.parametrize("kind_of_op", ["scale", "concat", "identity", "cast"])
def test_long_chains(kind_of_op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 links; those that read a value twice would take 2**300 steps."""
    asked = []
    original = expression_reader.unknown_form
    monkeypatch.setattr(expression_reader, "unknown_form", lambda *of: asked.append(1) or original(*of))
    package = write_package(tmp_path / "in.mlpackage", chain(300, kind_of_op))
    inspect_package(package)
    diff_packages(package, package)
    palettize(package, verify=True)
    report = decompress_package(package, tmp_path / "dense.mlpackage", workers=1, verify=True)
    assert len(asked) < 50_000
    if kind_of_op in ("scale", "cast"):
        (skipped,) = report.weights
        assert f"it is made from more than {MOST_PARTS} parts" in skipped.reason


def test_chain_as_long_as_is_read(tmp_path: Path) -> None:
    package = write_package(tmp_path / "in.mlpackage", chain(MOST_PARTS - 1, "cast"))
    report = decompress_package(package, tmp_path / "dense.mlpackage", workers=1, verify=True)
    assert [weight.status for weight in report.weights] == ["decompressed"]


def test_parts_that_are_read_twice_are_told_once() -> None:
    (end,) = [site for site in surveyed(chain(300, "scale")).sites if site.weight.name == "c299"]
    assert end.node is not None
    parts = [made.outputs[0].name for made in chain_ops(end.node)]
    assert parts == ["c299", *sorted(["w", *(f"c{number}" for number in range(299))])]


def test_constant_read_twice_by_one_op_has_one_reader() -> None:
    sites = surveyed(chain(3, "concat")).sites
    (readers,) = [site.weight.consumers for site in sites if site.weight.name == "w"]
    assert [(c.op_type, c.input_name) for c in readers] == [("linear", "weight")]
    assert [name for _, name in readers[0].path] == ["c0", "c1", "c2"]


def test_constant_handed_on_absurdly_often(tmp_path: Path) -> None:
    package = write_package(tmp_path / "in.mlpackage", chain(LONGEST_PATH + 5, "identity"))
    for verb in (inspect_package, palettize):
        with pytest.raises(PackageError, match="constant 'w' is handed on by more than 1000 ops"):
            verb(package)


@pytest.mark.parametrize("where", ["w", "nobody makes this", ""])
def test_constant_that_reads_itself_or_nothing(where: str, tmp_path: Path) -> None:
    cast = op("constexpr_cast", "w", {"source_val": where, "output_dtype": value("fp16")}, shape=(16, 16))
    package = write_package(tmp_path / "in.mlpackage", program(cast, reading("w"), outputs=["y"]))
    inspect_package(package)
    report = decompress_package(package, tmp_path / "dense.mlpackage", workers=1, verify=True)
    (skipped,) = report.weights
    assert skipped.status == "skipped"
    assert "which no op before it makes" in skipped.reason


# Parameters that are not there


def shift_scale(change: Callable[[MIL.Operation], object]) -> MIL.Program:
    data = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = MIL.Value(type=kind((16, 16), "UINT8"))
    stored.immediateValue.tensor.bytes.values = data.tobytes()
    made = op(
        "constexpr_blockwise_shift_scale",
        "w",
        {"data": stored, "scale": value(np.ones((16, 1), np.float16))},
        shape=(16, 16),
    )
    change(made)
    return program(made, reading("w"), outputs=["y"])


def two_offsets(made: MIL.Operation) -> None:
    offset = MIL.Value(type=kind((16, 1), "UINT8"))
    offset.immediateValue.tensor.bytes.values = bytes([128]) * 16
    for _ in range(2):
        made.inputs["offset"].arguments.add().value.CopyFrom(offset)


UNRESOLVED = {
    "a name that nothing makes": lambda made: made.inputs["offset"].arguments.add(name="nothing"),
    "bound to nothing": lambda made: made.inputs["offset"].arguments.add(),
    "no binding at all": lambda made: made.inputs["offset"].SetInParent(),
    "two values": two_offsets,
    "itself": lambda made: made.inputs["offset"].arguments.add(name="w"),
    "twice, as an attribute too": lambda made: made.attributes["scale"].CopyFrom(value(np.float16(2))),
    "of another parameter": lambda made: made.inputs["of_later_systems"].arguments.add(name="x"),
    "an attribute of later systems": lambda made: made.attributes["mode"].CopyFrom(value("new")),
    "a name that is no text": lambda made: made.attributes["name"].CopyFrom(value(np.float16(2))),
    "a block": lambda made: made.blocks.add(),
}


@pytest.mark.parametrize("how", UNRESOLVED)
def test_parameter_that_stands_for_nothing_known(how: str, tmp_path: Path) -> None:
    """The weight stays as it is, and the report says why; taken for missing, its values would be others."""
    package = write_package(tmp_path / "in.mlpackage", shift_scale(UNRESOLVED[how]))
    for verify in (False, True):
        report = decompress_package(package, tmp_path / "out.mlpackage", workers=1, verify=verify, overwrite=True)
        (skipped,) = report.weights
        assert skipped.status == "skipped"
        assert "its form is not known" in skipped.reason
    for out in (palettize(package, overwrite=True), palettize(package, joint_compression=True, overwrite=True)):
        assert not out.palettized
    written, sound = (contents(p) for p in (tmp_path / "out.mlpackage", package))
    assert written.keys() == sound.keys()


def test_parameters_that_stand_for_something(tmp_path: Path) -> None:
    package = write_package(tmp_path / "in.mlpackage", shift_scale(lambda made: None))
    report = decompress_package(package, tmp_path / "out.mlpackage", workers=1)
    assert [weight.status for weight in report.weights] == ["decompressed"]
    (values,) = [decode() for key, (_, decode) in constants(tmp_path / "out.mlpackage").items() if key[-1] == "w"]
    assert np.array_equal(values, np.arange(256, dtype=np.float16).reshape(16, 16))


# Depth


def nested(depth: int) -> MIL.Program:
    inner = block(const("w", RANDOM), reading("w"), outputs=["y"])
    for number in range(depth):
        outer = op("cond", f"y{number}", {"pred": value(np.bool_(True))}, shape=(1, 16), blocks=[inner])
        inner = block(outer, outputs=[f"y{number}"])
    return MIL.Program(version=1, functions={"main": function({"CoreML8": inner}, (("x", (1, 16)),))})


@pytest.mark.parametrize("depth", [1, 38, 40, 41, 42, 43, 44])
def test_constant_in_nested_blocks(depth: int, tmp_path: Path) -> None:
    """Messages of more than 100 levels cannot be parsed; a palette's op has more levels than a constant's."""
    package = write_package(tmp_path / "in.mlpackage", nested(depth))
    report = palettize(package)
    inspect_package(tmp_path / "out.mlpackage")
    weight = of(report, "w")
    assert weight.status == ("palettized" if depth <= 40 else "skipped")
    if depth > 40:
        assert f"stands {depth} blocks deep" in weight.reason


def test_nothing_unreadable_takes_the_place_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it comes about."""
    monkeypatch.setattr("mil_palettize.program.sites.DEEPEST_LEVEL", 1000)
    package = write_package(tmp_path / "in.mlpackage", nested(44))
    before = contents(package)
    with pytest.raises(PlanError, match=r"could not be read again: .*in\.mlpackage .*MaxDepth"):
        palettize_package(package, package, CONFIG, workers=1, overwrite=True)
    assert contents(package) == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.mlpackage"]


# Sizes

BIG = (1 << 32, 1 << 32)


def typed(shape: tuple[int, ...], dtype: str, data: bytes) -> MIL.Value:
    made = MIL.Value(type=kind(shape, dtype))
    made.immediateValue.tensor.bytes.values = data
    return made


def big_palette(entry: float) -> MIL.Program:
    lut = value(np.full((1, 1, 16, 1), entry, np.float16))
    bound = {"indices": typed(BIG, "UINT4", b""), "lut": lut}
    return program(op("constexpr_lut_to_dense", "w", bound, shape=BIG), reading("w"), outputs=["y"])


def big_sparse(entry: float) -> MIL.Program:
    bound = {"mask": typed(BIG, "UINT1", b""), "nonzero_data": typed((0,), "FLOAT16", b"")}
    made = op("constexpr_sparse_to_dense", "w", bound, shape=BIG)
    made.attributes["name"].CopyFrom(value(f"w{entry}"))
    return program(made, reading("w"), outputs=["y"])


@pytest.mark.parametrize("made", [big_palette, big_sparse])
def test_products_that_wrap_around(made: Callable[[float], MIL.Program], tmp_path: Path) -> None:
    """2**64 elements are none in 64 bits, and no bytes are enough for none."""
    one, two = (write_package(tmp_path / f"{n}.mlpackage", made(n)) for n in (0.0, 1.0))
    with pytest.raises(BlobError, match="do not fit"):
        diff_packages(one, two)
    refused(lambda: decompress_package(one, tmp_path / "out.mlpackage", workers=1))
    refused(lambda: palettize(one, redo=True))


@pytest.mark.parametrize("shape", [(0, 1 << 32, 1 << 31, 2), (1,) * 70, (0,) + (1,) * 70])
def test_shapes_that_numpy_cannot_hold(shape: tuple[int, ...], tmp_path: Path) -> None:
    stored = MIL.Value(type=kind(shape, "FLOAT16"))
    stored.immediateValue.tensor.bytes.values = bytes(2 * int(0 not in shape))
    made = MIL.Operation(type="const", attributes={"name": value("w"), "val": stored})
    made.outputs.add(name="w", type=stored.type)
    package = write_package(tmp_path / "in.mlpackage", program(made, reading("w"), outputs=["y"]))
    inspect_package(package)
    refused(lambda: palettize(package, select="all"))
    refused(lambda: palettize(package, select="all", redo=True))


def test_scale_of_a_claimed_size_is_not_made(tmp_path: Path) -> None:
    attributes = {
        "quantized_data": typed((12, 8), "UINT8", bytes(96)),
        "scale": typed((3, 1 << 62), "FLOAT16", b"12345678"),
        "zero_point": typed((), "UINT8", b"\x09"),
        "axis": value(np.int32(1)),
    }
    made = op("constexpr_affine_dequantize", "w", attributes=attributes, shape=(12, 8))
    package = write_package(
        tmp_path / "in.mlpackage", program(made, reading("w"), opset="CoreML6", outputs=["y"]), specification=7
    )
    refused(lambda: palettize(package, target="iOS18"))


def refused(verb: Callable[[], object]) -> None:
    """In one line, or not at all: whatever else is raised fails the test."""
    with suppress(PalettizeError):
        verb()


# Numbers


@pytest.mark.parametrize(("scale", "offset"), [(1.0, np.nan), (1.0, np.inf), (65504.0, None), (np.nan, None)])
def test_weights_that_decode_to_what_is_not_finite(scale: float, offset: float | None, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-128, 127, (64, 64)).astype(np.int8)
    bound: dict[str, MIL.Value] = {
        "data": typed((64, 64), "INT8", data.tobytes()),
        "scale": value(np.full((1, 1), scale, np.float16)),
    }
    if offset is not None:
        bound["offset"] = value(np.full((1, 1), offset, np.float16))
    made = op("constexpr_blockwise_shift_scale", "w", bound, shape=(64, 64))
    package = write_package(tmp_path / "in.mlpackage", program(made, reading("w"), outputs=["y"]))
    report = palettize(package, joint_compression=True, verify=True)
    assert "no palette can stand for" in of(report, "w").reason
    json.loads(report.to_json(), parse_constant=pytest.fail)
    shutil.rmtree(tmp_path / "out.mlpackage")


def test_palettes_of_integers_made_anew(tmp_path: Path) -> None:
    """What they stand for is no weight that a palette is made of: they stay."""
    lut = typed((1, 1, 16, 1), "INT8", bytes(range(16)))
    bound = {"indices": typed((16, 16), "UINT4", bytes(range(128))), "lut": lut}
    made = op("constexpr_lut_to_dense", "w", bound, shape=(16, 16))
    made.outputs[0].type.CopyFrom(kind((16, 16), "INT8"))
    package = write_package(tmp_path / "in.mlpackage", program(made, reading("w"), outputs=["y"]))
    report = palettize(package, redo=True, select="all", verify=True)
    assert not report.palettized
    assert "int8 values" in of(report, "w").reason or "already compressed" in of(report, "w").reason
