"""The door for what devices are known to make of a package."""

from __future__ import annotations

import os
from typing import Literal

from mil_palettize.errors import ConfigError, memory_told
from mil_palettize.planning.device_facts import ModelFacts
from mil_palettize.planning.device_rules import DEVICES
from mil_palettize.planning.model_facts import facts_of
from mil_palettize.planning.preflight import findings
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import opset_of
from mil_palettize.reports.preflight import Preflight

PathLike = str | os.PathLike[str]
Device = Literal["any", "ane", "iphone-ane", "mac-ane", "gpu", "cpu"]


@memory_told()
def preflight_package(path: PathLike, device: Device = "any") -> Preflight:
    """What is known of how a device takes the package at ``path``, from what others measured and wrote.

    Args:
        path: a ``.mlpackage`` folder, with palettes or without.
        device: "iphone-ane" and "mac-ane", "ane" for both, "gpu", "cpu", or "any" for all of these.

    Returns:
        Findings by consequence ("fails", "falls back", "much slower", "slower", "no gain", "runs"), each with its
        source and how sure it is, and what no rule speaks of. No time is estimated.

    Raises:
        ConfigError: for a device that is none of these.
        PackageError: for a package that cannot be read.

    >>> found = preflight_package("fixtures/recurrent_fp16_ios17.mlpackage", "mac-ane")
    >>> [finding.rule.name for finding in found.findings.found if finding.rule.consequence == "falls back"]
    ['recurrent']
    """
    if not isinstance(device, str) or device not in DEVICES:
        raise ConfigError(f"device is {device!r}, allowed are {tuple(DEVICES)}")
    with Model.open(path) as model:
        facts = list(facts_of(model))
        latest = max((opset_of(opset) for _, opset in model.functions()), key=lambda opset: opset.spec)
        return Preflight(
            path=os.fspath(path),
            device=device,
            needs=(latest.target, *latest.aliases),
            nbytes=model.package.nbytes(),
            weight_nbytes=max(one.weight_nbytes for _, one in facts if isinstance(one, ModelFacts)),
            findings=findings(facts, device),
        )
