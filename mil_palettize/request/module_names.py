"""Entries of a config that name modules of the network a model was made of: ``lm_head``, ``layers.0.mlp``.

Packages hold no such names, but constants keep them: the weight of ``layers.0.fc`` is called
``layers_0_fc_weight_to_fp16``. An entry that no constant, op or output is called by means the constants whose names
begin with it, part by part; where none does, those that have it in the middle of their names, as below a module that
the conversion put around the network. It is no guess: where it may mean several things, all are told. What torch.export
puts before names may be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mil_palettize.errors import PlanError
from mil_palettize.program.bare_names import bare_name, before_export, is_exported, module_of
from mil_palettize.program.weight import Weight
from mil_palettize.request.near_names import near_pattern
from mil_palettize.request.normalised import Requests
from mil_palettize.request.patterns import is_pattern, matches, plain_name
from mil_palettize.text import format_some


@dataclass(frozen=True)
class Names:
    """What things of a model are called: ``exact``, bare and as ``function/name``, of constants, ops and outputs;
    ``functions``; ``constants``, each key (``function/name``) with its name without what coremltools added; and
    ``matrices``, constants that may become palettes."""

    exact: frozenset[str]
    functions: frozenset[str]
    constants: Mapping[str, str]
    matrices: frozenset[str]


def names_of(weights: Iterable[Weight], op_names: Iterable[tuple[str, str]]) -> Names:
    """``op_names``: (function, name) of every op and output."""
    weights = list(weights)
    named = {*op_names, *((w.function, w.name) for w in weights), *((w.function, w.op_name) for w in weights)}
    exact = {key for function, name in named for key in (name, *(f"{f}/{name}" for f in _called(function)))}
    functions = {called for function, _ in named for called in _called(function)}
    constants = {weight.key: plain_name(bare_name(weight.name)) for weight in weights}
    matrices = frozenset(weight.name for weight in weights if len(weight.shape) > 1)
    return Names(frozenset(exact), frozenset(functions), constants, matrices)


def in_model(requests: Requests, names: Names, where: str = "op_name_configs") -> Requests:
    """``requests`` with the modules that its entries mean in a model. ``where``: entries are of, for errors.

    Raises PlanError for a pattern that matches nothing, with near names; and for an entry that may mean several
    modules, with the names that tell them apart.
    """
    exported = is_exported(names.constants.values())
    for entry in requests.by_name:
        if is_pattern(entry) and not matches(entry, names.exact, exported):
            functions = format_some(sorted({key.rpartition("/")[0] for key in names.constants}))
            raise PlanError(
                f"{where}[{entry!r}] matches nothing in function {functions}{near_pattern(entry, names.matrices)}"
            )
    found = {
        entry: meant
        for entry in requests.by_name
        if not is_pattern(entry) and entry not in names.exact and (meant := _meant(entry, names, where))
    }
    innermost = sorted(found, key=lambda entry: -len(plain_name(entry).split("_")))
    return replace(requests, modules={entry: found[entry] for entry in innermost}, exported=exported)


def _called(function: str) -> tuple[str, str]:
    return function, function.rpartition("/")[2]


def _meant(entry: str, names: Names, where: str) -> frozenset[str]:
    """Keys of the constants of the module; none where there is no such module."""
    function, slash, module = entry.rpartition("/")
    if not slash or function not in names.functions:
        function, module = "", entry
    name = plain_name(module.replace("/", "_")).strip("_")
    if not name:
        return frozenset()
    of = {k: bare for k, bare in names.constants.items() if not function or function in _called(k.rpartition("/")[0])}
    exported = {key: before_export(bare) for key, bare in of.items()} if is_exported(of.values()) else {}
    return _among(exported, name, entry, where) or _among(of, name, entry, where)


def _among(of: Mapping[str, str], name: str, entry: str, where: str) -> frozenset[str]:
    """Keys of those of ``of``, constants by key, that the module ``name`` has."""
    parameter = frozenset(key for key, bare in of.items() if bare == name)
    if parameter:
        return parameter
    begin = {key: bare for key, bare in of.items() if bare.startswith(f"{name}_")}
    if begin:
        _refuse_siblings(entry, name, begin, where)
        return frozenset(begin)
    within = {key: bare for key, bare in of.items() if f"_{name}_" in f"{bare}_"}
    paths = {key: f"{bare}_".partition(f"_{name}_")[0] for key, bare in within.items()}
    if len(set(paths.values())) > 1:
        modules = sorted({f"{path}_{name}" for path in paths.values()})
        raise PlanError(
            f"{where}[{entry!r}] may mean {format_some([repr(module) for module in modules])}: write one of these, or "
            f"'*{name}*' for all"
        )
    return frozenset(within)


def _refuse_siblings(entry: str, name: str, begin: Mapping[str, str], where: str) -> None:
    """Raise PlanError where some of ``begin`` are parameters of a module of that very name, and others of modules whose
    names only may be below it: ``proj_out_weight`` is of ``proj.out``, or of ``proj_out``."""
    own = sorted(key.rpartition("/")[2] for key, bare in begin.items() if module_of(bare) == name)
    others = sorted({module_of(bare) or bare for bare in begin.values()} - {name})
    if own and others:
        raise PlanError(
            f"{where}[{entry!r}] may mean {own[0]!r} alone, or also {format_some([repr(one) for one in others])}: "
            f"write {own[0]!r}, or '{name}*' for all"
        )
