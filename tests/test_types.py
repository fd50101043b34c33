"""Type checkers see what options may be: the package has its types with it."""

from __future__ import annotations

from pathlib import Path

import pytest

USES = """
from coremltools.models import MLModel
from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report, compare, palettize_package, palettize_weights

config = OptimizationConfig(global_config=OpPalettizerConfig(mode="kmeans", nbits=4, granularity="per_tensor"))
OpPalettizerConfig(mode="kmean")  # wrong
OpPalettizerConfig(nbits=5)  # wrong
OpPalettizerConfig(nbits=4, lut_dtype="int4")  # wrong
OpPalettizerConfig(nbits=4, granularity="per_channel")  # wrong
palettize_package("a", "b", config, select="every")  # wrong
compare("a", "b", precision="fp8")  # wrong
model, report = palettize_weights(MLModel("a"), config, return_report=True)
told: str = report.to_text()
report.to_txt()  # wrong
"""


@pytest.mark.slow
def test_wrong_options_are_found(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "uses.py").write_text(USES)
    told, _, _ = api.run(["--config-file", str(Path(__file__).parents[1] / "setup.cfg"), str(tmp_path / "uses.py")])
    found = {int(line.split(":")[1]) for line in told.splitlines() if ": error:" in line}
    assert found == {number for number, line in enumerate(USES.splitlines(), start=1) if line.endswith("# wrong")}, told
