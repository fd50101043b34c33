"""A language model with states and a segmentation network, compared: every figure against numpy and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_model import called, chosen
from packages import constants
from scipy.special import log_softmax
from sklearn.metrics import jaccard_score, top_k_accuracy_score

torch = pytest.importorskip("torch")

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402

SEQUENCES, CALLS, TOKENS = 3, 12, 72
RNG = np.random.default_rng(5)
IDS = RNG.integers(0, TOKENS, (SEQUENCES, CALLS)).astype(np.int32)
TARGETS = RNG.integers(0, TOKENS, (SEQUENCES, CALLS))


def palettized(source: Path, folder: Path, nbits: int) -> tuple[Path, Path]:
    small = OptimizationConfig(OpPalettizerConfig(nbits=nbits, weight_threshold=500))
    palettize_package(source, folder / "small.mlpackage", small)
    return source, folder / "small.mlpackage"


@pytest.fixture(scope="module")
def language_models(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return palettized(fixtures / "language_model_ios18.mlpackage", tmp_path_factory.mktemp("language"), 4)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "x.npz"
    np.savez(
        path, ids=IDS[:, :, None, None], position=np.tile(np.arange(CALLS, dtype=np.int32), (SEQUENCES, 1))[..., None]
    )
    return path


def snr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10((one**2).sum() / ((one - two) ** 2).sum()))


def told(arguments: list[Any], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["compare", *map(str, arguments), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_sequences_of_a_language_model(
    language_models: tuple[Path, Path], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "y.npy", TARGETS[..., None])
    one, two = (np.stack([called(path, ids) for ids in IDS]) for path in language_models)
    found = told([*language_models, "--sequence", prompts, "--labels", tmp_path / "y.npy"], capsys)
    (output,) = found["outputs"]
    assert output["snr_db"] == pytest.approx(snr(one, two), abs=0.01)
    steps = [step["snr_db"] for step in output["steps"]]
    assert steps == pytest.approx([snr(one[:, i], two[:, i]) for i in range(CALLS)], abs=0.01)
    classes = output["classes"]
    rows = SEQUENCES * CALLS
    assert classes["rows"] == rows
    first, other = one.argmax(-1), two.argmax(-1)
    assert classes["same"] == pytest.approx((first == other).mean())
    among = [
        top_k_accuracy_score(
            np.argsort(-one, axis=-1)[..., i].reshape(-1), two.reshape(rows, -1), k=5, labels=range(TOKENS)
        )
        for i in range(5)
    ]
    assert classes["top_5"] == pytest.approx(np.mean(among))
    p, q = log_softmax(one, axis=-1), log_softmax(two, axis=-1)
    kl = (np.exp(p) * (p - q)).sum(-1)
    assert (classes["kl_mean"], classes["kl_worst"]) == pytest.approx((kl.mean(), kl.max()), rel=1e-3)
    right = [np.take_along_axis(logs, TARGETS[..., None], -1).mean() for logs in (p, q)]
    targets = classes["targets"]
    perplexities = targets["perplexity_before"], targets["perplexity_after"]
    assert perplexities == pytest.approx(tuple(np.exp(-mean) for mean in right), rel=1e-3)
    assert targets["accuracy_before"] == pytest.approx((first == TARGETS).mean())
    assert targets["accuracy_after"] == pytest.approx((other == TARGETS).mean())
    short = told([*language_models, "--sequence", prompts, "--steps", "4", "--logits", "logits"], capsys)
    assert [step["snr_db"] for step in short["outputs"][0]["steps"]] == pytest.approx(steps[:4], abs=1e-6)


def test_tokens_that_a_language_model_chooses(
    language_models: tuple[Path, Path], prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 8
    prompt = CALLS - count + 1  # of each sequence; the other calls say what positions are
    wanted = []
    for ids in IDS:
        mine, other = (list(chosen(path, ids[:prompt].tolist(), count)) for path in language_models)
        wanted.append(next((i for i in range(count) if mine[i] != other[i]), None))
    found = told([*language_models, "--sequence", prompts, "--greedy", count], capsys)["greedy"]
    assert found["parted"] == [None if step is None else step + 1 for step in wanted]
    assert any(step is not None for step in wanted)


def test_calibration_on_sequences(
    language_models: tuple[Path, Path], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of several is what lists of calls are, in which states live on."""
    config, position = OptimizationConfig(OpPalettizerConfig(nbits=2)), np.arange(CALLS, dtype=np.int32)
    calls = [[{"ids": i.reshape(1, 1), "position": p[None]} for i, p in zip(ids, position, strict=True)] for ids in IDS]
    written = []
    for name, given in (("a.mlpackage", str(prompts)), ("b.mlpackage", calls)):
        palettize_package(language_models[0], tmp_path / name, config, calibration=Calibration(given))
        written.append((tmp_path / name / "Data/com.apple.CoreML/weights/weight.bin").read_bytes())
    assert written[0] == written[1]
    assert main(["run", str(language_models[0]), "--inputs", str(prompts)]) == 4
    assert "has a sequence of calls, which is for calibration and compare; give the calls" in capsys.readouterr().err


def test_tokens_of_another_vocabulary(
    language_models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(
        tmp_path / "x.npz", ids=IDS[0, :3, None, None] * 0 + TOKENS, position=np.arange(3, dtype=np.int32)[:, None]
    )
    assert main(["compare", *map(str, language_models), "--sequence", str(tmp_path / "x.npz")]) == 4
    error = capsys.readouterr().err
    assert "call 0: " in error
    assert f"op 'embedded' (gather) cannot be run: IndexError: index {TOKENS} is beyond [-{TOKENS}, {TOKENS})" in error


def test_masks_of_a_segmentation_network(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    pair = palettized(fixtures / "segmentation_ios16.mlpackage", tmp_path, 2)
    pictures = RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    for number, picture in enumerate(pictures):
        image.fromarray(picture).save(tmp_path / f"images/{number}.png")
    one, two = (np.concatenate([masks_in_numpy(path, picture) for picture in pictures]).reshape(-1) for path in pair)
    ours = np.concatenate([open_model(pair[0]).predict({"image": picture})["mask"] for picture in pictures])
    assert np.array_equal(ours.reshape(-1), one)
    wanted = jaccard_score(one, two, average=None, labels=np.unique([*one, *two])).mean()
    assert 0.1 < wanted < 0.99
    (output,) = told([*pair, "--inputs", tmp_path / "images"], capsys)["outputs"]
    assert output["mean_iou"] == pytest.approx(wanted)
    assert output["agreement"] == pytest.approx((one == two).mean())
    gate = [*pair, "--inputs", tmp_path / "images", "--min-iou"]
    told([*gate, f"{100 * wanted - 1:.3f}%"], capsys)
    told([*gate, f"{100 * wanted + 1:.3f}%"], capsys, code=1)
    assert output["snr_db"] < 60  # of numbers of classes
    told([*pair, "--inputs", tmp_path / "images", "--fail-below", "60dB"], capsys, code=1)
    told([*gate, f"{100 * wanted - 1:.3f}%", "--fail-below", "60dB"], capsys)


def masks_in_numpy(package: Path, picture: np.ndarray) -> np.ndarray:
    """Of the fixture ``segmentation_ios16``, in float64."""
    w = {
        key[-1]: decode().astype(np.float64)
        for key, (_, decode) in constants(package).items()
        if key[-1].endswith(("_weight", "head_bias"))
    }

    def down(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """3 × 3 with stride 2; "same" pads an even size below and to the right only."""
        padded, side = np.pad(x, ((0, 0), (0, 1), (0, 1))), x.shape[1] // 2
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2][:, :side, :side]
        return np.maximum(np.einsum("chwij,ocij->ohw", windows, weight), 0)

    def up(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """2 × 2 with stride 2: each pixel becomes four that no other has a part in."""
        spread = np.einsum("chw,coij->ohiwj", x, weight)
        return np.maximum(spread.reshape(spread.shape[0], 2 * x.shape[1], 2 * x.shape[2]), 0)

    half = down(picture.transpose(2, 0, 1) / 255, w["down_0_weight"])
    joined = np.concatenate([up(down(half, w["down_1_weight"]), w["up_0_weight"]), half])
    mixed = np.maximum(np.einsum("chw,oc->ohw", joined, w["mixed_weight"][:, :, 0, 0]), 0)
    whole = up(mixed, w["up_1_weight"])
    scores = np.einsum("chw,oc->ohw", whole, w["head_weight"][:, :, 0, 0]) + w["head_bias"][:, None, None]
    return np.asarray(scores.argmax(axis=0))
