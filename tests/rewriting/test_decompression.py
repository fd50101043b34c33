"""Compressed packages made dense again: the same values, nothing else moved; judged by the independent reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from compressed_programs import PACKED, TYPED, built, floats, integers, saved
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var
from packages import blob_users, blob_values, constants, decode_value, differences, read_spec, spec_file, weights_dir

from mil_palettize import BlobError, PackageError, Report, VerifyError, decompress_package, diff_packages
from mil_palettize.cli.main import main
from mil_palettize.rewriting.dense_verification import verify_decompressed

FIXTURES = ["palettized_ios16", "palettized_grouped_ios18", "quantized_sparse_ios16", "joint_ios18"]
NESTED = ["loop_ios16", "branches_ios16", "pipeline_ios17", "multifunction_ios18", "shared_ios16"]
REAL = ["int8", "palette_4bit", "pruned_int8"]


def contents(package: Path) -> dict[str, str]:
    files = (file for file in package.rglob("*") if file.is_file())
    return {str(f.relative_to(package)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """The same bits; arrays of strings are arrays of objects."""
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return one.tolist() == two.tolist() if one.dtype == object else one.tobytes() == two.tobytes()


def check(source: Path, written: Path, report: Report) -> None:
    """Every weight read by other ops is one dense constant of the same bits; all else is the same messages."""
    before, after = constants(source), constants(written)
    assert not [key for key, (op, _) in after.items() if op.type != "const"]
    dense = {key for key, (op, _) in before.items() if op.type != "const"} & after.keys()
    gone = before.keys() - after.keys()
    assert {(w.function, w.name) for w in report.decompressed} == {(key[1], key[3]) for key in dense}
    for key in dense:
        op, decode = after[key]
        values = decode()
        assert same(values, before[key][1]())
        assert list(op.outputs) == list(before[key][0].outputs)
        assert sorted(op.attributes) == ["name", "val"]
        assert op.attributes["name"] == before[key][0].attributes["name"]
        assert (op.attributes["val"].WhichOneof("value") == "blobFileValue") == (values.size >= 10)
        (claim,) = (w for w in report.decompressed if (w.function, w.name) == (key[1], key[3]))
        assert claim.bytes_after == values.nbytes
    allowed = {f"op {k[1]}/{k[2]}/{k[3]}: changed" for k in dense}
    allowed |= {f"op {k[1]}/{k[2]}/{k[3]}: only in {source.name}" for k in gone}
    # The inner ops of two results have one line, by the first.
    allowed |= {f"order {k[1]}/{k[2]}: changed" for k in gone}
    assert set(differences(source, written)) <= allowed
    assert {f"op {k[1]}/{k[2]}/{k[3]}: changed" for k in dense} <= set(differences(source, written))


def loads(package: Path) -> None:
    """coremltools reads every op, and the shape of its result is the one declared."""
    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    found = load(spec, spec.specificationVersion, str(weights_dir(package)))
    assert not [op for f in found.functions.values() for op in f.operations if op.op_type.startswith("constexpr_")]


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures(name: str, fixtures: Path, tmp_path: Path) -> None:
    source, written = fixtures / f"{name}.mlpackage", tmp_path / "dense.mlpackage"
    before = contents(source)
    report = decompress_package(source, written, verify=True)
    assert report.verified
    assert not report.skipped
    check(source, written, report)
    loads(written)
    assert contents(source) == before
    assert report.bytes_after == sum(f.stat().st_size for f in written.rglob("*") if f.is_file()) > report.bytes_before


@pytest.mark.parametrize("name", REAL)
def test_real_packages(name: str, shared_models: Path, tmp_path: Path) -> None:
    source, written = shared_models / f"silero_vad_unified_{name}.mlpackage", tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert len(report.decompressed) == 7
    check(source, written, report)
    loads(written)


@pytest.mark.parametrize(("target", "form"), [("iOS18", f) for f in TYPED] + [("iOS16", f) for f in PACKED])
def test_every_form_becomes_one_constant(target: str, form: str, tmp_path: Path) -> None:
    source, written = built(target, form)[1], tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert [(w.name, w.status) for w in report.weights] == [("w", "decompressed")]
    found = constants(written)
    ops = [op for key, (op, _) in found.items() if key[-1] in ("w", "inner")]
    assert [op.type for op in ops] == ["const"]
    (difference,) = diff_packages(source, written).weights
    assert difference.snr_db == np.inf
    assert differences(source, written)
    # The record it was made of is gone with it, the new one is pointed at.
    assert len(blob_users(written)) == 1


@pytest.mark.parametrize("name", ["conv_fp16_ios18", "loop_ios16", "pipeline_ios17", "multifunction_ios18"])
def test_a_package_without_compressed_weights_stays(name: str, fixtures: Path, tmp_path: Path) -> None:
    source, written = fixtures / f"{name}.mlpackage", tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert report.weights == []
    assert differences(source, written) == []
    assert "0 constants decompressed, 0 left alone" in report.to_text()


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("workers", [1, 3])
def test_palettized_and_back(
    name: str, workers: int, fixtures: Path, palettize: Callable[..., tuple[Path, Report]], tmp_path: Path
) -> None:
    """Nested blocks, pipelines with several weight files, several functions: the palette's values, all else back."""
    source = fixtures / f"{name}.mlpackage"
    small, palettes = palettize(source, nbits=4)
    assert palettes.palettized
    report = decompress_package(small, tmp_path / "dense.mlpackage", verify=True, workers=workers)
    before, after = constants(small), constants(tmp_path / "dense.mlpackage")
    assert before.keys() == after.keys()
    for key, (op, decode) in after.items():
        assert op.type == "const"
        assert same(decode(), before[key][1]())
    assert sorted((w.function, w.name) for w in report.decompressed) == sorted(
        (w.function, w.name) for w in palettes.palettized
    )
    # Against the dense source, only the palettized values differ.
    changed = {line for line in differences(source, tmp_path / "dense.mlpackage") if not line.startswith("op ")}
    assert not changed
    original = constants(source)
    errors = [
        float(np.sum((original[k][1]().astype(float) - after[k][1]().astype(float)) ** 2))
        for k in after
        if before[k][0].type != "const"
    ]
    np.testing.assert_allclose(sorted(errors), sorted(w.squared_error for w in palettes.palettized), rtol=1e-9)


def test_functions_with_the_same_palette_share_its_values(
    fixtures: Path, palettize: Callable[..., tuple[Path, Report]], tmp_path: Path
) -> None:
    source = fixtures / "multifunction_ios18.mlpackage"
    small, _ = palettize(source, nbits=4)
    decompress_package(small, tmp_path / "dense.mlpackage")
    sharing = sorted(sorted(users) for users in blob_users(tmp_path / "dense.mlpackage").values())
    assert sharing == sorted(sorted(users) for users in blob_users(source).values())
    assert [("", function, "", "base_weight") for function in ("decode", "prefill")] in sharing


@pytest.mark.parametrize("name", ["joint_ios18", "quantized_sparse_ios16"])
def test_the_result_is_the_same_on_every_run(name: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / f"{name}.mlpackage"
    results = []
    for workers in (1, 2, 5):
        written = tmp_path / f"{workers}.mlpackage"
        decompress_package(source, written, workers=workers)
        results.append(contents(written))
    assert results[0] == results[1] == results[2]


def test_what_was_dense_already_stays_and_again_changes_nothing(fixtures: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.mlpackage", tmp_path / "second.mlpackage"
    decompress_package(fixtures / "joint_ios18.mlpackage", first)
    assert decompress_package(first, second).decompressed == []
    assert contents(first) == contents(second)


def saved_body(build: Callable[[Var], object], folder: Path) -> Path:
    whole = mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS18)(build)
    return saved(whole, ct.target.iOS18, folder)


def test_a_chain_whose_inner_op_is_read_too_gives_two_constants(tmp_path: Path) -> None:
    def body(x: Var) -> object:
        draw = np.random.default_rng(0)
        table = mb.constexpr_blockwise_shift_scale(
            data=integers(draw, "int8", (1, 16, 1)), scale=floats(draw, (1, 1, 1)), name="table"
        )
        w = mb.constexpr_lut_to_dense(indices=integers(draw, "uint4", (24,)), lut=table, name="w")
        return mb.relu(x=x), mb.identity(x=w, name="one"), mb.identity(x=table, name="two")

    source, written = saved_body(body, tmp_path), tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert {w.name for w in report.decompressed} == {"table", "w"}
    check(source, written, report)


def test_inner_ops_that_two_chains_share_go_with_both(tmp_path: Path) -> None:
    def body(x: Var) -> object:
        draw = np.random.default_rng(0)
        table = mb.constexpr_blockwise_shift_scale(
            data=integers(draw, "int8", (1, 16, 1)), scale=floats(draw, (1, 1, 1)), name="table"
        )
        weights = [
            mb.constexpr_lut_to_dense(indices=integers(draw, "uint4", (n,)), lut=table, name=f"w{n}") for n in (24, 31)
        ]
        return mb.relu(x=x), *(mb.identity(x=w) for w in weights)

    source, written = saved_body(body, tmp_path), tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert [w.name for w in report.decompressed] == ["w24", "w31"]
    assert "table" not in {key[-1] for key in constants(written)}
    check(source, written, report)


def small_weight(x: Var) -> object:
    draw = np.random.default_rng(0)
    indices, table = integers(draw, "uint1", (3, 3)), floats(draw, (1, 1, 2, 1))
    w = mb.constexpr_lut_to_dense(indices=indices, lut=table, name="w")
    return mb.relu(x=x), mb.identity(x=w)


def test_fewer_than_ten_values_stand_in_the_program(tmp_path: Path) -> None:
    source, written = saved_body(small_weight, tmp_path), tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    check(source, written, report)
    assert not list(blob_values(read_spec(written)))


@pytest.mark.parametrize("beside", [False, True])
def test_a_chain_that_stands_in_the_program(beside: bool, tmp_path: Path) -> None:
    """Its values go to the weight file of its program, or stay in the program when that has none."""

    def body(x: Var) -> object:
        draw = np.random.default_rng(0)
        w = mb.constexpr_blockwise_shift_scale(data=np.int8([[1, 2, 3]]), scale=floats(draw, (1, 1)), name="w")
        wide = mb.constexpr_lut_to_dense(
            indices=integers(draw, "uint1", (3,)), lut=floats(draw, (1, 2, 4)), vector_axis=np.int32(0), name="wide"
        )
        more = [mb.identity(x=mb.const(val=np.arange(32, dtype=np.float16), name="c"))] if beside else []
        return mb.relu(x=x), mb.identity(x=w), mb.identity(x=wide), *more

    source, written = saved_body(body, tmp_path), tmp_path / "dense.mlpackage"
    assert not [v for v in blob_values(read_spec(source)) if decode_value(v, source).size != 32]
    decompress_package(source, written, verify=True)
    kinds = {
        key[-1]: op.attributes["val"].WhichOneof("value")
        for key, (op, _) in constants(written).items()
        if key[-1] in ("w", "wide")
    }
    assert kinds == {"w": "immediateValue", "wide": "blobFileValue" if beside else "immediateValue"}
    for key, (_, decode) in constants(written).items():
        assert same(decode(), constants(source)[key][1]())


# What cannot be done


def edited(source: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    """``change`` gets the ops of the main block by the names of their outputs."""
    spec = read_spec(source)
    function = spec.mlProgram.functions["main"]
    (block,) = function.block_specializations.values()
    change({output.name: op for op in block.operations for output in op.outputs})
    spec_file(source).write_bytes(spec.SerializeToString())
    return source


def two_weights(x: Var) -> object:
    draw = np.random.default_rng(0)
    table = mb.constexpr_blockwise_shift_scale(
        data=integers(draw, "int8", (1, 16, 1)), scale=floats(draw, (1, 1, 1)), name="table"
    )
    w = mb.constexpr_lut_to_dense(indices=integers(draw, "uint4", (24,)), lut=table, name="w")
    good = mb.constexpr_lut_to_dense(indices=integers(draw, "uint4", (24,)), lut=floats(draw, (1, 16, 1)), name="good")
    return mb.relu(x=x), mb.identity(x=w), mb.identity(x=table), mb.identity(x=good)


def test_a_form_that_is_not_known_is_left_and_reported(tmp_path: Path) -> None:
    def change(ops: dict) -> None:
        ops["w"].type = "constexpr_of_the_future"

    source, written = edited(saved_body(two_weights, tmp_path), tmp_path, change), tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert [w.name for w in report.decompressed] == ["good"]
    assert {w.name: w.reason for w in report.skipped} == {
        "w": "its form is not known: constexpr_of_the_future is not known",
        "table": "w, which stays compressed, is made from it",
    }
    assert differences(source, written) == ["op main//good: changed"]
    assert "constexpr_of_the_future is not known" in report.to_text()


def test_inner_ops_stay_for_what_stays_compressed(tmp_path: Path) -> None:
    def body(x: Var) -> object:
        draw = np.random.default_rng(0)
        table = mb.constexpr_blockwise_shift_scale(
            data=integers(draw, "int8", (1, 16, 1)), scale=floats(draw, (1, 1, 1)), name="table"
        )
        weights = [
            mb.constexpr_lut_to_dense(indices=integers(draw, "uint4", (24,)), lut=table, name=name)
            for name in ("future", "good")
        ]
        return mb.relu(x=x), *(mb.identity(x=w) for w in weights)

    def change(ops: dict) -> None:
        ops["future"].type = "constexpr_of_the_future"

    source, written = edited(saved_body(body, tmp_path), tmp_path, change), tmp_path / "dense.mlpackage"
    report = decompress_package(source, written, verify=True)
    assert [(w.name, w.status) for w in report.weights] == [("future", "skipped"), ("good", "decompressed")]
    assert differences(source, written) == ["op main//good: changed"]


def test_damage_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    def change(ops: dict) -> None:
        ops["w"].outputs[0].type.tensorType.dimensions[0].constant.size = 25

    source = edited(saved_body(two_weights, tmp_path), tmp_path, change)
    with pytest.raises(BlobError, match=r"'main/w' is declared as fp16 \[25\], but its parts make float16\[24\]"):
        decompress_package(source, tmp_path / "dense.mlpackage")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_the_destination_is_replaced_only_when_asked(fixtures: Path, tmp_path: Path) -> None:
    source, written = fixtures / "palettized_ios16.mlpackage", tmp_path / "dense.mlpackage"
    decompress_package(source, written)
    first = contents(written)
    with pytest.raises(PackageError, match="exists"):
        decompress_package(source, written)
    assert contents(written) == first
    decompress_package(written, written, overwrite=True)
    assert contents(written) == first


def test_verification_sees_a_changed_value(fixtures: Path, tmp_path: Path) -> None:
    source, written = fixtures / "joint_ios18.mlpackage", tmp_path / "dense.mlpackage"
    report = decompress_package(source, written)
    verify_decompressed(source, written, report)
    file = next(weights_dir(written).iterdir())
    data = file.read_bytes()
    users = {offset: keys[0][-1] for (_, offset), keys in blob_users(written).items()}
    for offset, name in users.items():
        changed = bytearray(data)
        changed[offset + 64] ^= 1
        file.write_bytes(changed)
        with pytest.raises(VerifyError, match=name):
            verify_decompressed(source, written, report)
    file.write_bytes(data)
    report.weights.pop()
    with pytest.raises(VerifyError, match=r"'blocks_weight' .* is missing: const 'blocks_weight' is in its place"):
        verify_decompressed(source, written, report)


def test_progress_counts_every_weight(fixtures: Path, tmp_path: Path) -> None:
    events = []
    decompress_package(fixtures / "joint_ios18.mlpackage", tmp_path / "dense.mlpackage", progress=events.append)
    assert [event.weights_done for event in events] == list(range(7))
    assert events[-1].bytes_done == events[-1].bytes_total == 6 * 64 * 48 * 2


# The command line


def test_the_command_line(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    source, written = fixtures / "joint_ios18.mlpackage", tmp_path / "dense.mlpackage"
    code, shown, errors = run("decompress", source, written, "--verify", "--json", "--report", tmp_path / "report.json")
    assert (code, errors) == (0, "")
    report = json.loads(shown)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert (report["action"], report["verified"]) == ("decompressed", True)
    assert {w["status"] for w in report["weights"]} == {"decompressed"}
    assert len(constants(written)) > 0
    code, shown, errors = run("decompress", source, written)
    assert (code, shown, errors.count("\n")) == (3, "", 1)
    assert "overwrite" in errors
    code, shown, _ = run("decompress", source, written, "--overwrite")
    assert code == 0
    assert "6 constants decompressed, 0 left alone" in shown
    assert "4-bit palette, int8 scaled entries" in shown
    assert run("decompress", source, written, "--overwrite", "--quiet") == (0, "", "")
