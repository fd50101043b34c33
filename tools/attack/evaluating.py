"""Families that need torch: damaged programs that are run, and the files that verbs with samples read."""

from __future__ import annotations

import io
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from packages import read_spec, spec_file

from tools.attack.cases import FIXTURES, SMALL, Case, Outcome, Play
from tools.attack.file_mutations import change_archive, change_array, flip_bits
from tools.attack.program_mutations import change_program, grow_program
from tools.attack.verbs import Attempts

NETWORK = "conv_fp16_ios16"  # one input, weights of every kind of op
PICTURES = "image_classifier_ios15"
SAMPLES = 3
Call = list[str]


def _evaluated(case: Case, folder: Path) -> Outcome:
    """A damaged program, under the verbs that run it: beside the sound one, and beside itself."""
    random = case.random
    sound = FIXTURES / f"{random.choice(SMALL)}.mlpackage"
    source = folder / "in.mlpackage"
    shutil.copytree(sound, source)
    model = read_spec(source)
    (grow_program if random.random() < 0.15 else change_program)(model, random)
    spec_file(source).write_bytes(model.SerializePartialToString())
    attempts = Attempts(folder, source, sound)
    _try(attempts, random.sample(_run_calls(str(sound), str(source), attempts.destination), 3))
    return attempts.outcome


def _run_calls(sound: str, source: str, destination: Path) -> list[tuple[str, Call]]:
    few = ["--random", "2"]
    palettize = ["palettize", source, str(destination), "--nbits", "4", "--weight-threshold", "64", "--quiet"]
    return [
        ("run", ["run", source, "--random", "1", "--json"]),
        ("run fp16", ["run", source, "--precision", "fp16"]),
        ("compare with the sound one", ["compare", sound, source, *few, "--json"]),
        ("compare with itself", ["compare", source, source, *few, "--per-op", "--fail-below", "30dB"]),
        ("palettize --calibrate", [*palettize, "--calibrate", "4", "--workers", "1"]),
        ("palettize --calibrate weights", [*palettize, "--calibrate", "weights", "--workers", "1"]),
        ("palettize --check", [*palettize, "--check", "--verify", "--workers", "1"]),
        ("sensitivity", ["sensitivity", source, "--calibrate", "2", "--out", f"{destination.parent}/s.npz"]),
    ]


def _try(attempts: Attempts, calls: list[tuple[str, Call]]) -> None:
    for verb, call in calls:
        attempts.command(verb, call)
        (attempts.folder / "s.npz").unlink(missing_ok=True)


def _inputs(case: Case, folder: Path) -> Outcome:
    """Samples in each layout that is taken, damaged, under each verb that takes them."""
    random = case.random
    path = folder / random.choice(("x.npz", "x.npz", "x.npy"))
    one = _sample()
    array = random.choice((one, np.concatenate([one] * SAMPLES), np.stack([one] * SAMPLES)))
    file = io.BytesIO()
    if path.suffix == ".npy":
        np.save(file, array)
        path.write_bytes(change_array(file.getvalue(), random))
    else:
        save = random.choice((np.savez, np.savez_compressed))
        save(file, **{_input(): array})  # type: ignore[arg-type]
        path.write_bytes(change_archive(file.getvalue(), random))
    return _with_samples(folder, path, random)


def _pictures(case: Case, folder: Path) -> Outcome:
    """A folder of pictures, of which some are no pictures any more."""
    random = case.random
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, (suffix, stored) in enumerate(random.sample(_encoded(), 3)):
        damaged = stored if random.random() < 0.3 else flip_bits(stored, random)
        damaged = damaged[: random.randrange(len(damaged))] if random.random() < 0.2 else damaged
        (pictures / f"{number}{random.choice((suffix, suffix, '.png', '.txt'))}").write_bytes(damaged)
    return _with_samples(folder, pictures, random, PICTURES)


def _with_samples(folder: Path, samples: Path, random: Random, fixture: str = NETWORK) -> Outcome:
    sound = FIXTURES / f"{fixture}.mlpackage"
    attempts, package, given = Attempts(folder, sound, sound), str(sound), str(samples)
    palettize = ["palettize", package, str(attempts.destination), "--nbits", "4", "--weight-threshold", "64", "--quiet"]
    calls = [
        ("run --inputs", ["run", package, "--inputs", given]),
        ("compare --inputs", ["compare", package, package, "--inputs", given]),
        ("palettize --calibrate", [*palettize, "--calibrate", given, "--workers", "1"]),
        ("sensitivity --calibrate", ["sensitivity", package, "--calibrate", given, "--out", f"{folder}/s.npz"]),
    ]
    _try(attempts, [calls[0], random.choice(calls[1:])])
    return attempts.outcome


def _sensitivities(case: Case, folder: Path) -> Outcome:
    """What ``sensitivity`` wrote, and labels, damaged."""
    random = case.random
    sound = FIXTURES / f"{NETWORK}.mlpackage"
    attempts = Attempts(folder, sound, sound)
    if random.random() < 0.25:
        file = io.BytesIO()
        np.save(file, np.arange(2))
        (folder / "y.npy").write_bytes(change_array(file.getvalue(), random))
        out = ["--calibrate", "2", "--labels", str(folder / "y.npy"), "--out", str(folder / "s.npz")]
        _try(attempts, [("sensitivity --labels", ["sensitivity", str(sound), *out])])
        return attempts.outcome
    (folder / "i.npz").write_bytes(change_archive(_importance(), random))
    call = ["palettize", str(sound), str(attempts.destination), "--nbits", "2", "--sensitivity", str(folder / "i.npz")]
    shape = random.choice(([], ["--target", "iOS18", "--per-channel-scale", "fold"], ["--mode", "uniform"]))
    attempts.command(
        "palettize --sensitivity", [*call, *shape, "--weight-threshold", "64", "--workers", "1", "--verify"]
    )
    return attempts.outcome


@cache
def _importance() -> bytes:
    """Of one sample, as the verb writes it."""
    from mil_palettize.doors.sensitivity import fisher_importance, write_importance

    package, file = FIXTURES / f"{NETWORK}.mlpackage", Path(tempfile.mkdtemp(prefix="attack-"), "importance.npz")
    write_importance(file, fisher_importance(package, 1), package)
    stored = file.read_bytes()
    shutil.rmtree(file.parent)
    return stored


@cache
def _encoded() -> tuple[tuple[str, bytes], ...]:
    """A picture in some of the forms that readers know."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 52, 3)).astype(np.uint8)
    found = []
    for suffix, form in ((".png", "PNG"), (".jpg", "JPEG"), (".bmp", "BMP"), (".gif", "GIF"), (".tif", "TIFF")):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        found.append((suffix, file.getvalue()))
    return tuple(found)


def _input() -> str:
    return str(read_spec(FIXTURES / f"{NETWORK}.mlpackage").description.input[0].name)


def _sample() -> np.ndarray:
    kind = read_spec(FIXTURES / f"{NETWORK}.mlpackage").description.input[0].type.multiArrayType
    return np.random.default_rng(0).random(tuple(kind.shape)).astype(np.float32)


def has_pictures() -> bool:
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


EVALUATING: dict[str, Play] = {
    "evaluator": _evaluated,
    "inputs": _inputs,
    "pictures": _pictures,
    "sensitivity": _sensitivities,
}
