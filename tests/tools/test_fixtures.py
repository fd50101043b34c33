"""The fixtures load in coremltools, which reads the same values, and are what ``python -m tools.fixtures`` makes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import Block, Operation
from packages import constants, differences, models, read_spec, weights_dir

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
PACKAGES = sorted(p.stem for p in FIXTURES.glob("*.mlpackage"))
# No registry knows the op; PyMIL loads only some flexible models, and those once in a process.
NOT_IN_PYMIL = {"future_op_ios17", "flexible_ios16", "image_classifier_ios15"}


def fixture(name: str) -> Path:
    return FIXTURES / f"{name}.mlpackage"


def test_the_table_lists_the_packages_and_their_targets() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (iOS\d+) \|[^|]*\|$", (FIXTURES / "README.md").read_text(), re.M)
    assert sorted(name for name, _ in rows) == PACKAGES
    for name, target in rows:
        assert read_spec(fixture(name)).specificationVersion == getattr(ct.target, target), name


@pytest.mark.parametrize("package", PACKAGES)
def test_coremltools_opens_them(package: str) -> None:
    model = ct.models.MLModel(str(fixture(package)), skip_model_load=True)
    assert model.get_spec() == read_spec(fixture(package))


def test_they_stay_small() -> None:
    sizes = [file.stat().st_size for file in FIXTURES.rglob("*") if file.is_file()]
    assert sum(sizes) < 3_000_000


def pymil_values(block: Block, found: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Output name -> values (several where names repeat) of PyMIL's const and constexpr ops."""
    for op in block.operations:
        if op.op_type == "const":
            found.setdefault(op.outputs[0].name, []).append(np.asarray(op.outputs[0].val))
        elif op.op_type.startswith("constexpr_"):
            values = materialized(op)
            for output, value in zip(op.outputs, values, strict=True):
                found.setdefault(output.name, []).append(value)
        for nested in op.blocks:
            pymil_values(nested, found)
    return found


def materialized(op: Operation) -> tuple[np.ndarray, ...]:
    # coremltools 9 has no rule for a table that is itself an op's output.
    if op.op_type == "constexpr_lut_to_dense" and op.lut.val is None:
        return (type(op).decompress(op.indices.val, op.lut.op.materialized_val_inference(), None),)
    value = op.materialized_val_inference()
    return value if isinstance(value, tuple) else (value,)


def programs(package: str) -> Iterator[tuple[str, ct.models.MLModel]]:
    """Each ML Program of a package as a model of its own."""
    whole = ct.models.MLModel(str(fixture(package)), skip_model_load=True)
    for label, model in models(whole.get_spec()):
        if model.WhichOneof("Type") == "mlProgram":
            yield label, model


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal arrays, NaN where NaN; of strings too."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@pytest.mark.parametrize("package", [p for p in PACKAGES if p not in NOT_IN_PYMIL])
def test_coremltools_loads_them_and_reads_the_values_that_we_read(package: str) -> None:
    ours = {place: decode for place, (_, decode) in constants(fixture(package)).items()}
    compared = set()
    for label, model in programs(package):
        program = load(model, model.specificationVersion, str(weights_dir(fixture(package))))
        for function, block in program.functions.items():
            theirs = pymil_values(block, {})
            for place, decode in ours.items():
                values = theirs.get(place[-1], []) if place[:2] == (label, function) else []
                if values:
                    assert any(equal(decode(), value) for value in values), place
                    compared.add(place)
    # PyMIL renames what repeats in sibling blocks; that has a test of its own below.
    assert {place[-1] for place in ours.keys() - compared} <= {"branch_weight"}


@pytest.mark.slow
def test_the_tool_makes_them_again_and_its_check_sees_one_changed_byte(tmp_path: Path) -> None:
    """One run says both: of all packages it names the one file changed here, and no other."""
    folder = Path(shutil.copytree(FIXTURES, tmp_path / "fixtures"))
    file = weights_dir(folder / "extras_ios16.mlpackage") / "weight.bin"
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    command = [sys.executable, "-m", "tools.fixtures", "--check", "--folder", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout == "extras_ios16.mlpackage/Data/com.apple.CoreML/weights/weight.bin: differs\n", run.stderr
    assert run.returncode == 1


def test_saving_through_coremltools_moves_nothing(tmp_path: Path) -> None:
    """The packages are as regular as coremltools' own: loading and saving one keeps every piece."""
    saved = tmp_path / "conv.mlpackage"
    ct.models.MLModel(str(fixture("conv_fp16_ios16")), skip_model_load=True).save(str(saved))
    assert differences(fixture("conv_fp16_ios16"), saved) == []
