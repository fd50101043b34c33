"""Every form that is written, through the package's door: verified, read, compared, decompressed, damaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from coremltools_palettes import decoded_there, squared_error, weights
from form_packages import GROUPS, WRITTEN, Form
from packages import blob_file, blob_values, constants, differences, read_record, read_spec, spec_file

from mil_palettize import PlanError, Report, VerifyError, decompress_package, diff_packages, inspect_package
from mil_palettize.planning.specifier import SCALE_WARNING
from mil_palettize.rewriting.verification import verify_package

WORDS = {
    "packed": "4-bit palette",
    "grouped": "2-bit palette, 8 groups",
    "vectors in groups": "2-bit palette, 8 groups, vectors of 4",
    "scaled": "4-bit palette, scaled",
    "folded": "4-bit palette, 32 groups",
    "int8 table": "4-bit palette, int8 scaled entries",
    "int8 table, scaled": "4-bit palette, int8 scaled entries, scaled",
    "vectors, scaled": "4-bit palette, vectors of 2, scaled",
    "sparse vectors": "4-bit palette, vectors of 2, sparse",
    "sparse": "3-bit palette, sparse",
    "data scaled": "4-bit palette, scaled",
}


class Written(NamedTuple):
    """``short``: of one weight."""

    form: Form
    source: Path
    package: Path
    report: Report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """``written(name, short=False)``: a form's package, verified when it was written; made once."""
    made: dict[tuple[str, bool], Written] = {}

    def get(name: str, short: bool = False) -> Written:
        if (name, short) not in made:
            package = tmp_path_factory.mktemp("written") / "written.mlpackage"
            form = WRITTEN[name]
            report = form.palettize(package, short=short, verify=True)
            made[name, short] = Written(form, form.source(short), package, report)
        return made[name, short]

    return get


def decoded(package: Path) -> dict[str, np.ndarray]:
    """By the independent reader: what compressed constants are, by their names."""
    return {name: decode() for (_, _, name), (_, decode) in weights(package, bare=False).found.items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_report_is_what_is_stored(name: str, written: Callable[..., Written]) -> None:
    form, source, package, report = written(name)
    dense = {key[3]: decode for key, (_, decode) in constants(source).items()}
    found = decoded(package)
    assert report.verified
    assert {w.name for w in report.palettized} == found.keys()
    assert len(found) == 4
    for w in report.palettized:
        before = dense[w.name]()
        error, signal = squared_error(before, found[w.name]), float(np.sum(before.astype(np.float64) ** 2))
        assert error == pytest.approx(w.squared_error, rel=1e-9, abs=1e-300)
        if error:
            assert w.snr_db == pytest.approx(10 * math.log10(signal / error), rel=1e-9)
        assert w.lossless == (form.options.get("mode") == "unique")
        assert w.bytes_after < w.bytes_before
        assert (w.scale_axis is not None) == (form.options.get("enable_per_channel_scale", False) and name != "folded")
        assert w.lut_dtype == form.options.get("lut_dtype")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_dry_run_knows_the_bytes(name: str, written: Callable[..., Written]) -> None:
    form, _, _, report = written(name)
    planned = form.palettize(None, dry_run=True)
    vectors_left = form.joint and form.options.get("cluster_dim", 1) > 1
    if form.options.get("mode") == "unique" or vectors_left:  # depends on the values
        assert {w.bytes_after for w in planned.palettized} == {None}
        return
    sizes = [(w.name, w.bytes_after, w.notes) for w in planned.palettized]
    assert sizes == [(w.name, w.bytes_after, w.notes) for w in report.palettized]


@pytest.mark.parametrize("name", WRITTEN)
def test_decompressed_as_coremltools_decodes(name: str, written: Callable[..., Written], tmp_path: Path) -> None:
    _, _, package, _ = written(name)
    report = decompress_package(package, tmp_path / "dense.mlpackage", verify=True)
    assert report.verified
    judged, there = decoded(package), decoded_there(package)
    assert judged.keys() <= {name for _, name in there}
    for (_, _, _, output), (op, decode) in constants(tmp_path / "dense.mlpackage").items():
        if output in judged:
            assert op.type == "const"
            for other in (judged[output], there["main", output]):
                assert (decode().dtype, decode().tobytes()) == (other.dtype, other.tobytes())


@pytest.mark.parametrize("name", WRITTEN)
def test_inspected_and_compared(name: str, written: Callable[..., Written]) -> None:
    form, source, package, report = written(name)
    forms = {c.name: c for c in inspect_package(package).constants}
    difference = diff_packages(source, package)
    compared = {w.name: w for w in difference.weights}
    for w in report.palettized:
        assert "-bit palette" in forms[w.name].form
        assert forms[w.name].reason
        # Shapes and axes are counted there.
        assert 0 <= forms[w.name].nbytes - w.bytes_after <= 32 or form.joint or len(_chain(package, w.name)) > 1
        assert compared[w.name].snr_db == pytest.approx(w.snr_db, rel=1e-9)
        assert compared[w.name].after == forms[w.name].form
    if name in WORDS:
        assert forms[next(w.name for w in report.palettized if "product" in w.name)].form == WORDS[name]
    assert diff_packages(package, package).identical


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_else_moved(name: str, written: Callable[..., Written]) -> None:
    _, source, package, report = written(name)
    names = {output.name for w in report.palettized for op in _chain(package, w.name) for output in op.outputs[:1]}
    assert {line.partition(":")[0] for line in differences(source, package)} <= {
        *(f"op main//{name}" for name in names),
        "order main/",
    }


def _chain(package: Path, name: str) -> list[MIL.Operation]:
    """The ops of a compressed constant, in order."""
    (block,) = read_spec(package).mlProgram.functions["main"].block_specializations.values()
    wanted, chain = {name}, []
    for op in reversed(block.operations):
        if any(output.name in wanted for output in op.outputs):
            wanted |= {b.name for a in op.inputs.values() for b in a.arguments}
            chain.insert(0, op)
    return chain


# Damage


def operations(spec: Model_pb2.Model) -> list[MIL.Operation]:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block.operations


@pytest.mark.parametrize("name", WRITTEN)
def test_a_byte_of_any_part_is_missed(name: str, written: Callable[..., Written]) -> None:
    """Changed in the weight file."""
    _, source, package, report = written(name, short=True)
    (weight,) = report.palettized
    whole = None
    for op in _chain(package, weight.name):
        for value in blob_values(op):
            file = blob_file(value, package)
            whole = whole or file.read_bytes()
            _, data, _ = read_record(file, value.blobFileValue.offset)
            start = whole.index(data)
            for position, bit in ((start, 0x01), (start + len(data) - 1, 0x80)):
                damaged = bytearray(whole)
                damaged[position] ^= bit
                file.write_bytes(damaged)
                with pytest.raises(VerifyError):
                    verify_package(source, package, report)
            file.write_bytes(whole)
    assert whole is not None
    verify_package(source, package, report)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_change_of_any_op_is_missed(name: str, written: Callable[..., Written]) -> None:
    """Values in the program, names, types of outputs and inputs, whole parameters and ops."""
    _, source, package, report = written(name, short=True)
    (weight,) = report.palettized
    whole = spec_file(package).read_bytes()
    count = len(_chain(package, weight.name))
    first = next(i for i, op in enumerate(operations(read_spec(package))) if op == _chain(package, weight.name)[0])
    for number in range(first, first + count):
        for change in changes(operations(read_spec(package))[number]):
            spec = read_spec(package)
            change(operations(spec)[number])
            assert spec.SerializeToString(deterministic=True) != whole
            spec_file(package).write_bytes(spec.SerializeToString())
            with pytest.raises(VerifyError):
                verify_package(source, package, report)
            spec_file(package).write_bytes(whole)
    spec = read_spec(package)
    del operations(spec)[first]
    spec_file(package).write_bytes(spec.SerializeToString())
    with pytest.raises(VerifyError):
        verify_package(source, package, report)
    spec_file(package).write_bytes(whole)
    verify_package(source, package, report)


def changes(op: MIL.Operation) -> Iterator[Callable[[MIL.Operation], object]]:
    yield lambda op: op.attributes["name"].immediateValue.tensor.strings.values.__setitem__(0, "other")
    yield lambda op: setattr(op.outputs[0], "name", "other")
    yield lambda op: setattr(op.outputs[0].type.tensorType, "dataType", MIL.DataType.Value("INT32"))
    yield lambda op: setattr(op.outputs[0].type.tensorType.dimensions[0].constant, "size", 4)
    for key in op.inputs:
        yield lambda op, key=key: op.inputs.pop(key)
        if op.inputs[key].arguments[0].WhichOneof("binding") == "value":
            yield lambda op, key=key: _change_value(op.inputs[key].arguments[0].value)
        else:
            yield lambda op, key=key: setattr(op.inputs[key].arguments[0], "name", "other")
    for key in set(op.attributes) - {"name"}:
        yield lambda op, key=key: op.attributes.pop(key)
        yield lambda op, key=key: _change_value(op.attributes[key])


def _change_value(value: MIL.Value) -> None:
    """One byte of what stands in the program, the type of what does not."""
    if value.WhichOneof("value") == "blobFileValue":
        value.type.tensorType.dataType = MIL.DataType.Value("BOOL")
        return
    tensor = value.immediateValue.tensor
    if tensor.WhichOneof("value") == "bytes":
        tensor.bytes.values = bytes([tensor.bytes.values[0] ^ 1]) + tensor.bytes.values[1:]
    elif tensor.WhichOneof("value") == "ints":
        tensor.ints.values[0] += 1
    else:
        tensor.floats.values[0] = float(np.nextafter(np.float32(tensor.floats.values[0]), np.float32(np.inf)))


# Scales


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize(
    "options", [{"nbits": 1}, {"nbits": 4}, {"nbits": 3} | GROUPS, {"nbits": 4, "mode": "uniform"}]
)
def test_folded_scales_are_not_worse(options: dict[str, object], dtype: str, tmp_path: Path) -> None:
    """A table for each channel contains any scale of it, up to the rounding of its entries."""
    made = {}
    for scale in ("op", "fold"):
        form = Form({"enable_per_channel_scale": True, "scale": scale, **options}, dtype=dtype)
        report = form.palettize(tmp_path / f"{scale}.mlpackage", verify=True)
        made[scale] = {w.name: w for w in report.palettized}
        ops = {op.type for op, _ in constants(tmp_path / f"{scale}.mlpackage").values()}
        assert ("constexpr_blockwise_shift_scale" in ops) == (scale == "op")
        said = {note for w in report.palettized for note in w.notes}
        assert (SCALE_WARNING in said) == (scale == "op")
        assert ("groups of 4 are not made" in str(said)) == (scale == "fold" and "group_size" in options)
        assert ("pull request 2688" in report.to_text()) == (scale == "op")
    assert len(made["fold"]) >= 3
    for name, folded in made["fold"].items():
        assert folded.squared_error <= made["op"][name].squared_error
        assert (folded.scale_axis, folded.group_size) == (None, 1)


# The caller's arrays


CUSTOM = {
    "packed": Form(target="iOS16"),
    "typed": Form(),
    "fp32": Form(dtype="fp32"),
    "groups": Form(GROUPS),
    "vectors": Form({"cluster_dim": 2}),
    "scaled": Form({"enable_per_channel_scale": True}),
    "folded": Form({"enable_per_channel_scale": True, "scale": "fold"}),
    "quantized table": Form({"lut_dtype": "int8"}),
    "quantized tables": Form({"lut_dtype": "uint8"} | GROUPS),
    "sparse": Form({}, "sparse"),
    "tables scaled": Form({}, "int8 tensor"),
    "data scaled": Form({}, "uint8 offset", "iOS26"),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_arrays_of_the_caller_never_change(name: str, tmp_path: Path) -> None:
    form, kept = CUSTOM[name], []

    def first_values(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vector = form.options.get("cluster_dim", 1)
        table = weight.reshape(-1)[: 4 * vector].reshape((4, vector) if vector > 1 else 4).copy()
        indices = (np.arange(weight.size // vector) % 4).astype(np.uint8)
        kept.append((table, indices, table.tobytes(), indices.tobytes()))
        for array in (table, indices):
            array.setflags(write=False)
        return table, indices

    custom = Form({"mode": "custom", "lut_function": first_values, **form.options}, form.kind, form.target, form.dtype)
    report = custom.palettize(tmp_path / "custom.mlpackage", verify=True)
    assert report.verified
    assert report.palettized
    for table, indices, entries, chosen in kept:
        assert (table.tobytes(), indices.tobytes()) == (entries, chosen)
    if name in ("packed", "typed", "fp32"):
        dense = constants(custom.source())
        for key, array in decoded(tmp_path / "custom.mlpackage").items():
            before = next(decode for (*_, output), (_, decode) in dense.items() if output == key)().reshape(-1)
            assert np.array_equal(array.reshape(-1), np.resize(before[:4], before.size))


# Before iOS18


LATER = [name for name, form in WRITTEN.items() if form.target == "iOS18" and not form.joint]


@pytest.mark.parametrize(("name", "target"), [*((name, "iOS16") for name in LATER), ("scaled groups", "iOS17")])
def test_moved_up_for_it(name: str, target: str, written: Callable[..., Written], tmp_path: Path) -> None:
    """What the package's own opset cannot hold is refused; with a target the palette is the same as in iOS18."""
    later = WRITTEN[name]
    form = Form(later.options, later.kind, target, later.dtype, later.levels)
    needs = {"granularity", "cluster_dim", "enable_per_channel_scale", "lut_dtype"} & later.options.keys()
    if needs or later.options.get("nbits") == 3:
        with pytest.raises(PlanError, match="supported since iOS18"):
            form.palettize(tmp_path / "refused.mlpackage", short=True)
        assert not (tmp_path / "refused.mlpackage").exists()
    report = form.palettize(tmp_path / "moved.mlpackage", short=True, target="iOS18", verify=True)
    (one,), (two,) = report.palettized, written(name, short=True).report.palettized
    assert (one.digest, one.squared_error) == (two.digest, two.squared_error)
