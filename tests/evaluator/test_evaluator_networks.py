"""Whole networks: converted by coremltools and run by the evaluator, against torch; and packages of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import converted  # noqa: E402
from evaluator_networks import NETWORKS, tokens  # noqa: E402
from image_networks import ResNet  # noqa: E402
from sequence_networks import CachedDecoder  # noqa: E402
from slow_cases import slow_where  # noqa: E402

from mil_palettize import compare  # noqa: E402
from mil_palettize.torch import MILModule, open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("MIL_PALETTIZE_MODELS", ROOT.parent / "shared" / "models"))
DATA = ROOT.parent / "shared" / "data"
HALF, FULL = ct.precision.FLOAT16, ct.precision.FLOAT32
QUICK_HALF = ("resnet", "lstm", "audio")  # conversion takes its time
OF_ANOTHER_OPSET = ("transformer_ios18", "attention_ios16", "lstm_forward")
PIXEL_MEAN, PIXEL_SPREAD = (np.float32(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


@pytest.fixture(autouse=True)
def _traceable_attention() -> Iterator[None]:
    """Torch's fused attention layer cannot be traced."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def snr(found: np.ndarray, wanted: np.ndarray) -> float:
    """In decibels."""
    noise = np.square(found.astype(np.float64) - wanted).sum()
    return float("inf") if noise == 0 else float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / noise))


def outputs_of(module: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Of a torch module."""
    with torch.no_grad():
        found = module(*(torch.as_tensor(a) for a in arrays))
    return [f.numpy() for f in (found if isinstance(found, tuple) else (found,))]


def held(found: dict[str, Any], wanted: list[np.ndarray], check: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Shapes and integers are the same, and floats pass."""
    assert len(found) == len(wanted)
    for one, two in zip(found.values(), wanted, strict=True):
        assert one.shape == two.shape
        assert np.isfinite(one).all()
        if two.dtype.kind == "f":
            check(one, two)
        else:
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", slow_where(lambda name: name in OF_ANOTHER_OPSET, NETWORKS))
def test_float32_is_what_torch_computes(name: str) -> None:
    network = NETWORKS[name]
    module, arrays = network.module(), network.arrays()
    ours = converted(module, *arrays, target=network.target, compute_precision=FULL)
    # Group norms scale by 1 / sqrt(1 + 1e-5) too much, as the converter has them: a batch norm with Core ML's epsilon.
    rtol = 1e-4 if name == "unet" else 2e-5

    def check(one: np.ndarray, two: np.ndarray) -> None:
        np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol * np.abs(two).max())

    held(ours.predict({f"x{i}": a for i, a in enumerate(arrays)}), outputs_of(module, arrays), check)


@pytest.mark.parametrize("name", slow_where(lambda name: name not in QUICK_HALF, NETWORKS))
def test_float16_is_near_what_torch_computes(name: str) -> None:
    """Weights rounded, and then also every result."""
    network = NETWORKS[name]
    module, arrays = network.module(), network.arrays()
    ours = converted(module, *arrays, target=network.target, compute_precision=HALF)
    wanted = outputs_of(module, arrays)
    for rounded in (False, True):
        ours._half = rounded

        def check(one: np.ndarray, two: np.ndarray) -> None:
            assert snr(one, two) > 40

        held(ours.predict({f"x{i}": a for i, a in enumerate(arrays)}), wanted, check)


# States


def decoder_package(module: CachedDecoder, precision: Any) -> MILModule:
    """With states, and as many new tokens at a time as are given."""
    given = (torch.zeros(1, 3, dtype=torch.int32), torch.zeros(1, 1, 3, 3))
    with torch.no_grad():  # what is assigned to a buffer would take its history along
        traced = torch.jit.trace(module, given, check_trace=False)
    new, end = ct.RangeDim(1, 8, default=3), ct.RangeDim(1, 8, default=3)
    shape = tuple(module.keys.shape)
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("ids", (1, new), np.int32), ct.TensorType("mask", (1, 1, new, end), np.float32)],
        outputs=[ct.TensorType("scores", dtype=np.float32)],
        states=[
            ct.StateType(wrapped_type=ct.TensorType(shape=shape, dtype=np.float16), name=name)
            for name in ("keys", "values")
        ],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=precision,
        skip_model_load=True,
    )
    opened = MILModule.from_package(model.package_path)
    opened.state_dict()
    return opened


@pytest.mark.parametrize("precision", [FULL, HALF])
def test_a_cache_of_keys_and_values(precision: Any) -> None:
    """Step by step: several tokens at first, then one at a time. Another state knows nothing of it."""
    torch.manual_seed(0)
    module = CachedDecoder().eval()
    ours = decoder_package(module, precision)
    ids = tokens(1, 8)
    state, first = ours.make_state(), None
    for cache in module.buffers():  # tracing has left something there
        cache.zero_()
    end = 0
    for count in (3, 1, 1, 1, 2):
        begin, end = end, end + count
        mask = np.triu(np.full((count, end), -1e4, np.float32), begin + 1)[None, None]
        (wanted,) = outputs_of(module, [ids[:, begin:end], mask])
        given = {"ids": ids[:, begin:end], "mask": mask}
        found = ours.predict(given, state)["scores"]
        assert found.shape == wanted.shape
        assert snr(found, wanted) > (100 if precision is FULL else 40)
        first = (given, found) if first is None else first
    np.testing.assert_array_equal(ours.predict(first[0], ours.make_state())["scores"], first[1])
    for name in ("keys", "values"):  # in the form of the whole cache
        assert snr(state[name].value.numpy(), getattr(module, name).numpy()) > 40


# Packages of others, and those that are checked in


def packages() -> list[Any]:
    """``odd_values`` has weights that are not finite, ``future_op`` an op of no opset yet."""
    checked_in = [p for p in (ROOT / "fixtures").glob("*.mlpackage") if not p.name.startswith(("future_op", "odd_val"))]
    return [pytest.param(p, id=p.stem) for p in sorted(checked_in) + sorted(MODELS.glob("*.mlpackage"))]


@pytest.mark.parametrize("package", packages())
def test_packages_run(package: Path) -> None:
    module = open_model(package)
    for sample in plausible_inputs(module, 2):
        found = module.predict(sample)
        assert found.keys() == module.features.outputs_described.keys()
        for name, value in found.items():
            declared = module.features.outputs_described[name].type
            if declared.WhichOneof("Type") != "multiArrayType":
                continue
            assert np.isfinite(value).all()
            if declared.multiArrayType.shape:
                assert value.shape == tuple(declared.multiArrayType.shape)


def palette_quality(palettize: Any, source: Path, nbits: int, samples: int) -> list[float]:
    """SNR of outputs. Three bits are of iOS 18."""
    written, _ = palettize(source, nbits=nbits, **({"target": ct.target.iOS18} if nbits == 3 else {}))
    return [output.snr_db for output in compare(source, written, random=samples).outputs]


def test_more_bits_are_better_for_a_detector_of_voices(shared_models: Path, palettize: Any) -> None:
    """Its outputs at 2 bits and at 3 are both no more than noise: which is nearer is chance."""
    source = shared_models / "silero_vad_unified.mlpackage"
    found = {nbits: palette_quality(palettize, source, nbits, 12) for nbits in (2, 3, 4, 6, 8)}
    for output in range(1, 3):  # the states; the probability saturates
        ratios = [found[nbits][output] for nbits in (3, 4, 6, 8)]
        assert found[2][output] < ratios[1] < ratios[2] < ratios[3]
        assert ratios[0] < ratios[1]
        assert ratios[3] > 25


@pytest.mark.parametrize("bits", [(3, 8), pytest.param((2, 3, 4, 6, 8), marks=pytest.mark.slow)])
def test_more_bits_are_better_for_a_transfer_of_style(
    shared_models: Path, palettize: Any, bits: tuple[int, ...]
) -> None:
    source = shared_models / "adain_mobilenet_mondrian.mlpackage"
    (ratios,) = zip(*(palette_quality(palettize, source, nbits, 1) for nbits in bits), strict=True)
    assert list(ratios) == sorted(ratios)
    assert ratios[-1] > 25


# A trained network


def trained_resnet() -> ResNet:
    if not (DATA / "resnet20.npz").is_file():
        pytest.skip(f"no networks at {DATA}")
    with np.load(DATA / "resnet20.npz") as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    module = ResNet()
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return module.eval()


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` of the test set, and their labels."""
    with np.load(DATA / "cifar10_test.npz") as arrays:
        pixels, labels = arrays["images"][:count], arrays["labels"][:count]
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return ((planes - PIXEL_MEAN) / PIXEL_SPREAD).astype(np.float32), labels


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_predictions_of_a_trained_network_are_those_of_torch(count: int) -> None:
    module = trained_resnet()
    given, labels = images(count)
    batches = np.split(given, len(given) // 250)
    theirs = np.concatenate([outputs_of(module, [batch])[0] for batch in batches]).argmax(1)
    assert abs(np.mean(theirs == labels) - 0.8796) < (0.0001 if count == 10_000 else 0.05)
    for precision, differing in ((FULL, 0), (HALF, 5)):
        converted_module = converted(module, batches[0], target=ct.target.iOS16, compute_precision=precision)
        scores = [next(iter(converted_module.predict({"x0": batch}).values())) for batch in batches]
        assert np.count_nonzero(np.concatenate(scores).argmax(1) != theirs) <= differing
