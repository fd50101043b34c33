"""Two packages side by side: ops, weights (how far apart), bytes, metadata."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mil_palettize.program.block_paths import nested_path, specializations
from mil_palettize.program.counterparts import counterparts, sampled
from mil_palettize.program.fingerprints import fingerprint
from mil_palettize.program.form_names import describe_form
from mil_palettize.program.model import Model
from mil_palettize.program.op_names import result_name
from mil_palettize.program.scopes import is_constant_op
from mil_palettize.program.site_values import dense
from mil_palettize.program.sites import Site
from mil_palettize.program.stages import Stage
from mil_palettize.program.values import MIL
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.counting import Count
from mil_palettize.reports.decibels import decibels
from mil_palettize.reports.tables import format_table
from mil_palettize.text import format_bytes, printable

OpKey = tuple[WeightId, int]  # as if its result were a constant; which of that name, for ops without results


@dataclass(frozen=True)
class WeightDifference:
    """A constant that is not stored the same in both. ``renamed``: what it is called in the second, "" where that is
    ``name``. ``snr_db``: of the second against the first; infinite
    when the values are equal, None when one cannot be decoded here or shapes differ."""

    name: str
    function: str
    before: str
    after: str
    bytes_before: int
    bytes_after: int
    snr_db: float | None
    renamed: str = ""


@dataclass
class Difference:
    """What differs between two packages, empty lists when nothing does. ``ops`` and ``metadata``: a line each."""

    first: str
    second: str
    bytes_first: int
    bytes_second: int
    weights: list[WeightDifference] = field(default_factory=list)
    ops: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    same_ops: int = 0

    @property
    def identical(self) -> bool:
        """Nothing differs but where the data lies in the weight files."""
        return not (self.weights or self.ops or self.metadata)

    def to_json(self, indent: int | None = 2) -> str:
        """Valid JSON: an infinite SNR is the string ``"equal"``."""
        data = dataclasses.asdict(self)
        for weight in data["weights"]:
            if weight["snr_db"] is not None and not math.isfinite(weight["snr_db"]):
                weight["snr_db"] = "equal" if weight["snr_db"] > 0 else None
        data["identical"] = self.identical
        return json.dumps(data, indent=indent, allow_nan=False)

    def to_text(self, width: int = 110) -> str:
        """What differs, weights as a table of at most ``width`` columns, the largest first."""
        lines = [
            f"{self.first}: {format_bytes(self.bytes_first)}",
            f"{self.second}: {format_bytes(self.bytes_second)}",
            f"{self.same_ops} ops are the same",
        ]
        if self.identical:
            return "\n".join([*lines, "nothing differs"]) + "\n"
        for title, items in (("ops", self.ops), ("metadata", self.metadata)):
            if items:
                lines += ["", f"{title}:", *(f"  {item}" for item in items)]
        if self.weights:
            rows = [
                (
                    printable(_told_name(w)),
                    w.before,
                    w.after,
                    format_bytes(w.bytes_before),
                    format_bytes(w.bytes_after),
                    _snr_words(w.snr_db),
                )
                for w in sorted(self.weights, key=lambda w: -w.bytes_before)
            ]
            header = ("weight", "first", "second", "first", "second", "SNR dB")
            lines += ["", format_table(header, rows, width, right=3)]
        return "\n".join(map(printable, lines)) + "\n"


def _told_name(weight: WeightDifference) -> str:
    now = f" (now {weight.renamed})" if weight.renamed else ""
    return (weight.name if weight.function == "main" else f"{weight.function}/{weight.name}") + now


def _snr_words(snr_db: float | None) -> str:
    if snr_db is None:
        return "-"
    return f"{snr_db:.1f}" if math.isfinite(snr_db) else "equal"


def difference(first: str, a: Model, second: str, b: Model, count: Count) -> Difference:
    """What differs between the packages at ``first`` and ``second``, of which ``a`` and ``b`` are the models; ``count``
    is told of each op."""
    found = Difference(first, second, a.package.nbytes(), b.package.nbytes())
    found.metadata = [*_metadata(a, b), *_files(a, b)]
    _compare_ops(a, b, found, count)
    return found


def _compare_ops(a: Model, b: Model, difference: Difference, count: Count) -> None:
    ops_a, ops_b = dict(_ops(a)), dict(_ops(b))
    sites_a, sites_b = _sites(a), _sites(b)
    renamed = _renamed(a, b, ops_a, ops_b)
    difference.weights += [_compare_weight(a, sites_a[one, 0], b, sites_b[two, 0]) for one, two in renamed.items()]
    for weight, other in renamed.items():
        del ops_a[weight, 0], ops_b[other, 0]
    first_names: dict[str, dict[str, str]] = defaultdict(dict)  # by function
    for weight, other in renamed.items():
        first_names[weight.function][other.name] = weight.name
    ops_b = {key: _with_names(op, first_names[key[0].function]) for key, op in ops_b.items()}
    keys = dict.fromkeys([*ops_a, *ops_b])
    for number, key in enumerate(keys):
        count("ops", number + 1, len(keys))
        one, two = ops_a.get(key), ops_b.get(key)
        if one is None or two is None:
            op, where = (one, "first") if two is None else (two, "second")
            assert op is not None
            difference.ops.append(f"{key[0].key} ({op.type}) is only in the {where}")
        elif fingerprint(one, a.store) == fingerprint(two, b.store):
            difference.same_ops += 1
        elif key in sites_a and key in sites_b and is_constant_op(one.type) and is_constant_op(two.type):
            difference.weights.append(_compare_weight(a, sites_a[key], b, sites_b[key]))
        else:
            types = one.type if one.type == two.type else f"{one.type}, {two.type}"
            difference.ops.append(f"{key[0].key} ({types}) differs")


def _renamed(
    a: Model, b: Model, ops_a: Mapping[OpKey, MIL.Operation], ops_b: Mapping[OpKey, MIL.Operation]
) -> dict[WeightId, WeightId]:
    """Weights that only the name of tells apart, function by function."""
    found: dict[WeightId, WeightId] = {}
    single = _single_sites(a, ops_a, ops_b), _single_sites(b, ops_b, ops_a)
    for function in {site.weight.function for site in single[0].values()}:
        one, two = ([s.weight for s in sites.values() if s.weight.function == function] for sites in single)
        found |= counterparts(one, two, lambda id: _values(a, single[0][id]), lambda id: _values(b, single[1][id]))
    return found


def _single_sites(
    model: Model, own: Mapping[OpKey, MIL.Operation], others: Mapping[OpKey, MIL.Operation]
) -> dict[WeightId, Site]:
    """Constants of more than one axis that the other package has none of that name for."""
    return {
        key[0]: site
        for key, site in _sites(model).items()
        if key in own and key not in others and is_constant_op(own[key].type) and len(site.weight.shape) > 1
    }


def _values(model: Model, site: Site) -> np.ndarray | None:
    found = dense(site, model.store)
    return None if found is None or found.dtype.kind != "f" else sampled(found)


def _with_names(op: MIL.Operation, names: Mapping[str, str]) -> MIL.Operation:
    """``op``, reading by other ``names``."""
    read = [b for argument in op.inputs.values() for b in argument.arguments if b.name in names]
    if not read:
        return op
    copied = MIL.Operation()
    copied.CopyFrom(op)
    for argument in copied.inputs.values():
        for binding in argument.arguments:
            binding.name = names.get(binding.name, binding.name) if binding.name else ""
    return copied


def _ops(model: Model) -> Iterator[tuple[OpKey, MIL.Operation]]:
    """Every op, by its result's name: its own may be changed by a rewrite."""
    count: Counter[WeightId] = Counter()
    for stage in model.stages:
        for name, function in sorted(stage.program.functions.items()):
            for _, path, block in specializations(function):
                for own, op in _block_ops(stage.function_label(name), path, block):
                    yield (own, count[own]), op
                    count[own] += 1


def _block_ops(function: str, path: str, block: MIL.Block) -> Iterator[tuple[WeightId, MIL.Operation]]:
    for op in block.operations:
        yield WeightId(function, path, result_name(op)), op
        for number, inner in enumerate(op.blocks):
            yield from _block_ops(function, nested_path(path, op, number), inner)


def _sites(model: Model) -> dict[OpKey, Site]:
    return {(site.weight.id, 0): site for site in model.survey().sites if site.weight.form != "inline"}


def _compare_weight(a: Model, one: Site, b: Model, two: Site) -> WeightDifference:
    return WeightDifference(
        name=one.weight.name,
        function=one.weight.function,
        before=describe_form(one),
        after=describe_form(two),
        bytes_before=one.weight.nbytes,
        bytes_after=two.weight.nbytes,
        snr_db=_snr_db(dense(one, a.store), dense(two, b.store)),
        renamed="" if one.weight.name == two.weight.name else two.weight.name,
    )


def _snr_db(one: np.ndarray | None, two: np.ndarray | None) -> float | None:
    if one is None or two is None or one.shape != two.shape or "f" not in (one.dtype.kind, two.dtype.kind):
        return None
    signal = one.astype(np.float64).reshape(-1)
    noise = signal - two.astype(np.float64).reshape(-1)
    power = float(np.dot(noise, noise))
    if power == 0 or np.array_equal(one, two, equal_nan=True):
        return math.inf
    found = decibels(float(np.dot(signal, signal)), power)
    return found if math.isfinite(found) else None  # something is not finite, or was zero and is not any more


def _metadata(a: Model, b: Model) -> Iterator[str]:
    """The model messages around the ops."""
    if a.spec.specificationVersion != b.spec.specificationVersion:
        yield f"specificationVersion: {a.spec.specificationVersion}, {b.spec.specificationVersion}"
    stages_a, stages_b = ({s.label: s for s in m.stages} for m in (a, b))
    if stages_a.keys() != stages_b.keys():
        yield f"pipeline stages: {sorted(stages_a)}, {sorted(stages_b)}"
    for label in sorted(stages_a.keys() & stages_b.keys()):
        yield from _signatures(stages_a[label], stages_b[label])
    if a.spec.description != b.spec.description:
        yield from _description(a, b)
    if _bare(a) != _bare(b):
        yield "the model around its programs differs (other pipeline stages, preprocessing, updatable parameters)"


def _description(a: Model, b: Model) -> Iterator[str]:
    one, two = a.spec.description, b.spec.description
    for descriptor in one.DESCRIPTOR.fields:
        if getattr(one, descriptor.name) != getattr(two, descriptor.name):
            yield f"description.{descriptor.name} differs"


def _bare(model: Model) -> bytes:
    """The specification without descriptions, versions and programs, which are compared on their own."""
    spec = type(model.spec)()
    spec.CopyFrom(model.spec)
    spec.ClearField("description")
    for stage in Model(model.package, spec, model.store).stages:
        stage.model.mlProgram.Clear()
        stage.model.specificationVersion = 0
    spec.specificationVersion = 0
    return bytes(spec.SerializeToString(deterministic=True))


def _signatures(one: Stage, two: Stage) -> Iterator[str]:
    functions_a, functions_b = one.program.functions, two.program.functions
    for name in sorted({*functions_a, *functions_b}):
        label = one.function_label(name)
        if name not in functions_a or name not in functions_b:
            yield f"function {label} is only in the {'first' if name in functions_a else 'second'}"
            continue
        a, b = functions_a[name], functions_b[name]
        if a.opset != b.opset:
            yield f"function {label}: opset {a.opset}, {b.opset}"
        if list(a.inputs) != list(b.inputs):
            yield f"function {label}: inputs differ"
        outputs_a, outputs_b = ([list(x.outputs) for x in f.block_specializations.values()] for f in (a, b))
        if outputs_a != outputs_b:
            yield f"function {label}: outputs differ"


def _files(a: Model, b: Model) -> Iterator[str]:
    """Files that are neither the model nor a weight file a program points at."""
    files_a, files_b = _other_files(a), _other_files(b)
    for name in sorted(files_a | files_b):
        if name not in files_a or name not in files_b:
            yield f"file {name} is only in the {'first' if name in files_a else 'second'}"
        elif not a.package.has_same(Path(name), b.package):
            yield f"file {name} differs"


def _other_files(model: Model) -> set[str]:
    used = {model.package.weight_path(u.file_name, used_by=u.owner) for u in model.blob_uses()}
    used.add(model.package.model_path)
    return {path.as_posix() for path in model.package.files() if model.package.path / path not in used}
