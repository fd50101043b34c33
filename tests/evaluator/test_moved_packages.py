"""A package moved to a later opset, without palettes, computes what it did: judged by running both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from mil_palettize import OpPalettizerConfig, OptimizationConfig, VerifyError, compare, palettize_package
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import Change, Opset, parse_target
from mil_palettize.rewriting.palette_writer import write_palettes

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=100))
# Package -> the targets it can move to.
MOVES = {
    "conv_fp16_ios15": ["iOS16", "iOS18"],
    "image_classifier_ios15": ["iOS17"],
    "embedding_linear_ios16": ["iOS17", "iOS26"],  # negative indices
    "palettized_ios16": ["iOS18"],
    "quantized_sparse_ios16": ["iOS18"],  # every compressed form in its other shape
    "recurrent_fp32_ios16": ["iOS18"],
    "loop_ios16": ["iOS17"],
}


@pytest.mark.parametrize(("name", "target"), [(name, target) for name in MOVES for target in MOVES[name]])
def test_outputs_stay_the_same(name: str, target: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / f"{name}.mlpackage"
    moved = tmp_path / "moved.mlpackage"
    moved.mkdir()
    with Model.open(source) as model:
        model.move(parse_target(target))
        write_palettes(model, {}, moved)
    found = compare(source, moved, random=3)
    assert found.outputs
    for output in found.outputs:
        assert output.figures is None or output.figures.max_abs == 0, output
        assert output.agreement in (None, 1)


def test_check_runs_the_move_alone(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "conv_fp16_ios16.mlpackage"
    report = palettize_package(source, tmp_path / "out.mlpackage", CONFIG, target="iOS18", check=True, verify=True)
    assert "the move to iOS18 was run without palettes: the outputs are the same" in report.notes
    assert report.check is not None
    assert any(output.figures is not None and output.figures.max_abs > 0 for output in report.check.outputs)
    stays = palettize_package(source, tmp_path / "stays.mlpackage", CONFIG, check=True)
    assert not any("without palettes" in note for note in stays.notes)


def test_a_wrong_move_is_found(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification makes the same wrong move, and so cannot see it."""
    right = Model.move

    def wrong(model: Model, target: Opset) -> list[Change]:
        changes = right(model, target)
        for stage in model.stages:
            for function in stage.program.functions.values():
                for block in function.block_specializations.values():
                    for op in block.operations:
                        if op.type == "conv" and "bias" in op.inputs:
                            op.inputs["bias"].Clear()
                            del op.inputs["bias"]
        return changes

    source, path = fixtures / "conv_fp16_ios16.mlpackage", tmp_path / "out.mlpackage"
    monkeypatch.setattr(Model, "move", wrong)
    assert palettize_package(source, path, CONFIG, target="iOS18", verify=True).verified
    with pytest.raises(VerifyError, match=r"the move to iOS18 changes .* also without palettes") as caught:
        palettize_package(source, path, CONFIG, target="iOS18", check=True, verify=True, overwrite=True)
    assert "\n" not in str(caught.value)
    assert np.all([entry.name == "out.mlpackage" for entry in tmp_path.iterdir()])
