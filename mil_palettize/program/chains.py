"""Chains of compressed constants: each compressed op whose result other ops read, and the ops it is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mil_palettize.program.blob_uses import BlobUse, blob_uses
from mil_palettize.program.expression_reader import unknown_form
from mil_palettize.program.scopes import Node, is_constant_op
from mil_palettize.program.sites import Site, place_obstacle
from mil_palettize.program.values import BLOB_TYPES, MIL, NUMPY_TYPES, string_value, type_name


@dataclass(frozen=True, eq=False)
class Chain:
    """``site``: the op whose result is read. ``obstacle``: why it has to stay compressed, "" when it has not."""

    site: Site
    obstacle: str

    @property
    def node(self) -> Node:
        assert self.site.node is not None
        return self.site.node


def find_chains(sites: Iterable[Site]) -> list[Chain]:
    """The chains of a model, in the order of ``sites``. A result that nothing reads ends a chain too."""
    ends = [site for site in sites if site.node is not None and _is_end(site.node)]
    obstacles = {id(site): _obstacle(site) for site in ends}
    kept: dict[int, str] = {}  # ops that those which stay are made from
    for site in ends:
        if obstacles[id(site)] and site.node is not None:
            waiting = list(site.node.sources.values())
            while waiting:
                node = waiting.pop()
                if id(node.op) not in kept:
                    kept[id(node.op)] = f"{site.weight.name}, which stays compressed, is made from it"
                    waiting += node.sources.values()
    return [Chain(site, obstacles[id(site)] or kept.get(id(site.op), "")) for site in ends]


def _is_end(node: Node) -> bool:
    if node.op is None or node.op.type == "const" or not is_constant_op(node.op.type):
        return False
    read = [use for result in node.results for use in result.uses]
    inside = bool(read) and all(is_constant_op(use.op.type) for use in read)
    return not inside or any(result.is_block_output for result in node.results)


def _obstacle(site: Site) -> str:
    assert site.node is not None
    code = site.node.type.tensorType.dataType
    form = unknown_form(site.op, site.node.sources)
    if form:
        return f"its form is not known: {form}"
    if len(site.node.results) > 1:
        return f"{site.op.type} has {len(site.node.results)} results, which no single constant can be"
    if code not in NUMPY_TYPES or code not in BLOB_TYPES:
        return f"{type_name(code)} values; constants are written of whole bytes"
    return ""


def palette_obstacle(chain: Chain) -> str:
    """Why no palette can take the place of a whole chain, "" when one can."""
    site = chain.site
    if site.weight.dtype not in ("fp16", "fp32"):
        return f"{site.weight.dtype} values; palettes hold fp16 and fp32"
    return chain.obstacle or place_obstacle(chain.node)


def _sources(node: Node) -> Iterator[Node]:
    """All values that ``node`` is made from, each once, however often it is read."""
    seen: set[Node] = set()
    waiting = list(node.sources.values())[::-1]
    while waiting:
        source = waiting.pop()
        if source not in seen:
            seen.add(source)
            yield source
            waiting += list(source.sources.values())[::-1]


def chain_ops(node: Node) -> list[MIL.Operation]:
    """The op of ``node`` and every op it is made from, each once, in the order of their inputs' names."""
    ops: dict[int, MIL.Operation] = {}
    for part in (node, *sorted(_sources(node), key=lambda source: source.name)):
        if part.op is not None:
            ops.setdefault(id(part.op), part.op)
    return list(ops.values())


def chain_key(node: Node, known: dict[int, bytes] | None = None) -> bytes:
    """Equal for chains of the same ops over the same data, whatever they are called. Of known forms only: those have
    few parts (``scopes.MOST_PARTS``). ``known``: keys by the ``id`` of ops, of parts that several read; added to."""
    assert node.op is not None
    known = {} if known is None else known
    if id(node.op) in known:
        return known[id(node.op)]
    digest = hashlib.sha256()
    bare = MIL.Operation()
    bare.CopyFrom(node.op)
    bare.attributes["name"].CopyFrom(string_value(""))
    for output in bare.outputs:
        output.name = ""
    for name in node.sources:
        bare.inputs[name].Clear()
    digest.update(bare.SerializeToString(deterministic=True))
    for name, source in sorted(node.sources.items()):
        digest.update(f"{name} {source.results.index(source)}".encode() + chain_key(source, known))
    known[id(node.op)] = digest.digest()
    return known[id(node.op)]


def inner_ops(chains: Iterable[Chain]) -> dict[int, MIL.Operation]:
    """Constant ops that nothing reads any more once ``chains`` are constants, by ``id``."""
    gone = GoneOps()
    for chain in chains:
        gone.add(chain.node)
    return gone.parts


class GoneOps:
    """Compressed constants that are taken out of a program, and the ops that only they are made from, by ``id``.

    ``parts``: those without the constants themselves.
    """

    def __init__(self) -> None:
        self.parts: dict[int, MIL.Operation] = {}
        self._ends: set[int] = set()
        self._reads: dict[int, int] = {}  # of an op's results, by what is not gone; counted once, then kept

    def add(self, node: Node) -> list[MIL.Operation]:
        """Take out the op of ``node``, of a known form; returns the other ops that nothing reads any more."""
        added: list[MIL.Operation] = []
        if id(node.op) in self._ends:
            return added
        self._ends.add(id(node.op))
        waiting = list(node.sources.values())
        while waiting:  # one entry for each time that an op which is gone reads another
            source = waiting.pop()
            if source.op is None or not self._is_last_read(source):
                continue
            if id(source.op) not in self._ends:
                self.parts[id(source.op)] = source.op
                added.append(source.op)
                waiting += source.sources.values()
        return added

    def _is_last_read(self, source: Node) -> bool:
        left = self._reads.get(id(source.op))
        if left is None:
            outside = any(result.is_block_output for result in source.results)
            left = sum(len(result.uses) for result in source.results) + outside
        self._reads[id(source.op)] = left - 1
        return left == 1


def chain_uses(node: Node) -> list[BlobUse]:
    """What of a chain is stored in weight files."""
    return [use for op in chain_ops(node) for use in blob_uses(op)]


def constant_op(op: MIL.Operation, value: MIL.Value) -> MIL.Operation:
    """The ``const`` op that stands in for ``op``: the same output, the same name."""
    const = MIL.Operation(type="const")
    const.outputs.extend(op.outputs)
    if "name" in op.attributes:
        const.attributes["name"].CopyFrom(op.attributes["name"])
    const.attributes["val"].CopyFrom(value)
    return const
