"""How operators of torch read a weight: the matrices that are told, multiplied with the inputs that are told."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mil_palettize.torch.training.weight_reads import reads_of  # noqa: E402

CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, padding="same", groups=2), (2, 4, 9)),
    (nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2)), (2, 3, 8, 9)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect").to(memory_format=torch.channels_last), (1, 3, 5, 5)),
    (nn.Conv3d(2, 3, 2, padding=1), (1, 2, 3, 4, 3)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 5)),
    (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, dilation=2), (2, 3, 4, 5)),
    (nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 2, 3, 2)),
]


def read_once(module, *given):
    with torch.no_grad(), reads_of(module.weight) as found:
        out = module(*given)
    (read,) = found
    return read, out


@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda value: str(value)[:60])
def test_convolutions(module, shape) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    read, out = read_once(module, x)
    columns = read.inputs(10**6, np.random.default_rng(0)).columns
    weight = module.weight.detach().contiguous().reshape(-1)[torch.from_numpy(read.where)]
    made = (columns @ weight.mT).reshape(len(weight), len(x), -1, weight.shape[1])  # groups, batch, positions, rows
    made = made.permute(1, 0, 3, 2).reshape(out.shape) + module.bias.reshape(-1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(made, out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(bias) -> None:
    x = torch.randn(2, 5, 4)
    module = nn.Linear(4, 3, bias=bias)
    read, out = read_once(module, x)
    weight = module.weight.detach().reshape(-1)[torch.from_numpy(read.where[0])]
    made = read.inputs(1, np.random.default_rng(0)).columns[0] @ weight.T + (module.bias if bias else 0.0)
    torch.testing.assert_close(made.reshape(out.shape), out)


def test_embeddings_are_counted() -> None:
    read, _ = read_once(nn.Embedding(5, 2), torch.tensor([[1, 4], [4, 4]]))
    assert read.looks_up
    assert read.counts(10).reshape(5, 2).tolist() == [[0, 0], [1, 1], [0, 0], [0, 0], [3, 3]]


@pytest.mark.parametrize("itself", [True, False])
def test_attention_reads_each_element_of_its_projections_once(itself) -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 3, 8)
    for weight in (module.in_proj_weight, module.out_proj.weight):
        with torch.no_grad(), reads_of(weight) as found:
            module(x, x if itself else x.flip(1), x if itself else x.flip(1))
        places = np.concatenate([read.where.reshape(-1) for read in found])
        assert np.array_equal(np.sort(places), np.arange(weight.numel()))


def test_layer_norms_are_no_matrices() -> None:
    module = nn.LayerNorm(4)
    with torch.no_grad(), reads_of(module.weight) as found:
        module(torch.randn(2, 4))
    assert found == []
