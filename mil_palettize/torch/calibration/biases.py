"""Biases that take back the mean error of what palettized ops give (data-free quantization, arXiv 1906.04721, here with
samples)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.part import one_thread
from mil_palettize.torch.calibration.sources import sources_of
from mil_palettize.torch.calibration.streams import Stream, wide
from mil_palettize.torch.calibration.walk import WalkOptions
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Step

_CHANNELS = {"conv": 1, "conv_transpose": 1, "linear": -1}  # axis of the result that a bias lies along


def corrected_biases(
    module: MILModule,
    samples: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    allowed: Collection[str],
    options: WalkOptions,
    *,
    states: Sequence[Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, np.ndarray]:
    """New values, by slot and of their own dtype, of biases in ``allowed`` that one op alone reads, whose weight is in
    ``arrays`` (palettized weights by slot): the mean over all samples but those held out, and over positions, of what
    the op gives in the float network is what it gives in the palettized one, where biases of ops before are corrected
    already. Only those that change."""
    derived, found = sources_of(module.function, ()).derived, dict[str, np.ndarray]()
    wanted = {number: slot for slot, number in biases_of(module, arrays, allowed).items()}
    fit = [number for number in range(len(samples)) if number not in options.held]
    memory, device = options.memory // 2, options.device
    with (
        torch.no_grad(),
        one_thread(),
        Stream(module, samples, memory, states=states, device=device) as float_stream,
        Stream(module, samples, memory, states=states, device=device) as other,
    ):
        for slot, array in arrays.items():
            other.replace(slot, torch.from_numpy(np.array(array, np.float32)), ())
        for stream in (float_stream, other):
            stream.derive(derived.values())
        for number, step in enumerate(module.function.block.steps):
            if number in derived:
                continue
            if number in wanted:
                slot = wanted[number]
                old = module.function.constants[slot].decode()
                change = _mean(float_stream, step, fit) - _mean(other, step, fit)
                new = (old.astype(np.float64) + change).astype(old.dtype)
                if np.isfinite(new).all() and not np.array_equal(new, old):
                    found[slot] = new
                    other.replace(slot, torch.from_numpy(new.astype(np.float32)), ())
            float_stream.advance(step)
            other.advance(step)
    return found


def biases_of(module: MILModule, arrays: Mapping[str, np.ndarray], allowed: Collection[str]) -> dict[str, int]:
    """Slots of biases in ``allowed`` that one op alone reads, whose weight is in ``arrays``, with the ops' numbers."""
    found = {}
    read = Counter(slot for step in module.function.block.all_steps() for slot in step.slots_read())
    for number, step in enumerate(module.function.block.steps):
        slots = {reading.name: reading.slots[0] for reading in step.readings if not reading.many}
        bias, weight = slots.get("bias"), slots.get("weight")
        if step.info.type not in _CHANNELS or weight not in arrays or bias is None:
            continue
        if bias in allowed and read[bias] == 1:
            found[bias] = number
    return found


def _mean(stream: Stream, step: Step, samples: Sequence[int]) -> np.ndarray:
    """Of each channel of what the op gives, float64."""
    total, count = 0.0, 0
    for sample in samples:
        (out,) = stream.results(step, stream.arguments(sample, step))
        channels = wide(out).movedim(_CHANNELS[step.info.type], 0).flatten(1)
        total = total + channels.sum(dim=1).cpu().numpy()
        count += channels.shape[1]
    return np.asarray(total / count)
