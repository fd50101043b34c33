"""What is asked of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mil_palettize.errors import ConfigError
from mil_palettize.reports.counting import Count, untold
from mil_palettize.request.memory_limit import check_memory
from mil_palettize.torch.evaluator.constant_store import EVERYTHING
from mil_palettize.torch.pixels import Pixels

ALL = "all"  # of ``function``: every one the model has
LOGITS = "logits"  # what exporters call an output of logits
RUNTIMES = ("torch", "coreml")
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Those of ``mil_palettize.compare``, which says what they are; its ``per_op`` is two: ``per_op`` compares the
    results of ops, and ``attributed`` tells what each weight does to the outputs, which takes a run for each.

    Raises ConfigError for those that exclude each other."""

    random: int = 8
    seed: int = 0
    function: str | None = None
    per_op: bool = False
    attributed: bool = False
    precision: str = "fp32"
    runtime: str = "torch"
    histograms: int = 0
    logits: Sequence[str] = ()
    labels: Any = None
    sequence: bool = False
    steps: int | None = None
    greedy: int = 0
    pixels: Pixels | None = None
    memory: int | None = None
    count: Count = untold

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ConfigError(f"runtime is {self.runtime!r}; use one of {list(RUNTIMES)}")
        if self.runtime == "coreml" and (self.per_op or self.attributed):
            raise ConfigError("Core ML does not show the results of ops; per_op goes with the runtime 'torch'")
        check_memory(self.memory)
        if self.memory is not None and self.attributed:
            raise ConfigError("memory limits the weights that are kept, and per_op puts each by itself; leave one out")
        if self.greedy < 0:
            raise ConfigError(f"greedy is {self.greedy}; give a number of tokens, 0 for none")

    @property
    def memory_of_one(self) -> int | None:
        """As :func:`open_model` takes it, of a package that is alone."""
        if self.attributed:  # by other weights in the place of the module's
            return None
        return EVERYTHING if self.memory is None else self.memory

    @property
    def memory_of_each(self) -> int | None:
        """Of the two models."""
        return None if self.memory_of_one is None else self.memory_of_one // 2

    @property
    def told_precision(self) -> str:
        return self.precision if self.runtime == "torch" else "the device's own precision"

    @property
    def told_runtime(self) -> str:
        return self.runtime if self.runtime == "torch" else "Core ML"
