"""A case: one attack, told by its family and number; the same two always do the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
SMALL = (
    "conv_fp16_ios16", "conv_fp16_ios18", "conv_fp32_ios18", "const_chains_ios16", "embedding_matmul_ios16",
    "extras_ios16", "joint_ios18", "loop_ios16", "branches_ios16", "multifunction_ios18", "odd_values_ios18",
    "palettized_grouped_ios18", "palettized_ios16", "pipeline_ios17", "quantized_sparse_ios16", "recurrent_fp16_ios17",
    "shared_ios16", "stateful_ios18",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """``family``: what is attacked; ``number``: seed of what is done to it, or of a kill its place."""

    family: str
    number: int

    def __str__(self) -> str:
        return f"{self.family}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> Case:
        family, _, number = text.rpartition(":")
        return cls(family, int(number))

    @property
    def random(self) -> Random:
        return Random(str(self))


@dataclass
class Outcome:
    """What came of one case: how many verbs ended in success and in one line, and what broke the rules."""

    succeeded: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)


Play = Callable[[Case, Path], Outcome]  # a case, in an empty folder
