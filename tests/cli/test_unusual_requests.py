"""Requests at the edge: standard streams, long names, full disks, existing places, inputs that are none."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from packages import differences, read_spec, spec_file

from mil_palettize import ModelTypeError, OpPalettizerConfig, OptimizationConfig, inspect_package, palettize_package
from mil_palettize.cli.main import main
from mil_palettize.package.replacement import previous_path

IN, OUT = "in.mlpackage", "out.mlpackage"
PALETTIZE = ("palettize", IN, OUT, "--nbits", "4")


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", tmp_path / IN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return code, shown.err


def test_config_of_standard_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"config_type: OpPalettizerConfig\nglobal_config: {nbits: 2}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["palettize", IN, OUT, "--config", "-", "--json"]) == 0
    assert {w["nbits"] for w in json.loads(capsys.readouterr().out)["weights"]} == {2}


def test_report_on_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PALETTIZE, "--report", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["destination"] == OUT
    assert not (folder / "-").exists()
    code, told = failed(capsys, *PALETTIZE, "--report", "-", "--quiet")
    assert (code, "--quiet leaves empty" in told) == (2, True)
    code, told = failed(capsys, *PALETTIZE, "--json", "--quiet")
    assert (code, "--quiet: not allowed with argument --json" in told) == (2, True)


def test_destination_that_is_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / OUT).write_text("mine")
    for options in ((), ("--overwrite",)):
        code, told = failed(capsys, *PALETTIZE, *options)
        assert (code, f"{OUT} is a file, which is never overwritten" in told) == (3, True)
    assert (folder / OUT).read_text() == "mine"


def test_wrong_options_come_before_existing_places(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / IN, folder / OUT)
    code, told = failed(capsys, *PALETTIZE, "--target", "iOS99")
    assert (code, "target is 'iOS99'" in told) == (2, True)


def test_dry_run_tells_what_would_be_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / IN, folder / OUT)
    assert main([*PALETTIZE, "--dry-run"]) == 0
    assert "without the dry run, this would be refused: " in capsys.readouterr().out
    assert main([*PALETTIZE, "--dry-run", "--overwrite"]) == 0
    assert "would be refused" not in capsys.readouterr().out


@pytest.mark.parametrize("letter", ["a", "é"])
def test_names_as_long_as_names_may_be(folder: Path, letter: str) -> None:
    name = letter * ((255 - len(".mlpackage")) // len(letter.encode())) + ".mlpackage"
    assert 254 <= len(os.fsencode(name)) <= 255
    assert len(os.fsencode(previous_path(folder / name).name)) <= 255
    for _ in range(2):
        assert main(["palettize", IN, name, "--nbits", "4", "--quiet", "--overwrite", "--verify"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted([IN, name])
    # Two long names that begin alike do not share what lies beside them.
    other = name.replace(f"{letter}.mlpackage", f"{'b' * len(letter.encode())}.mlpackage")
    assert previous_path(folder / other) != previous_path(folder / name)


def test_resume_on_a_full_disk_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "kept" not in path.parts:
            return write(path, data)
        write(path, data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert main([*PALETTIZE, "--quiet"]) == 0
    monkeypatch.setattr(Path, "write_bytes", full)
    with caplog.at_level(logging.WARNING, logger="mil_palettize"):
        assert main(["palettize", IN, "kept.mlpackage", "--nbits", "4", "--quiet", "--resume", "kept"]) == 0
    (told,) = caplog.messages
    assert told.endswith("No space left on device; the run goes on without keeping")
    assert differences(folder / "kept.mlpackage", folder / OUT) == []
    assert not [path for path in (folder / "kept").rglob("*") if path.is_file()]


def test_stages_that_are_no_ml_program_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = read_spec(folder / IN)
    pipeline = type(spec)()
    pipeline.specificationVersion = spec.specificationVersion
    pipeline.description.CopyFrom(spec.description)
    first, second = pipeline.pipeline.models.add(), pipeline.pipeline.models.add()
    first.CopyFrom(spec)
    second.specificationVersion = 4
    second.neuralNetwork.layers.add(name="r").activation.ReLU.SetInParent()
    pipeline.pipeline.names.extend(["program", "network"])
    spec_file(folder / IN).write_bytes(pipeline.SerializeToString())
    told = f"stage 'network' of the pipeline is no ML Program but a neuralNetwork of {second.ByteSize()} B, and stays"
    assert told in inspect_package(IN).to_text(300)
    assert main([*PALETTIZE, "--json"]) == 0
    assert any(note.startswith(told) for note in json.loads(capsys.readouterr().out)["notes"])


def test_models_in_memory_have_another_door(folder: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4))
    for call in (lambda: palettize_package(object(), OUT, config), lambda: inspect_package(object())):
        with pytest.raises(ModelTypeError, match="got object; palettize_weights and decompress_weights take models"):
            call()


# Inputs of runs


def inputs(folder: Path, kind: str) -> tuple[Path, str]:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'mil-palettize[torch]'")
    path = folder / "x.npz"
    if kind == "none":
        np.savez(path, x=np.zeros((0, 3, 32, 32), np.float32))
        return path, "holds no sample of 'x': its shape is [0, 3, 32, 32]"
    content = {
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "is a PNG picture, and is no .npz file; save arrays by input names"),
        "text": (b"1.0 2.0\n3.0 4.0\n", "is text, and is no .npz file; save arrays by input names with numpy.savez"),
        "empty": (b"", "is empty, and is no .npz file"),
        "pickle": (b"\x80\x04K\x01.", "is a Python pickle, and is no .npz file"),
        "other": (bytes(range(200, 240)), "is another file, and is no .npz file"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer, not the file"),
    }[kind]
    path.write_bytes(content[0])
    return path, content[1]


@pytest.mark.parametrize("kind", ["png", "text", "empty", "pickle", "other", "pointer", "none"])
def test_inputs_that_are_no_arrays(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, told = inputs(folder, kind)
    for verb in (("run", IN), ("compare", IN, IN)):
        code, said = failed(capsys, *verb, "--inputs", str(path))
        assert code == (4 if kind == "none" else 3)  # a file of arrays, but of no sample
        assert told in said
        assert "pickle=" not in said


def test_a_thousand_million_samples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'mil-palettize[torch]'")
    code, said = failed(capsys, "run", IN, "--random", "1000000000")
    assert code == 4
    assert "1000000000 samples of inputs " in said
    assert said.endswith("; ask for fewer, or give samples\n")
