"""What a user can do with a package, each verb held against the rule: success or one line, and what was written is
what the report says."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    PalettizeError,
    decompress_package,
    diff_packages,
    inspect_package,
    palettize_package,
)
from mil_palettize.cli.main import main
from tools.attack.cases import Outcome
from tools.attack.judging import Broken, judge_decompressed, judge_palettized, strict_json

LONGEST_LINE = 4000
Contents = dict[str, bytes]


@dataclass(frozen=True, eq=False)
class Mode:
    """One way to palettize: options of the config and of the call."""

    name: str
    config: dict[str, Any]
    call: dict[str, Any] = field(default_factory=dict)


GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}
MODES = (
    Mode("kmeans", {"nbits": 4}),
    Mode("kmeans8", {"nbits": 8}, {"select": "all"}),
    Mode("uniform", {"mode": "uniform", "nbits": 6}, {"verify": True}),
    Mode("unique", {"mode": "unique"}, {"select": "all"}),
    Mode("groups", {"nbits": 2, **GROUPS}, {"target": "iOS18"}),
    Mode("vectors", {"nbits": 4, "cluster_dim": 2}, {"target": "iOS18"}),
    Mode("int8-tables", {"nbits": 4, "lut_dtype": "int8"}, {"target": "iOS18", "verify": True}),
    Mode("uint8-tables", {"nbits": 3, "lut_dtype": "uint8"}, {"target": "iOS18", "select": "all"}),
    Mode("scale-op", {"nbits": 4, "enable_per_channel_scale": True, "scale": "op"}, {"target": "iOS18"}),
    Mode("scale-fold", {"nbits": 4, "enable_per_channel_scale": True, "scale": "fold"}, {"target": "iOS18"}),
    Mode("joint", {"nbits": 2}, {"joint_compression": True, "target": "iOS18"}),
    Mode("joint-verify", {"nbits": 4}, {"joint_compression": True, "verify": True}),
    Mode("redo", {"nbits": 2}, {"redo": True}),
    Mode("redo-joint", {"nbits": 3}, {"redo": True, "joint_compression": True, "target": "iOS18"}),
    Mode("redo-all", {"nbits": 1}, {"redo": True, "select": "all", "verify": True}),
    Mode("strict", {"nbits": 4}, {"strict": True}),
    Mode("dry", {"nbits": 4}, {"dry_run": True, "target": "iOS18"}),
    Mode("dry-redo", {"nbits": 4}, {"dry_run": True, "redo": True}),
    Mode("move", {"nbits": 6}, {"target": "iOS17", "verify": True}),
    Mode("in-place", {"nbits": 4}, {"overwrite": True}),
    Mode("overwrite", {"nbits": 2}, {"overwrite": True}),
)


def contents(folder: Path) -> Contents:
    """Relative path -> bytes of all files below a folder; folders as well, so that none is left behind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return found


class Attempts:
    """Verbs tried one after the other in ``folder``, where the package is ``source``."""

    def __init__(self, folder: Path, source: Path, sound: Path) -> None:
        self.folder, self.source, self.sound = folder, source, sound
        self.destination = folder / "out.mlpackage"
        self.outcome = Outcome()

    def attempt(self, verb: str, action: Callable[[], object], *, judge: Callable[[Any], None] | None = None) -> bool:
        """Whether the verb succeeded."""
        before = contents(self.folder)
        try:
            result = action()
        except PalettizeError as error:
            self.outcome.refused += 1
            line = str(error)
            if "\n" in line or not line or len(line) > LONGEST_LINE:
                self._broken(verb, f"the message is not one line: {line[:80]!r} ({len(line)})")
            if "check the disk" in line:
                self._broken(verb, f"wrote what its own verification refuses: {line}")
            if contents(self.folder) != before:
                self._broken(verb, f"left something behind after {line[:200]!r}")
            return False
        except BaseException as error:
            self._broken(verb, f"{type(error).__name__}: {str(error)[:200]} at {_place(error)}")
            return False
        self.outcome.succeeded += 1
        try:
            if judge is not None:
                judge(result)
        except BaseException as error:
            said = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error} at {_place(error)}"
            self._broken(verb, f"what was written: {said[:300]}")
        return True

    def _broken(self, verb: str, what: str) -> None:
        self.outcome.violations.append(f"{verb}: " + " ".join(what.split()))

    def look(self) -> None:
        def inspect() -> None:
            inspection = inspect_package(self.source)
            strict_json(inspection.to_json())
            inspection.to_text(80)

        self.attempt("inspect", inspect)

    def differ(self) -> None:
        def diff(first: Path, second: Path, same: bool) -> None:
            difference = diff_packages(first, second)
            strict_json(difference.to_json())
            difference.to_text(80)
            if same and not difference.identical:
                raise AssertionError("a package differs from itself")

        self.attempt("diff with itself", lambda: diff(self.source, self.source, True))
        self.attempt("diff with the sound one", lambda: diff(self.sound, self.source, False))

    def decompress(self, verify: bool) -> None:
        written = self.destination
        self.attempt(
            "decompress",
            lambda: decompress_package(self.source, written, verify=verify, workers=1),
            judge=lambda report: judge_decompressed(self.source, written, report),
        )
        shutil.rmtree(written, ignore_errors=True)

    def palettize(self, mode: Mode, resume: Path | None = None) -> None:
        """With resume, the folder lies outside of what has to stay as it is."""
        source, written = self.source, self.destination
        if mode.name == "in-place":
            written = self.folder / "in-place.mlpackage"
            shutil.copytree(source, written)
            source = written
        elif mode.name == "overwrite":
            shutil.copytree(self.sound, written)
        keywords = {"select": "weights", **mode.call}
        self.attempt(
            f"palettize {mode.name}",
            lambda: palettize_package(source, written, config(mode), workers=1, resume=resume, **keywords),
            judge=lambda report: judge_palettized(self.source, written, report),
        )
        shutil.rmtree(written, ignore_errors=True)

    def command(self, verb: str, arguments: list[str]) -> None:
        """The command line: an exit code of those that docs/commands.md has, and one line on standard error."""

        def run() -> int:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main(arguments)
                except SystemExit as stopped:
                    code = int(stopped.code or 0)
            if code not in (0, 1, 2, 3, 4, 5):
                raise AssertionError(f"exit code {code}: {err.getvalue()[:200]}")
            if code > 1 and (
                err.getvalue().count("\n") != 1 or not err.getvalue().startswith("mil-palettize: error: ")
            ):
                raise AssertionError(f"said {err.getvalue()[:200]!r}")
            if code:
                raise PalettizeError(err.getvalue() or "different")
            return code

        self.attempt(verb, run)
        shutil.rmtree(self.destination, ignore_errors=True)


def every_verb(folder: Path, source: Path, sound: Path, random: Random, modes: int = 2) -> Outcome:
    """``modes``: how many ways to palettize, drawn; 0 for all."""
    attempts = Attempts(folder, source, sound)
    attempts.look()
    attempts.differ()
    attempts.decompress(verify=random.random() < 0.3)
    for mode in random.sample(MODES, modes) if modes else MODES:
        attempts.palettize(mode)
    return attempts.outcome


def config(mode: Mode) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(**{"weight_threshold": 64, **mode.config}))


def _place(error: BaseException) -> str:
    """The innermost line of the library that is on the way to an error."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "mil_palettize" in f.filename]
    frame = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()
