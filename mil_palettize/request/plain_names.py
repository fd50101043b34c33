"""Configs without patterns and modules, for readers that know neither: as coremltools' files have them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mil_palettize.program.weight import Weight
from mil_palettize.request.module_names import in_model, names_of
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import DEFAULT_WEIGHT_THRESHOLD, PaletteRequest
from mil_palettize.request.precedence import resolve


def with_plain_names(requests: Requests, weights: Iterable[Weight], op_names: Iterable[tuple[str, str]]) -> Requests:
    """``requests`` with an entry for each constant that a pattern or a module decides, in its place: by its bare name
    where everything called so gets the same, else as ``function/name``. What patterns do not take (constants at or
    below the threshold, those that are no weights) gets none, or null where other entries would take it.

    ``op_names``: (function, name) of every op and output. Raises PlanError for a pattern that matches nothing,
    and for a name that may mean several modules.
    """
    weights = list(weights)
    requests = in_model(requests, names_of(weights, op_names))
    entries = {name: request for name, request in requests.by_name.items() if requests.is_written_out(name)}
    plain = replace(requests, by_name=entries, modules={})
    called: dict[str, list[tuple[str, PaletteRequest | None]]] = defaultdict(list)
    alike: dict[str, set[object]] = defaultdict(set)
    for weight in weights:
        resolved = resolve(weight, requests)
        asked = resolved.request if _takes(resolved.request, weight) else None
        several = resolved.level == "pattern" and _can_be_palette(weight)
        several = several and (asked is not None or _is_above(weight, resolve(weight, plain).request))
        alike[weight.name].add(asked if several else "otherwise")
        if several:
            called[weight.name].append((weight.key, asked))
    for name, found in called.items():
        entries |= {name: found[0][1]} if len(alike[name]) == 1 else dict(found)
    return replace(plain, by_name=entries)


def _takes(request: PaletteRequest | None, weight: Weight) -> bool:
    """Whether a pattern with ``request`` makes a palette of what it matches."""
    return _is_above(weight, request) and weight.acts_as_weight and not weight.is_rotary


def _is_above(weight: Weight, request: PaletteRequest | None) -> bool:
    return request is not None and weight.size > request.weight_threshold


def _can_be_palette(weight: Weight) -> bool:
    """As it is, or after it is decompressed."""
    return len(weight.shape) > 1 and (not weight.obstacle or weight.form.startswith("constexpr_"))


def as_mapping(requests: Requests) -> dict[str, Any]:
    """The nested mapping that ``OptimizationConfig.from_dict`` takes."""
    return {
        "config_type": "OpPalettizerConfig",
        "global_config": _options(requests.global_request),
        "op_type_configs": {name: _options(request) for name, request in requests.by_type.items()},
        "op_name_configs": {name: _options(request) for name, request in requests.by_name.items()},
    }


def as_yaml(requests: Requests) -> str:
    """The same as text, with an entry in each line."""
    lines = []
    for key, value in as_mapping(requests).items():
        if isinstance(value, Mapping) and key != "global_config":
            rows = [f"  {json.dumps(name)}: {json.dumps(options)}" for name, options in value.items()]
            lines += [f"{key}:", *rows] if rows else []
        else:
            lines.append(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _options(request: PaletteRequest | None) -> dict[str, Any] | None:
    """Those that differ from what is left out."""
    if request is None:
        return None
    grouped = {"granularity": request.granularity, "group_size": request.group_size} if request.grouped else {}
    scaled = {"enable_per_channel_scale": True} if request.scale is not None else {}
    others = {
        "nbits": request.nbits,
        "lut_function": request.lut_function,
        "channel_axis": request.channel_axis,
        "cluster_dim": request.cluster_dim if request.cluster_dim > 1 else None,
        "weight_threshold": request.weight_threshold if request.weight_threshold != DEFAULT_WEIGHT_THRESHOLD else None,
        "scale": request.scale if request.scale != "op" else None,
        "lut_dtype": request.lut_dtype,
    }
    return {"mode": request.mode} | grouped | scaled | {name: v for name, v in others.items() if v is not None}
