"""What the pins of setup.cfg protect: ``ct.convert`` of ordinary torch models under the installed numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from packages import constants, read_spec

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mil-palettize[torch]'")


class Flatten(torch.nn.Module):
    """A conv net that flattens as most do; numpy 2.4 breaks the conversion of ``x.size(0)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.linear = torch.nn.Linear(8 * 8 * 8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.linear(x.view(x.size(0), -1))


def encoder() -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True, dropout=0.0)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.fixture(params=["flatten", "transformer"])
def model(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if request.param == "flatten":
        return Flatten().eval(), torch.randn(1, 3, 8, 8)
    return encoder().eval(), torch.randn(1, 6, 32)


def test_torch_models_convert(model: tuple[torch.nn.Module, torch.Tensor], tmp_path: Path) -> None:
    network, example = model
    # Under no_grad, as in the check, torch would trace its fused encoder op, which coremltools does not know.
    traced = torch.jit.trace(network, example, check_trace=False)
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape=tuple(example.shape))],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    package = tmp_path / "converted.mlpackage"
    converted.save(str(package))
    assert read_spec(package).WhichOneof("Type") == "mlProgram"
    stored = [decode() for op, decode in constants(package).values() if op.type == "const"]
    for name, weight in network.state_dict().items():
        # The joint projection of attention is split up; all other weights are kept as they are.
        if weight.ndim > 1 and "in_proj" not in name:
            array = weight.numpy()
            assert any(np.array_equal(array, found) for found in stored if found.shape == array.shape), name
