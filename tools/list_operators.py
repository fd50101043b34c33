"""Writes docs/operators.md: which ops of coremltools' registry the evaluator knows. ``--check``: whether it is so."""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from pathlib import Path

logging.getLogger("coremltools").setLevel(logging.CRITICAL)

PATH = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
_FIRST = "iOS15"  # of ML Programs
# Ops that no saved program holds.
NEVER_SAVED = {
    "_const_symbolic": "stands for sizes that are not known while coremltools converts",
}


def registry() -> dict[str, dict[str, str]]:
    """Family -> op -> the first opset that has it."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, versions in SSAOpRegistry.core_ops.items():
        target, first = next(iter(versions.items()))
        found[first.__module__.rpartition(".")[2].removesuffix("_ops")][name] = max(target.name, _FIRST)
    return found


def known() -> set[str]:
    from mil_palettize.torch.evaluator.constants import CONSTANT_OPS
    from mil_palettize.torch.evaluator.ops import OPS

    return {*OPS, *CONSTANT_OPS}


def document() -> str:
    ours = known()
    every = {name for family in registry().values() for name in family}
    lacking = sorted(every - ours - NEVER_SAVED.keys())
    lines = [
        "# Operators of the evaluator",
        "",
        f"`mil-palettize run` and `compare` know {len(every & ours)} of the {len(every)} ops in coremltools' registry"
        f"{'' if lacking else ', all that saved programs hold'}. Made by `python tools/list_operators.py`.",
        "",
        "| family | ops (with the opset they came with, where that is after iOS15) |",
        "|---|---|",
    ]
    for family, ops in sorted(registry().items()):
        told = [
            f"`{name}`{'' if target == _FIRST else f' ({target})'}"
            for name, target in sorted(ops.items())
            if name in ours
        ]
        if told:
            lines.append(f"| {family} | {', '.join(told)} |")
    extra = sorted(ours - every)
    lines += (
        ["", f"Also known, as saved programs hold them: {', '.join(f'`{name}`' for name in extra)}."] if extra else []
    )
    lines += ["", "Not known:", ""]
    lines += [f"- `{name}`: {NEVER_SAVED[name]}" for name in sorted(NEVER_SAVED.keys() - ours)]
    lines += [f"- `{name}`" for name in lacking]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the file is not up to date")
    if parser.parse_args().check:
        return int(PATH.read_text(encoding="utf-8") != document())
    PATH.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
