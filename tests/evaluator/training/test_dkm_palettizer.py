"""``DKMPalettizer``: from ``prepare`` to a package whose tables are those that were learned."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coremltools.optimize.torch import palettization as theirs  # noqa: E402
from packages import constants  # noqa: E402
from small_networks import Net, config, data, net, trained, values  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import mil_palettize.torch as ours  # noqa: E402
from mil_palettize.torch import DKMPalettizer, MILModule  # noqa: E402


def used(layer):
    """The weight that a linear layer multiplies with, whoever prepared it."""
    size = layer.weight.shape[1]
    return layer(torch.eye(size)).detach() - layer(torch.zeros(1, size)).detach()


def converted(model, folder, target=ct.target.iOS18, **options):
    x = torch.zeros(1, 3, 8, 8)
    made = ct.convert(
        torch.jit.trace(model, x),
        inputs=[ct.TensorType("x", x.shape)],
        minimum_deployment_target=target,
        skip_model_load=True,
        **options,
    )
    made.save(str(folder / "made.mlpackage"))
    return folder / "made.mlpackage"


def tables(package):
    """By the constant's name, what the independent reader decodes of each palette."""
    return {key[3]: read() for key, (op, read) in constants(package).items() if op.type == "constexpr_lut_to_dense"}


OPTIONS = [
    {"n_bits": 2},
    {"n_bits": 1, "palett_mode": "hard"},
    {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 4},
    {"n_bits": 2, "cluster_dim": 2},
    {"n_bits": 2, "enable_per_channel_scale": True},
    {"n_bits": 3, "lut_dtype": "i8"},
    {"n_bits": 3, "lut_dtype": "u8"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_was_learned_is_what_the_package_holds(options, tmp_path) -> None:
    """Eval mode, the finalized model and the package give the same outputs; tables are of 2**n entries."""
    palettizer = DKMPalettizer(net(), config(**options))
    model = trained(palettizer.prepare(), palettizer)
    x = data(1)[0][0]
    wanted = model.eval()(x)
    final = palettizer.finalize()
    torch.testing.assert_close(final(x), wanted, rtol=1e-4, atol=1e-4)
    package = converted(final, tmp_path)
    found = MILModule.from_package(package)
    (given,) = found(x=x[:1]).values()
    torch.testing.assert_close(given, wanted[:1], rtol=1e-2, atol=1e-2)
    kinds = [op.type for op, _ in constants(package).values()]
    assert kinds.count("constexpr_lut_to_dense") == 4
    assert not any(step.info.type == "batch_norm" for step in found.function.block.all_steps())


@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18])
def test_tables_survive_conversion_bit_for_bit(target, tmp_path) -> None:
    """Also that of the convolution that a batch norm was fused into."""
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    trained(palettizer.prepare(), palettizer)
    final = palettizer.finalize()
    found = tables(converted(final, tmp_path, target, pass_pipeline=ct.PassPipeline.DEFAULT_PALETTIZATION))
    assert len(found) == 4
    for name in ("conv", "up", "linear", "last"):
        wanted = getattr(final, name).weight.detach()
        assert values(wanted) <= 4
        half = wanted.numpy().astype(np.float16)
        assert np.array_equal(half.astype(np.float32), wanted.numpy())
        (match,) = [array for key, array in found.items() if key.startswith(name)]
        assert np.array_equal(np.sort(match, axis=None), np.sort(half, axis=None))


@pytest.mark.parametrize("milestone", [0, 1, 2])
def test_weights_begin_with_the_step_that_coremltools_begins_them_with(milestone) -> None:
    entries = {"n_bits": 2, "weight_threshold": 100, "milestone": milestone}

    def begun(family):
        """After ``prepare`` and after each call of ``step``."""
        made = family.DKMPalettizerConfig.from_dict({"module_type_configs": {nn.Linear: entries}})
        palettizer = family.DKMPalettizer(net(), made)
        model = palettizer.prepare()
        seen = [values(used(model.linear)) < 240]
        for _ in range(4):
            palettizer.step()
            seen.append(values(used(model.linear)) < 240)
        assert len(palettizer.report()) == 1  # `last` is no larger than the threshold
        return seen

    assert begun(ours) == begun(theirs) == [step > milestone or not milestone for step in range(5)]


def test_a_weight_whose_milestone_never_came_stays(caplog) -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2, milestone=99))
    model = trained(palettizer.prepare(), palettizer)
    before = model.linear.weight.detach().clone()
    final = palettizer.finalize()
    assert torch.equal(final.linear.weight, before)
    assert "milestone of 99 steps has not come" in caplog.text


def test_the_model_given_stays_as_it_is() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    palettizer = DKMPalettizer(model, config(n_bits=2))
    prepared = trained(palettizer.prepare(), palettizer)
    palettizer.finalize()
    trained(prepared, palettizer)  # goes on after a copy was finalized
    assert values(prepared.eval().linear.weight) <= 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert palettizer.finalize(inplace=True) is not model
    inplace = DKMPalettizer(model, config(n_bits=2))
    assert inplace.prepare(inplace=True) is model
    assert inplace.finalize(inplace=True) is model
    assert type(model.conv) is nn.Conv2d
    assert values(model.conv.weight) <= 4


def test_training_goes_on_from_a_checkpoint() -> None:
    """Half the steps, saved, loaded into a new model, and the other half give the very weights of one run."""

    def optimizer_of(model):
        return torch.optim.SGD(model.parameters(), 0.1)

    def steps(model, palettizer, batches):
        optimizer = optimizer_of(model)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            palettizer.step()

    whole = DKMPalettizer(net(), config(n_bits=2, milestone=1))
    model = whole.prepare()
    steps(model, whole, data(4))
    first = DKMPalettizer(net(), config(n_bits=2, milestone=1))
    half = first.prepare()
    steps(half, first, data(4)[:2])
    saved = half.state_dict(), first.state_dict()
    second = DKMPalettizer(Net(), config(n_bits=2, milestone=1))
    other = second.prepare()
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    steps(other, second, data(4)[2:])
    for name, value in whole.finalize().state_dict().items():
        assert torch.equal(value, second.finalize().state_dict()[name]), name


def test_tied_weights_have_one_palette() -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.embedding(ids))

    model = Tied()
    palettizer = DKMPalettizer(model, config(n_bits=2))
    prepared = palettizer.prepare()
    assert len(list(prepared.parameters())) == 1
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    for _ in range(3):
        ids = torch.randint(0, 50, (7,))
        optimizer.zero_grad()
        F.cross_entropy(prepared(ids), ids).backward()
        optimizer.step()
        palettizer.step()
    final = palettizer.finalize()
    assert final.head.weight is final.embedding.weight
    assert values(final.head.weight) <= 4


@pytest.mark.parametrize("kdim", [None, 12])
def test_attention_is_palettized_with_its_projections(kdim) -> None:
    model = nn.MultiheadAttention(16, 4, kdim=kdim, vdim=kdim, batch_first=True)
    palettizer = DKMPalettizer(model, config(n_bits=2))
    prepared = palettizer.prepare()
    x, y = torch.randn(2, 5, 16), torch.randn(2, 5, kdim or 16)
    prepared(x, y, y)[0].square().mean().backward()
    palettizer.step()
    wanted = prepared.eval()(x, y, y)[0]
    final = palettizer.finalize()
    torch.testing.assert_close(final(x, y, y)[0], wanted)
    names = ["in_proj_weight"] if kdim is None else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    for weight in [final.out_proj.weight, *(getattr(final, name) for name in names)]:
        assert values(weight) <= 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types(dtype) -> None:
    model = nn.Linear(16, 16).to(dtype)
    palettizer = DKMPalettizer(model, config(n_bits=2))
    prepared = palettizer.prepare()
    prepared(torch.randn(3, 16, dtype=dtype)).square().mean().backward()
    palettizer.step()
    final = palettizer.finalize()
    assert final.weight.dtype == dtype
    assert values(final.weight) <= 4


def test_mixed_precision() -> None:
    palettizer = DKMPalettizer(net(), config(n_bits=2))
    model = palettizer.prepare()
    x, y = data(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    assert model.linear.parametrizations.weight.original.grad.dtype == torch.float32
    assert model.linear.parametrizations.weight[0].tables.dtype == torch.float32
