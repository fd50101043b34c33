"""Palettes that a later run takes from a folder, and the folder itself."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from form_packages import ALL, WRITTEN, Form
from handmade import contents
from kept_palettes import PLAIN, PLAN, WEIGHT, WEIGHTS, Counts, files, key, palette, same
from slow_cases import scaled_vectors, slow_where

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PlanError,
    Report,
    palettize_package,
)
from mil_palettize.encoding.palette_cache import Clustered


def told(report: Report) -> dict[str, Any]:
    """A report without what differs from run to run."""
    as_dict = json.loads(report.to_json())
    for part in (as_dict, *as_dict["weights"]):
        part.pop("seconds")
    return {name: value for name, value in as_dict.items() if name not in ("destination", "notes")}


# Taken from the folder


@pytest.mark.parametrize("name", slow_where(scaled_vectors, WRITTEN))
def test_second_run_makes_nothing_anew(name: str, counts: Counts, tmp_path: Path) -> None:
    form, kept = WRITTEN[name], tmp_path / "kept"
    reports = [form.palettize(tmp_path / "plain.mlpackage", workers=1)]
    plain = counts["make_palette"]
    for number in range(2):
        reports.append(form.palettize(tmp_path / f"{number}.mlpackage", workers=1, resume=kept))
    assert counts["make_palette"] == 2 * plain >= 8
    assert contents(tmp_path / "0.mlpackage") == contents(tmp_path / "plain.mlpackage")
    assert contents(tmp_path / "1.mlpackage") == contents(tmp_path / "plain.mlpackage")
    assert told(reports[0]) == told(reports[1]) == told(reports[2])
    every = f"{len(reports[0].palettized)} palettes"
    notes = [
        [f"{taken} of {every} taken from {kept}, where they were kept"] for taken in (0, len(reports[0].palettized))
    ]
    assert [report.notes[len(reports[0].notes) :] for report in reports] == [[], *notes]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_sweep_finds_distinct_values_once(dtype: str, counts: Counts, tmp_path: Path) -> None:
    for nbits in (2, 4, 6):
        form = Form({"nbits": nbits}, dtype=dtype)
        form.palettize(tmp_path / f"{nbits}.mlpackage", workers=1, resume=tmp_path / "kept")
        assert counts["describe"] == WEIGHTS
    assert counts["make_palette"] == 3 * WEIGHTS
    for nbits in (2, 4, 6):
        Form({"nbits": nbits}, dtype=dtype).palettize(tmp_path / "plain.mlpackage", workers=1, overwrite=True)
        assert contents(tmp_path / "plain.mlpackage") == contents(tmp_path / f"{nbits}.mlpackage")


def test_same_content_in_another_package(counts: Counts, tmp_path: Path) -> None:
    """The content counts, not where it is; on threads, too."""
    PLAIN.palettize(tmp_path / "out.mlpackage", resume=str(tmp_path / "kept"), workers=2)
    shutil.copytree(PLAIN.source(), tmp_path / "copy.mlpackage")
    before = dict(counts)
    palettize_package(
        tmp_path / "copy.mlpackage", tmp_path / "2.mlpackage", PLAIN.config, select="all", resume=tmp_path / "kept"
    )
    assert counts.since(before) == (0, 0)
    assert contents(tmp_path / "out.mlpackage") == contents(tmp_path / "2.mlpackage")


def test_redo_is_kept(counts: Counts, tmp_path: Path) -> None:
    PLAIN.palettize(tmp_path / "once.mlpackage", workers=1)
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, **ALL))
    for name, resume in (("plain", None), ("a", tmp_path / "kept"), ("b", tmp_path / "kept")):
        before = dict(counts)
        palettize_package(
            tmp_path / "once.mlpackage", tmp_path / f"{name}.mlpackage", config, redo=True, workers=1, resume=resume
        )
        assert counts.since(before)[0] == (0 if name == "b" else WEIGHTS)
        assert contents(tmp_path / f"{name}.mlpackage") == contents(tmp_path / "plain.mlpackage")


def test_strict_says_the_same_again(tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(mode="unique", **ALL))
    lines = []
    for resume in (None, tmp_path / "kept", tmp_path / "kept"):
        with pytest.raises(PlanError) as raised:
            palettize_package(PLAIN.source(), tmp_path / "out.mlpackage", config, strict=True, resume=resume)
        lines.append(str(raised.value))
    assert len(set(lines)) == 1
    assert not (tmp_path / "out.mlpackage").exists()


def test_dry_run_keeps_nothing(tmp_path: Path) -> None:
    report = PLAIN.palettize(None, dry_run=True, resume=tmp_path / "kept")
    assert len(report.palettized) == WEIGHTS
    assert os.listdir(tmp_path) == []


def test_custom_functions_are_never_kept(tmp_path: Path) -> None:
    calls = []

    def function(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(array.shape)
        return np.array([len(calls), 0.0]), np.zeros(array.size, int)

    config = OptimizationConfig(OpPalettizerConfig(mode="custom", lut_function=function, **ALL))
    for name in "ab":
        palettize_package(PLAIN.source(), tmp_path / f"{name}.mlpackage", config, resume=tmp_path / "kept")
    assert len(calls) == 2 * WEIGHTS
    assert contents(tmp_path / "a.mlpackage") != contents(tmp_path / "b.mlpackage")
    assert not (tmp_path / "kept").exists()


def test_executors_processes_keep_and_find(counts: Counts, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        PLAIN.palettize(tmp_path / "a.mlpackage", executor=pool, resume=tmp_path / "kept")
    PLAIN.palettize(tmp_path / "b.mlpackage", workers=1, resume=tmp_path / "kept")
    assert counts["make_palette"] == 0
    assert contents(tmp_path / "a.mlpackage") == contents(tmp_path / "b.mlpackage")


# The folder itself


def test_folder_that_cannot_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(place, tmp_path, PackageError, rf"^cannot keep what was clustered in {place}: .*/file is not a folder")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    refused(tmp_path / "new" / "er", tmp_path, PackageError, "no permission to write there; choose another$")


@pytest.mark.parametrize("resume", ["", "a\0b", 5, b"kept"])
def test_what_is_no_path(resume: object, tmp_path: Path) -> None:
    refused(resume, tmp_path, ConfigError, "^resume is ")


def test_folder_inside_a_package(tmp_path: Path) -> None:
    source, link = tmp_path / "in.mlpackage", tmp_path / "link"
    shutil.copytree(PLAIN.source(), source)
    link.symlink_to(source / "Data")
    for place in (source, source / "kept", source / "a" / "b", link / "kept", tmp_path / "out.mlpackage" / "kept"):
        with pytest.raises(
            ConfigError, match=rf"^the folder to resume from, {place}, is inside .*; choose a place out"
        ):
            palettize_package(source, tmp_path / "out.mlpackage", PLAIN.config, resume=place)
    assert contents(source) == contents(PLAIN.source())
    assert sorted(os.listdir(tmp_path)) == ["in.mlpackage", "link"]
    # One around the packages is fine.
    palettize_package(source, tmp_path / "out.mlpackage", PLAIN.config, resume=tmp_path)


def refused(resume: object, folder: Path, kind: type[Exception], line: str) -> None:
    before = sorted(os.listdir(folder))
    with pytest.raises(kind, match=line) as raised:
        PLAIN.palettize(folder / "out.mlpackage", resume=resume)
    assert len(str(raised.value).splitlines()) == 1
    assert sorted(os.listdir(folder)) == before


def test_broken_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.write_bytes

    def broken(path: Path, data: bytes) -> None:
        original(path, data[:100])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(PackageError, match=rf"^cannot keep .* in {tmp_path}/kept: Input/output error$"):
        PLAIN.palettize(tmp_path / "out.mlpackage", resume=tmp_path / "kept")
    assert os.listdir(tmp_path) == ["kept"]
    assert files(tmp_path / "kept") == []


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    PLAIN.palettize(tmp_path / "out.mlpackage", resume="~/kept")
    assert files(tmp_path / "kept")


def test_another_run_keeps_the_same_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done first, and removes what it takes for left over."""
    folder, write_bytes = Clustered(str(tmp_path)), Path.write_bytes

    def interleaved(path: Path, data: bytes) -> int:
        written = write_bytes(path, data)
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        folder.keep_palette(key("content"), palette())
        return written

    monkeypatch.setattr(Path, "write_bytes", interleaved)
    folder.keep_palette(key("content"), palette())
    assert same(folder.palette(key("content"), PLAN, WEIGHT), palette())
    assert len(files(tmp_path)) == 1
