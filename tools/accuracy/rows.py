"""A network palettized in every way that is asked for, and measured."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mil_palettize import (
    Budget,
    Calibration,
    Finetuning,
    Limits,
    OpPalettizerConfig,
    OptimizationConfig,
    fisher_importance,
    palettize_package,
    plan_mixed_bits,
)
from tools.accuracy import by_coremltools
from tools.accuracy.network import Labelled, Network

MADE_UP = "made-up"
_MADE_UP_SAMPLES = 128
_BIAS = "+bias"
_FISHER = "fisher-"
_BLOCKS, _AUGMENT, _MIX = "blocks-", "+augment", "+mix"
_WITHOUT_SEED = ("none", "weights", by_coremltools.KIND)


@dataclass(frozen=True)
class Row:
    """``heading``: of the first figure; ``figures``: by the network's headings, of each seed; ``nbytes``: of
    ``weight.bin``; ``seconds``: of palettizing, on the processor."""

    network: str
    heading: str
    nbits: int | None
    calibration: str
    figures: list[tuple[float, ...]]
    nbytes: int
    seconds: float

    def column(self, number: int) -> list[float]:
        return [figures[number] for figures in self.figures]


def keywords_of(network: Network, kind: str, seed: int, rounds: int) -> dict[str, Any]:
    """Of ``palettize_package``. ``kind``: ``none``, ``weights``, ``made-up`` (``made-up-192``: so many), a number of
    the network's own samples, or ``fisher-`` and that number, for sensitive k-means alone. ``+bias`` behind it: biases
    are corrected too. ``coremltools`` is no kind of ours: its own palettes."""
    if kind == "none":
        return {}
    if kind.endswith(_BIAS):
        keywords = keywords_of(network, kind.removesuffix(_BIAS), seed, rounds)
        return {"calibration": replace(keywords["calibration"], bias=True)}
    if kind == "weights":
        return {"calibration": Calibration(method="weights", rounds=rounds)}
    if kind.startswith(MADE_UP):
        samples = int(kind[len(MADE_UP) + 1 :] or _MADE_UP_SAMPLES)
        return {"calibration": Calibration(samples=samples, seed=seed, rounds=rounds)}
    given = network.samples(int(kind.removeprefix(_FISHER)), seed)
    if kind.startswith(_FISHER):
        return {"importance": fisher_importance(network.source, given, seed=seed)}
    return {"calibration": Calibration(given, seed=seed, rounds=rounds)}


def finetuning_of(network: Network, kind: str, seed: int) -> Finetuning:
    """``kind``: ``10x2000``, ten epochs of so many samples, with labels where there are some; ``10x2000/16``: 16 of
    them to a step, in place of 64; ``10x2000@0.01``: at this learning rate; ``10x2000+augment``: with pictures changed
    at random; ``10x2000+mix``: also laid over each other, without labels; ``blocks-10x500``: block by block."""
    blocks, mix = kind.startswith(_BLOCKS), kind.endswith(_MIX)
    augment = mix or kind.endswith(_AUGMENT)
    asked, _, rate = kind.removeprefix(_BLOCKS).removesuffix(_MIX).removesuffix(_AUGMENT).partition("@")
    asked, _, batch = asked.partition("/")
    epochs, count = map(int, asked.split("x"))
    samples = network.samples(count, seed)
    labels = network.labels(count, seed) if isinstance(network, Labelled) and not (blocks or mix) else None
    kinds = (*(("flip", "shift") if augment else ()), *(("mix",) if mix else ()))
    return Finetuning(
        samples, epochs, labels, int(batch or 64), float(rate) if rate else None, seed=seed, augment=kinds,
        blocks=blocks,
    )  # fmt: skip


def rows(name: str, network: Network, options: argparse.Namespace, out: Path) -> Iterator[Row]:
    """``out``: the package to write, again and again."""
    first = network.figures[0]
    yield Row(name, first, None, "", [network.measured(network.source)], weight_nbytes(network.source), 0.0)
    for nbits in options.nbits:
        config = OptimizationConfig(
            global_config=OpPalettizerConfig(
                nbits=nbits, weight_threshold=options.weight_threshold, **_groups(options.group_size)
            )
        )
        for kind in options.calibrations:
            yield _measured(name, network, options, nbits, kind, out, config)
            for tuning in options.finetune if kind not in _WITHOUT_SEED or kind == "weights" else ():
                yield _measured(name, network, options, nbits, kind, out, config, tuning)
            if options.mixed and kind != by_coremltools.KIND:
                yield _measured(name, network, options, nbits, kind, out, Budget(nbytes=package_nbytes(out)))


def _measured(
    name: str,
    network: Network,
    options: argparse.Namespace,
    nbits: int,
    kind: str,
    out: Path,
    wanted: OptimizationConfig | Budget,
    tuning: str | None = None,
) -> Row:
    """``wanted``: uniform palettes, or what mixed ones may take. ``tuning``: how they are trained, None for not."""
    found, seconds, told = [], [], kind if tuning is None else f"{kind}, {tuning}"
    for seed in range(options.seeds if kind not in _WITHOUT_SEED else 1):
        started = time.process_time()
        if kind == by_coremltools.KIND:
            by_coremltools.palettized(network.source, out, wanted)
            seconds.append(time.process_time() - started)
            found.append(network.measured(out))
            continue
        keywords = keywords_of(network, kind, seed, options.rounds)
        if tuning is not None:
            keywords["finetuning"] = finetuning_of(network, tuning, seed)
        config = wanted
        if isinstance(wanted, Budget):
            told = f"{kind}, mixed bits"
            samples = {name: given for name, given in keywords.items() if name == "calibration"}
            # Mixed bits themselves: they stand beside the row of uniform ones, whichever are better.
            config = plan_mixed_bits(
                network.source, wanted, limits=_limits(options), target="iOS18",
                measure=False, workers=1, **samples,
            )  # fmt: skip
        palettize_package(network.source, out, config, target="iOS18", overwrite=True, workers=1, **keywords)
        seconds.append(time.process_time() - started)
        found.append(network.measured(out))
    return Row(name, network.figures[0], nbits, told, found, weight_nbytes(out), min(seconds))


def _limits(options: argparse.Namespace) -> Limits:
    """Pairs of channels with scales are known to run on the GPU only."""
    device = "gpu" if options.vectors else "any"
    return Limits(weight_threshold=options.weight_threshold, vectors=options.vectors, device=device)


def _groups(size: int | None) -> dict[str, Any]:
    return {} if size is None else {"granularity": "per_grouped_channel", "group_size": size}


def weight_nbytes(package: Path) -> int:
    return sum(file.stat().st_size for file in package.rglob("weight.bin"))


def package_nbytes(package: Path) -> int:
    return sum(file.stat().st_size for file in package.rglob("*") if file.is_file())


def heading(figures: Sequence[str]) -> str:
    """The first two lines of a Markdown table."""
    cells = ("network", "bits", "calibrated with", *figures, "bytes of weight.bin", "CPU s")
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def line(row: Row) -> str:
    figures = (_told(row.column(number)) for number in range(len(row.figures[0])))
    bits = "float" if row.nbits is None else str(row.nbits)
    cells = (row.network, bits, row.calibration, *figures, f"{row.nbytes:,}", f"{row.seconds:.1f}")
    return f"| {' | '.join(cells)} |"


def _told(values: Sequence[float]) -> str:
    """Four digits: 85.71 of a hundred, 0.9857 of one."""
    digits = 4 if abs(statistics.mean(values)) <= 1.0 else 2
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
