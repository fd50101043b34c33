"""What devices are known to make of a package: rules with their sources, classes and sizes. Times are never told."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from mil_palettize.planning.device_rules import sentence
from mil_palettize.planning.preflight import Finding, Findings
from mil_palettize.reports.tables import wrapped_lines
from mil_palettize.text import format_bytes, format_count, format_some, printable

_NAMES = 3
_WORDS = {
    "fails": "fails",
    "falls back": "falls back to another device",
    "much slower": "much slower",
    "slower": "slower",
    "no gain": "no gain in time",
    "runs": "runs as it is stored",
}


@dataclass(frozen=True)
class Preflight:
    """``device``: as it was asked for. ``needs``: the releases that hold the model's opset. ``nbytes``: of all files;
    ``weight_nbytes``: of the largest weight file.

    >>> found = preflight_package("fixtures/conv_fp16_ios18.mlpackage", "mac-ane")
    >>> found.fails, found.needs[:2]
    (False, ('iOS18', 'macOS15'))
    """

    path: str
    device: str
    needs: tuple[str, ...]
    nbytes: int
    weight_nbytes: int
    findings: Findings

    @property
    def fails(self) -> bool:
        """Whether something is known to fail."""
        return any(finding.rule.consequence == "fails" for finding in self.findings.found)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "findings"}
        data["needs"] = list(self.needs)
        data["findings"] = [_as_dict(finding) for finding in self.findings.found]
        data["unknown"] = {
            "palettes": list(self.findings.unknown_palettes),
            "ops": self.findings.unknown_ops,
        }
        return data

    def to_json(self, indent: int | None = 2) -> str:
        """Everything, all names included."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_text(self, width: int = 110) -> str:
        """The worst consequences first, each with what it is of, how sure it is and by which source."""
        head = [
            f"{self.path}, for {self.device}: {format_bytes(self.nbytes)}, largest weight file "
            f"{format_bytes(self.weight_nbytes)}; needs {' or '.join(self.needs)}, or later",
        ]
        blocks = [head]
        for consequence, words in _WORDS.items():
            of = [finding for finding in self.findings.found if finding.rule.consequence == consequence]
            blocks.append([f"{words}:", *(f"  {_line(finding)}" for finding in of)] if of else [])
        blocks.append(self._unknown())
        lines = ["\n".join(wrapped_lines(block, width)) for block in blocks if block]
        return printable("\n\n".join(lines)) + "\n"

    def _unknown(self) -> list[str]:
        known = self.findings.unknown_palettes
        palettes = f"{format_count(len(known), 'palette')} ({format_some(list(known), _NAMES)})" if known else ""
        ops = format_count(self.findings.unknown_ops, "op") if self.findings.unknown_ops else ""
        told = " and ".join(filter(None, [palettes, ops]))
        return [f"unknown: no rule speaks of {told}"] if told else []

    def __str__(self) -> str:
        return self.to_text()


def _line(finding: Finding) -> str:
    names = list(finding.names)
    kinds = f" ({', '.join(finding.kinds)})" if finding.kinds else ""
    return f"{sentence(finding.rule)}: {len(names)}{kinds}: {format_some(names, _NAMES)}"


def _as_dict(finding: Finding) -> dict[str, Any]:
    rule = {f.name: getattr(finding.rule, f.name) for f in dataclasses.fields(finding.rule) if f.name != "concerns"}
    return {**rule, "devices": list(finding.rule.devices), "names": list(finding.names), "kinds": list(finding.kinds)}
