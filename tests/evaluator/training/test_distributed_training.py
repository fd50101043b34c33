"""Two processes train one palettized model: both end with the same tables, and with those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from mil_palettize.torch import DKMPalettizer, DKMPalettizerConfig  # noqa: E402

pytestmark = pytest.mark.slow


def data():
    torch.manual_seed(1)
    return [(torch.randn(8, 16), torch.randint(0, 4, (8,))) for _ in range(4)]


def trained(wrap, part: slice):
    torch.manual_seed(0)
    config = DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 0}})
    palettizer = DKMPalettizer(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), config)
    model = wrap(palettizer.prepare(inplace=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, y in data():
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        palettizer.step()
    return palettizer.finalize(inplace=True).state_dict()


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    torch.save(trained(DistributedDataParallel, slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = trained(lambda model: model, slice(0, 8))
    assert first.keys() == second.keys() == alone.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value.float(), alone[name].float(), rtol=2e-3, atol=2e-3)


def test_a_compiled_model_trains_alike() -> None:
    """Palettes are made between the compiled parts."""
    compiled = trained(lambda model: torch.compile(model, backend="eager"), slice(0, 8))
    plain = trained(lambda model: model, slice(0, 8))
    assert [name.removeprefix("_orig_mod.") for name in compiled] == list(plain)
    for name, value in zip(plain, compiled.values(), strict=True):
        torch.testing.assert_close(value, plain[name])
