"""Every example runs as it stands, and shows what it says."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
from packages import constants

pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(name: str, capsys: Shown) -> str:
    """What the example prints."""
    runpy.run_path(str(EXAMPLES / name), run_name="example")["main"]()
    return capsys.readouterr().out


def kinds(package: str) -> Counter[str]:
    """Types of the constants of a package, by the independent reader."""
    return Counter(op.type for op, _ in constants(Path(package)).values())


def test_every_example_is_in_the_list_and_has_its_test() -> None:
    listed = set(re.findall(r"examples/(\w+\.\w+)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    tests = Path(__file__).read_text()
    assert [name for name in listed if f'"{name}"' not in tests] == []


def test_palettize_and_compare(capsys: Shown) -> None:
    out = shown("palettize_and_compare.py", capsys)
    assert re.search(r"^lost most: \w+_weight, \d", out, re.M)
    assert "too bad" not in out
    assert kinds("out/small.mlpackage")["constexpr_lut_to_dense"] == 5


def test_calibrate_on_samples(capsys: Shown) -> None:
    found = {
        name: float(value)
        for name, value in re.findall(r"(\w+): ([\d.]+) dB", shown("calibrate_on_samples.py", capsys))
    }
    assert found["calibrated"] > found["plain"] + 6


def test_fit_a_size(capsys: Shown) -> None:
    out = shown("fit_a_size.py", capsys)
    asked, planned, written = map(int, re.findall(r"asked for (\d+).*planned (\d+), written (\d+)", out)[0])
    assert planned == written <= asked


def test_convert_with_palettes(capsys: Shown) -> None:
    assert "SNR dB" in shown("convert_with_palettes.py", capsys)
    assert kinds("out/converted.mlpackage")["constexpr_lut_to_dense"] == 2


def test_learn_palettes(capsys: Shown) -> None:
    out = shown("learn_palettes.py", capsys)
    found = {name: float(value) for name, value in re.findall(r"^(.*): ([\d.]+)%", out, re.M)}
    assert found["2 bits"] > 90
    assert kinds("out/learned.mlpackage")["constexpr_lut_to_dense"] == 3


def test_first_model(capsys: Shown) -> None:
    """Its cells, one after another, in a folder of the project as Jupyter opens it."""
    notebook = json.loads((EXAMPLES / "first_model.ipynb").read_text())
    (Path.cwd() / "fixtures").symlink_to(EXAMPLES.parent / "fixtures")
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["after"] > names["before"]
