"""Samples from lines of JSON and from sound."""

from __future__ import annotations

import json
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import EvaluationError, PackageError  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402
from mil_palettize.torch.sequences import read_sequences  # noqa: E402

RNG = np.random.default_rng(6)
LENGTH = 50


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes ids of 1×4."""
    build = lambda ids: mb.gather(x=np.eye(9, dtype=np.float32), indices=ids, axis=0)  # noqa: E731
    return saved(program_of(build, [((1, 4), np.int32)]), tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = lambda x, y: mb.add(x=x, y=y)  # noqa: E731
    return saved(program_of(build, [((1, 2), np.float32), ((3, 2), np.float32)]), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = lambda x: mb.mul(x=x, y=2.0)  # noqa: E731
    return saved(program_of(build, [((1, LENGTH), np.float32)]), tmp_path_factory.mktemp("hearing"))


# Lines of JSON


def test_ids_line_by_line(tokens: Path, tmp_path: Path) -> None:
    path, rows = tmp_path / "x.jsonl", [[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 1, 1]]
    path.write_text("".join(f"{line}\n\n" for line in (rows[0], json.dumps({"x0": rows[1]}), [rows[2]])))
    samples = read_samples(path, open_model(tokens))
    assert [sample["x0"].tolist() for sample in samples] == [[row] for row in rows]
    assert all(sample["x0"].dtype == np.int32 for sample in samples)
    (output,) = run_package(tokens, path).outputs.values()
    assert np.array_equal(output[:, 0].argmax(-1), rows)


def test_several_inputs(two: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"x0": [[1, 2]], "x1": [[0.5, 1], [1, 2], [3, 4]]}\n')
    (output,) = run_package(two, path).outputs.values()
    assert output.tolist() == [[1.5, 3], [2, 4], [4, 6]]


def test_sequences_of_lines(tokens: Path, tmp_path: Path) -> None:
    module, path = open_model(tokens), tmp_path / "x.jsonl"
    call = {"x0": [1, 2, 3, 4]}
    path.write_text(f"{json.dumps([call, call])}\n{json.dumps([call])}\n")
    assert [len(sequence) for sequence in read_sequences(path, module)] == [2, 1]
    with pytest.raises(EvaluationError, match="has a sequence of calls, which is for calibration and compare"):
        read_samples(path, module)
    path.write_text("[1, 2, 3, 4]\n[1, 2, 3, 4]\n")
    assert [len(sequence) for sequence in read_sequences(path, module)] == [2]


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("[1, 2\n", PackageError, r"line 1 is no JSON \(Expecting ',' delimiter\)"),
        ("[" * 100_000, PackageError, r"line 1 is no JSON"),
        ("\n\n", EvaluationError, "holds no sample; write one on each line"),
        ("3\n", EvaluationError, "line 1 of .* is 3; write an object of lists by input, or a list of numbers: 'x0'"),
        ("[[1, 2], [3]]\n", EvaluationError, "line 1 of .*, input 'x0', is no array: its lists are of other lengths"),
        ('["a"]\n', EvaluationError, r"is no array of numbers, but \[\"a\"\]"),
        ('{"y": [1]}\n', EvaluationError, "the model has no input 'y'; it takes 'x0'"),
    ],
)
def test_lines_that_are_none(text: str, kind: type[Exception], told: str, tokens: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(kind, match=told):
        read_samples(path, open_model(tokens))


def test_bytes_that_are_no_text(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PackageError, match="it must be lines of JSON"):
        read_samples(tmp_path / "x.jsonl", open_model(tokens))


# Sound


def written(path: Path, values: np.ndarray, width: int, rate: int = 16000) -> None:
    """``values`` from -1 to 1, (frames, channels), as integers of ``width`` bytes, made one by one."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = [round(float(value) * 2 ** (8 * width - 1)) for value in values.reshape(-1)]
        signed = width > 1
        file.writeframes(b"".join((n + (0 if signed else 128)).to_bytes(width, "little", signed=signed) for n in whole))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_windows_of_a_sound(width: int, channels: int, hearing: Path, tmp_path: Path) -> None:
    values = RNG.uniform(-0.9, 0.9, (2 * LENGTH + 7, channels))
    written(tmp_path / "x.wav", values, width)
    samples = read_samples(tmp_path / "x.wav", open_model(hearing))
    mono = values.mean(axis=1)
    assert len(samples) == 2
    for i, sample in enumerate(samples):
        assert sample["x0"].dtype == np.float32
        assert sample["x0"].shape == (1, LENGTH)
        assert np.abs(sample["x0"][0] - mono[i * LENGTH : (i + 1) * LENGTH]).max() <= 0.51 / 2 ** (8 * width - 1) + 1e-7
    assert samples.notes == [
        f"{tmp_path / 'x.wav'}: 2 windows of {LENGTH} values at 16000 Hz, not resampled; the last 7 left out"
    ]


def test_a_short_sound_is_filled(hearing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "x.wav", np.full((20, 1), 0.5), 2)
    (sample,) = read_samples(tmp_path / "x.wav", open_model(hearing))
    assert sample["x0"][0].tolist() == [0.5] * 20 + [0.0] * 30
    assert main(["run", str(hearing), "--inputs", str(tmp_path / "x.wav")]) == 0
    assert "30 zeros added" in capsys.readouterr().out


def test_sounds_that_are_none(hearing: Path, two: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF....WAVE")
    with pytest.raises(PackageError, match=r"it must be a (\.wav file of integers \(PCM\)|file of sound)"):
        read_samples(path, open_model(hearing))
    written(path, np.zeros((0, 1)), 2)
    with pytest.raises(EvaluationError, match="holds no sound"):
        read_samples(path, open_model(hearing))
    written(path, np.zeros((10, 1)), 2)
    with pytest.raises(EvaluationError, match="holds a single array, and the model takes 'x0'"):
        read_samples(path, open_model(two))


def float_sound(path: Path, values: np.ndarray, rate: int = 8000) -> None:
    """A ``.wav`` file of floats, written by hand: format 3."""
    data = values.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    chunks = b"".join(kind + struct.pack("<I", len(part)) + part for kind, part in ((b"fmt ", form), (b"data", data)))
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)


def test_other_sound_needs_soundfile(hearing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    float_sound(tmp_path / "x.wav", RNG.uniform(-1, 1, LENGTH))
    (tmp_path / "x.flac").write_bytes(b"fLaC")
    for name in ("x.wav", "x.flac"):
        with pytest.raises(PackageError, match=r"or give others with soundfile: pip install 'mil-palettize\[audio\]'"):
            read_samples(tmp_path / name, open_model(hearing))


def test_sound_that_soundfile_reads(hearing: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install '.[audio]'")
    values = RNG.uniform(-0.9, 0.9, LENGTH)
    float_sound(tmp_path / "x.wav", values)
    (sample,) = read_samples(tmp_path / "x.wav", open_model(hearing))
    assert sample["x0"][0] == pytest.approx(values, abs=1e-6)
    soundfile.write(tmp_path / "x.flac", np.stack([values, values / 2], 1), 8000)
    (sample,) = read_samples(tmp_path / "x.flac", open_model(hearing))
    assert sample["x0"][0] == pytest.approx(0.75 * values, abs=1e-4)
    (tmp_path / "x.ogg").write_bytes(b"no sound at all")
    with pytest.raises(PackageError, match=r"x\.ogg: .*; it must be a file of sound"):
        read_samples(tmp_path / "x.ogg", open_model(hearing))


def test_sound_for_a_model_of_pictures(fixtures: Path, tmp_path: Path) -> None:
    written(tmp_path / "x.wav", np.zeros((10, 1)), 2)
    with pytest.raises(EvaluationError, match="is sound, which needs a model with one input of one axis"):
        read_samples(tmp_path / "x.wav", open_model(fixtures / "image_classifier_ios15.mlpackage"))
