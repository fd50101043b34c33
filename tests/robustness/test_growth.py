"""Nothing grows faster than what is read: counted, or bounded by a limit that is told; never timed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from mil_messages import block, const, function, kind, op, program, reading, surveyed, value, write_package

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    decompress_package,
    inspect_package,
    palettize_package,
)
from mil_palettize.errors import ConfigError
from mil_palettize.package.array_files import read_members
from mil_palettize.program import chains, consumers
from mil_palettize.program.chains import find_chains, inner_ops
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.op_names import LONGEST_NAME
from mil_palettize.program.stages import pipeline_models
from mil_palettize.request.entries import load_config

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=8))
RANDOM = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float16)


def stored(shape: tuple[int, ...], dtype: str, data: bytes) -> MIL.Value:
    made = MIL.Value(type=kind(shape, dtype))
    made.immediateValue.tensor.bytes.values = data
    return made


def sharing(count: int) -> MIL.Program:
    """Palettes that all have the indices of one constant."""
    indices = stored((16, 16), "UINT4", bytes(range(128)))
    shared = MIL.Operation(type="const", attributes={"name": value("shared"), "val": indices})
    shared.outputs.add(name="shared", type=indices.type)
    ops = [shared]
    for number in range(count):
        table = value(RANDOM.reshape(-1)[number : number + 16].reshape(1, 1, 16, 1))
        bound = {"indices": "shared", "lut": table}
        ops += [op("constexpr_lut_to_dense", f"w{number}", bound, shape=(16, 16)), reading(f"w{number}", f"y{number}")]
    return program(*ops, outputs=["y0"])


def test_a_part_of_many_constants_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at all who read it would be the square of their number."""
    looked = []
    original = chains.GoneOps._is_last_read
    monkeypatch.setattr(
        chains.GoneOps, "_is_last_read", lambda self, source: looked.append(1) or original(self, source)
    )
    found = find_chains(surveyed(sharing(50)).sites)
    assert [gone.outputs[0].name for gone in inner_ops(found).values()] == ["shared"]
    assert len(looked) == 50
    assert not inner_ops(found[:49])
    assert not inner_ops(found[1:])


def test_a_part_of_many_constants_goes_with_the_last(tmp_path: Path) -> None:
    package = write_package(tmp_path / "in.mlpackage", sharing(20))
    decompress_package(package, tmp_path / "dense.mlpackage", workers=1, verify=True)
    palettize_package(package, tmp_path / "out.mlpackage", CONFIG, workers=1, redo=True, verify=True)


def test_keys_of_shared_parts_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_chains(surveyed(sharing(50)).sites)
    digests: dict[int, bytes] = {}
    keys = {chains.chain_key(chain.node, digests) for chain in found}
    assert len(keys) == 50
    assert len(digests) == 51
    assert keys == {chains.chain_key(chain.node) for chain in found}


def test_new_names_go_on_where_the_last_one_was() -> None:
    names = NameSource(function({"CoreML8": block(const("w_7", RANDOM), outputs=["w_7"])}, ()))
    assert [names.unique("w") for _ in range(9)] == ["w", *(f"w_{n}" for n in (1, 2, 3, 4, 5, 6, 8, 9))]
    assert names.unique("w_7") == "w_7_1"


def test_stages_of_one_name() -> None:
    model = Model_pb2.Model()
    for name in ("a", "a", "a (2)", "a", ""):
        model.pipeline.models.add()
        model.pipeline.names.append(name)
    assert [label for label, _ in pipeline_models(model)] == ["a", "a (2)", "a (2) (2)", "a (3)", "4"]


def test_constants_that_many_read_through_one_op(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"w{number}" for number in range(10)]
    joined = op("concat", "c", {"values": names}, shape=(160, 16))
    body = program(*(const(name, RANDOM) for name in names), joined, *(reading("c", f"y{n}") for n in range(10)))
    assert [len(site.weight.consumers) for site in surveyed(body).sites] == [10] * 10
    monkeypatch.setattr(consumers, "MOST_STEPS", 99)
    with pytest.raises(PackageError, match="with others of its function in ways of more than 99 ops"):
        surveyed(body)


def long_block() -> MIL.Program:
    inner = block(const("w", RANDOM), reading("w", "y"), outputs=["y"])
    outer = op("cond", "n" * (LONGEST_NAME + 1), {"pred": value(np.bool_(True))}, shape=(1, 16), blocks=[inner])
    return program(outer, outputs=["y"])


LONG = {
    "a value": lambda: program(const("w" * (LONGEST_NAME + 1), RANDOM)),
    "an op's type": lambda: program(op("t" * (LONGEST_NAME + 1), "y", {"x": "x"})),
    "an input": lambda: program(op("linear", "y", {"x" * (LONGEST_NAME + 1): "x"})),
    "an op with blocks": long_block,
    "a function": lambda: MIL.Program(
        version=1, functions={"f" * (LONGEST_NAME + 1): function({"CoreML8": block(const("w", RANDOM))}, ())}
    ),
}


@pytest.mark.parametrize("what", LONG)
def test_names_that_everything_below_would_repeat(what: str, tmp_path: Path) -> None:
    package = write_package(tmp_path / "in.mlpackage", LONG[what]())
    with pytest.raises(PackageError, match=rf"a name of {LONGEST_NAME + 1} characters"):
        inspect_package(package)


def test_paths_of_blocks_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = block(const("w", RANDOM), reading("w", "y"), outputs=["y"])
    for number in range(8):
        outer = op("cond", f"{number}" * 1500, {"pred": value(np.bool_(True))}, shape=(1, 16), blocks=[inner])
        inner = block(outer, outputs=[outer.outputs[0].name])
    body = MIL.Program(version=1, functions={"main": function({"CoreML8": inner}, (("x", (1, 16)),))})
    paths = {site.weight.block for site in surveyed(body).sites}
    assert all(len(path) < 8000 for path in paths)


# Configs


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("config_type: OpPalettizerConfig\n" + text)
    return path


def test_merges_that_double(tmp_path: Path) -> None:
    """Forty lines of them are 2**40 entries."""
    lines = ["a0: &a0 {x: 1, y: 2}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 41))]
    with pytest.raises(ConfigError, match="its aliases stand for many times what is written"):
        load_config(config(tmp_path, "\n".join(lines)))
    lines = lines[:14]
    with pytest.raises(ConfigError, match="merges more than 10000 entries"):
        load_config(config(tmp_path, "\n".join(lines)))


def test_aliases_that_double(tmp_path: Path) -> None:
    """An error that shows the value would be of 2**40 parts."""
    lists = ", ".join(["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 41))])
    with pytest.raises(ConfigError, match="its aliases stand for many times what is written"):
        load_config(config(tmp_path, f"global_config: [{lists}]"))


def test_errors_show_a_part_of_what_they_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a mapping of options or null") as caught:
        load_config(config(tmp_path, f"global_config: [{', '.join(['abc'] * 50_000)}]"))
    assert len(str(caught.value)) < 1500


def test_merges_that_people_write(tmp_path: Path) -> None:
    text = """
op_type_configs:
  conv: &few
    mode: kmeans
    nbits: 4
  linear:
    <<: *few
    nbits: 6
"""
    found = load_config(config(tmp_path, text)).by_type
    assert [(found[name].mode, found[name].nbits) for name in ("conv", "linear")] == [("kmeans", 4), ("kmeans", 6)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &a {<<: *a}", "is not a coremltools OptimizationConfig"),
        ("a: {<<: 3}", "line 2 merges what is no mapping"),
        ("? [a, b]\n: c", "line 2 has a key that is no text"),
        (f"a: {'1:' * 3000}1", "line 2 holds a value of 6001 characters"),
        ("1: a\n'1': b", "'1' is given twice, in lines 2 and 3"),
    ],
)
def test_configs_that_are_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(config(tmp_path, text))


def test_keys_are_text(tmp_path: Path) -> None:
    """As numbers, keys could be chosen to be all alike to a table."""
    found = load_config(config(tmp_path, f"op_name_configs: {{1: null, {2**61 - 1}: null, .nan: null}}"))
    assert set(found.by_name) == {"1", str(2**61 - 1), "nan"}


# Archives


def lying() -> bytes:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode() + bytes(64)


def archive(members: dict[str, bytes], kind_of_packing: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind_of_packing) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def overlapping() -> bytes:
    """Two entries of one member."""
    whole = archive({"a.npy": bytes(4096), "b.npy": b""}, zipfile.ZIP_STORED)
    entries = [at for at in range(len(whole) - 4) if whole[at : at + 4] == b"PK\x01\x02"]
    changed = bytearray(whole)
    changed[entries[1] + 16 : entries[1] + 28] = whole[entries[0] + 16 : entries[0] + 28]
    return bytes(changed)


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "an array of a size that is only claimed": ("x.npy", lying, "its header says float64"),
    "one in an archive": ("x.npz", lambda: archive({"a.npy": lying()}, zipfile.ZIP_STORED), "its header says float64"),
    "packed a million to one": (
        "x.npz", lambda: archive({"a.npy": bytes(1 << 24)}, zipfile.ZIP_BZIP2), "is packed 1100-fold and more",
    ),
    "members over each other": ("x.npz", overlapping, "its members lie over each other"),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_archives_that_claim_more_than_they_have(what: str, tmp_path: Path) -> None:
    name, made, told = BOMBS[what]
    (tmp_path / name).write_bytes(made())
    with pytest.raises(PackageError, match=told):
        read_members(tmp_path / name, "a file of arrays", "save arrays")


def test_archives_that_are_packed_as_people_do(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1 << 20), b=np.arange(3))
    found = read_members(tmp_path / "x.npz", "a file of arrays", "save arrays")
    assert isinstance(found, dict)
    assert {name: len(array) for name, array in found.items()} == {"a": 1 << 20, "b": 3}
