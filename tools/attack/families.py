"""What is attacked, family by family. Every family plays a case in an empty folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from packages import read_spec, spec_file

from mil_palettize import inspect_package, palettize_package
from mil_palettize.encoding.kept_files import packed_file
from mil_palettize.package.blob import BlobReader
from tools.attack.cases import FIXTURES, SMALL, Case, Outcome, Play
from tools.attack.evaluating import EVALUATING
from tools.attack.file_mutations import (
    change_archive,
    change_config,
    change_manifest,
    change_weights,
    files_of,
    flip_bits,
)
from tools.attack.program_mutations import change_program, grow_program
from tools.attack.verbs import MODES, Attempts, Mode, config, contents, every_verb

CONFIG = """config_type: OpPalettizerConfig
global_config:
  mode: kmeans
  nbits: 4
  weight_threshold: 64
op_type_configs:
  conv:
    mode: uniform
    nbits: 6
  linear: null
op_name_configs:
  stem_weight:
    mode: kmeans
    nbits: 2
"""
KEPT_MODES = ("kmeans", "kmeans8", "groups", "vectors", "int8-tables", "scale-op", "joint", "unique")


def _placed(folder: Path, random: Random) -> tuple[Path, Path]:
    """A copy of a fixture, and the fixture."""
    sound = FIXTURES / f"{random.choice(SMALL)}.mlpackage"
    shutil.copytree(sound, folder / "in.mlpackage")
    return folder / "in.mlpackage", sound


def _on_program(change: Callable[..., None]) -> Play:
    def play(case: Case, folder: Path) -> Outcome:
        random = case.random
        source, sound = _placed(folder, random)
        model = read_spec(source)
        change(model, random)
        spec_file(source).write_bytes(model.SerializePartialToString())
        return every_verb(folder, source, sound, random)

    return play


def _on_bytes(change: Callable[[bytes, Random], bytes], wanted: str) -> Play:
    def play(case: Case, folder: Path) -> Outcome:
        random = case.random
        source, sound = _placed(folder, random)
        file = random.choice([path for path in files_of(source) if wanted in path.name])
        for _ in range(random.choice((1, 1, 2))):
            file.write_bytes(change(file.read_bytes(), random))
        return every_verb(folder, source, sound, random)

    return play


def _configs(case: Case, folder: Path) -> Outcome:
    random = case.random
    source, sound = _placed(folder, random)
    recipe = folder / "recipe.yaml"
    recipe.write_bytes(change_config(CONFIG.encode(), random))
    attempts = Attempts(folder, source, sound)
    attempts.command(
        "palettize --config",
        ["palettize", str(source), str(attempts.destination), "--config", str(recipe), "--workers", "1", "--quiet"],
    )
    return attempts.outcome


@cache
def _kept(fixture: str, mode: Mode) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a run keeps, and what it writes. Cached in the process that plays several cases."""
    with tempfile.TemporaryDirectory() as name:
        folder, sound = Path(name), FIXTURES / f"{fixture}.mlpackage"
        keywords = {"select": "weights", **mode.call}
        palettize_package(sound, folder / "o.mlpackage", config(mode), workers=1, resume=folder / "kept", **keywords)
        files = {k: v for k, v in contents(folder / "kept").items() if k.endswith(".npz")}
        return files, contents(folder / "o.mlpackage")


def _resumes(case: Case, folder: Path) -> Outcome:
    """Files of a resume folder damaged, exchanged, and forged with a digest that fits."""
    random = case.random
    fixture = random.choice(
        ("conv_fp16_ios18", "conv_fp32_ios18", "joint_ios18", "shared_ios16", "embedding_matmul_ios16")
    )
    mode = random.choice([mode for mode in MODES if mode.name in KEPT_MODES])
    kept, whole = _kept(fixture, mode)
    (folder / "kept").mkdir()
    sound = FIXTURES / f"{fixture}.mlpackage"
    attempts = Attempts(folder / "kept" / ".." / "run", sound, sound)
    (folder / "run").mkdir()
    names, changed = sorted(kept), dict(kept)
    forged = random.random() < 0.5
    for _ in range(random.choice((1, 1, 3, len(names)))) if names else ():
        name = random.choice(names)
        if random.random() < 0.1:
            changed[name] = kept[random.choice(names)]
        else:
            stored = change_archive(kept[name], random)
            changed[name] = _with_digest(stored) if forged else stored
    for name, stored in changed.items():
        (folder / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "kept" / name).write_bytes(stored)
    written = attempts.destination

    def judge(report: object) -> None:
        found = contents(written)
        if not forged and found != whole:
            raise AssertionError("what was kept and damaged changed what is written")
        inspect_package(written)

    keywords = {"select": "weights", **mode.call}
    attempts.attempt(
        f"palettize {mode.name} --resume",
        lambda: palettize_package(sound, written, config(mode), workers=1, resume=folder / "kept", **keywords),
        judge=judge,
    )
    return attempts.outcome


def _with_digest(stored: bytes) -> bytes:
    """The archive with a digest that fits what is in it, as somebody would make it who knows how it is made."""
    try:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            arrays = {
                name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
        header = json.loads(arrays.pop("header").tobytes())
        header.pop("digest", None)
        return packed_file(header, arrays)
    except Exception:  # too damaged for that
        return stored


def _changing(case: Case, folder: Path) -> Outcome:
    """The weight file is written by something else while it is read."""
    random = case.random
    source, sound = _placed(folder, random)
    if random.random() < 0.7:
        source = _large(folder)
    file = random.choice([path for path in files_of(source) if "weight.bin" in path.name])
    start = random.randrange(1, 60)
    attempts = Attempts(folder, source, sound)
    mode = random.choice(MODES)
    written = attempts.destination
    keywords = {"select": "weights", **mode.call}

    def judge(report: object) -> None:
        if written.exists():
            inspect_package(written)

    def run() -> object:
        with _scribbled(file, start, random):
            return palettize_package(source, written, config(mode), workers=1, **keywords)

    before = file.read_bytes()
    try:
        result = _tolerating_change(attempts, run, judge, mode, file, before)
    finally:
        file.write_bytes(before)
    return result


def _tolerating_change(
    attempts: Attempts,
    run: Callable[[], object],
    judge: Callable[[object], None],
    mode: Mode,
    file: Path,
    before: bytes,
) -> Outcome:
    def restored() -> object:
        try:
            return run()
        finally:
            file.write_bytes(before)

    attempts.attempt(f"palettize {mode.name} of what changes", restored, judge=judge)
    # A run that verifies itself finds that what it wrote is not what is there now, which is right.
    attempts.outcome.violations = [v for v in attempts.outcome.violations if "its own verification refuses" not in v]
    return attempts.outcome


@contextmanager
def _scribbled(file: Path, start: int, random: Random) -> Iterator[None]:
    """Random bytes in place of the data from read number ``start`` of a weight file on."""
    real, count = os.preadv, 0

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal count
        count += 1
        if count == start:
            stored = bytearray(file.read_bytes())
            at = random.choice((64, 192, 192, 192, len(stored) // 2))
            how = random.random()
            if how < 0.15:
                stored = stored[:at]
            else:
                stored[at:] = random.choice((random.randbytes(len(stored) - at), bytes(len(stored) - at)))
            with open(file, "r+b") as stream:
                stream.write(stored)
                stream.truncate()
        return real(fd, buffers, offset)

    os.preadv = preadv
    try:
        yield
    finally:
        os.preadv = real


def _large(folder: Path) -> Path:
    """``conv_fp32`` with its largest weight a thousand times larger: such weights are read in two passes."""
    target = folder / "large.mlpackage"
    shutil.copytree(FIXTURES / "conv_fp32_ios18.mlpackage", target)
    model = read_spec(target)
    block = next(iter(model.mlProgram.functions["main"].block_specializations.values()))
    weights = next(path for path in files_of(target) if path.name == "weight.bin")
    stored = bytearray(weights.read_bytes())
    op = next(o for o in block.operations if o.type == "const" and o.outputs[0].name == "stem_weight")
    shape = (1100, 1000)
    for value_type in (op.outputs[0].type, op.attributes["val"].type):
        del value_type.tensorType.dimensions[:]
        value_type.tensorType.rank = len(shape)
        for size in shape:
            value_type.tensorType.dimensions.add().constant.size = size
    values = np.random.default_rng(0).standard_normal(shape).astype("<f4").tobytes()
    stored += bytes(-len(stored) % 64)
    with BlobReader(weights) as reader:
        count = len(reader.all_records())
    op.attributes["val"].blobFileValue.offset = len(stored)
    stored += struct.pack("<IIQQQ32s", 0xDEADBEEF, 2, len(values), len(stored) + 64, 0, b"") + values
    struct.pack_into("<I", stored, 0, count + 1)
    weights.write_bytes(stored)
    spec_file(target).write_bytes(model.SerializeToString())
    return target


FAMILIES: dict[str, Play] = {
    "program": _on_program(change_program),
    "grown program": _on_program(grow_program),
    "weights": _on_bytes(change_weights, "weight.bin"),
    "bits": _on_bytes(flip_bits, ""),
    "manifest": _on_bytes(change_manifest, "Manifest.json"),
    "config": _configs,
    "resume": _resumes,
    "changing file": _changing,
    **EVALUATING,
}
# Of a hundred mutations, how many are of each.
SHARES = {
    "program": 28, "grown program": 6, "weights": 12, "bits": 12, "manifest": 6, "config": 9, "resume": 10,
    "changing file": 2, "evaluator": 6, "inputs": 4, "pictures": 2, "sensitivity": 3,
}  # fmt: skip
