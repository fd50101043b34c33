"""Which of the user's requests applies to a weight, also when the ops that read it are configured differently.

The rule: a request for the constant by its own name wins. Otherwise each op that reads it brings the request for
its name, or that of what it gives, else for its type, else the global one, and of these

1. the most specific level wins: name before type before global; patterns and modules come after every name that is
   written out, those of the constant itself before those of readers;
2. on one level "leave alone" (None) wins, then the one that keeps more: ``unique``, then ``custom``, then more
   bits per element, then smaller groups before per tensor; what is still equal goes to the first op in program order.
"""

from __future__ import annotations

from dataclasses import dataclass

from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.program.weight import Consumer, Weight
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import PaletteRequest

_LEVELS = ("name", "pattern", "type", "global")
_ALL_CHANNELS, _ONE_TABLE = 1 << 61, 1 << 62  # as sizes of groups, larger than any


@dataclass(frozen=True)
class Resolved:
    """``level``: what decided ("constant", "name", "type", "global", or "pattern", also of a module). ``keys``:
    entries of ``op_name_configs`` that spoke, whether they decided or not. ``note``: how a disagreement was settled, ""
    when there was none. ``reason``: of a plan that leaves the weight alone, in a sentence."""

    request: PaletteRequest | None
    level: str
    by: str
    keys: frozenset[str] = frozenset()
    note: str = ""
    reason: str = ""

    @property
    def explicit(self) -> bool:
        """Asked for by name or type, not only globally, and not by a pattern, which may meet more than was meant."""
        return self.level not in ("global", "pattern") and self.request is not None


@dataclass(frozen=True)
class _Voice:
    request: PaletteRequest | None
    level: str
    by: str
    keys: tuple[str, ...] = ()


def resolve(weight: Weight, requests: Requests) -> Resolved:
    """The one request that applies to ``weight``."""
    voices = [_voice(weight.function, consumer, requests) for consumer in weight.consumers]
    own = requests.matching(weight.function, weight.name, weight.op_name)
    keys = frozenset(own).union(*(v.keys for v in voices))
    if own and (requests.is_written_out(own[0]) or all(v.level != "name" for v in voices)):
        level = "constant" if requests.is_written_out(own[0]) else "pattern"
        by = requests.source_of(own[0])
        return Resolved(requests.by_name[own[0]], level, by, keys, reason=requests.reason(own[0]))
    reason = requests.reason(weight.key)
    if not voices:
        return Resolved(requests.global_request, "global", "global_config", reason=reason)
    chosen = min(voices, key=_preference)
    return Resolved(chosen.request, chosen.level, chosen.by, keys, _settled(voices, chosen), reason)


def _voice(function: str, consumer: Consumer, requests: Requests) -> _Voice:
    ops = [(consumer.op_type, consumer.op_name), *consumer.path]
    named = requests.matching(function, consumer.op_name, *consumer.outputs, *(name for _, name in consumer.path))
    if named:
        level = "name" if requests.is_written_out(named[0]) else "pattern"
        return _Voice(requests.by_name[named[0]], level, requests.source_of(named[0]), tuple(named))
    for op_type, _ in ops:
        if op_type in requests.by_type:
            return _Voice(requests.by_type[op_type], "type", f"op_type_configs[{op_type!r}]")
    return _Voice(requests.global_request, "global", "global_config")


def _preference(voice: _Voice) -> tuple[float, ...]:
    request = voice.request
    level = _LEVELS.index(voice.level)
    if request is None:
        return level, 0, 0, 0
    kept = ALGORITHMS[request.mode].keeps_bits
    bits = (request.nbits or 0) / request.cluster_dim if kept is None else kept
    return level, 1, -bits, (request.group_size or _ALL_CHANNELS) if request.grouped else _ONE_TABLE


def _settled(voices: list[_Voice], chosen: _Voice) -> str:
    if all(v.request == chosen.request for v in voices):
        return ""
    asked = dict.fromkeys(f"{v.by} asks for {v.request or 'leave alone'}" for v in voices)
    return f"the ops that read it are configured differently ({', '.join(asked)}): {chosen.by} decides"
