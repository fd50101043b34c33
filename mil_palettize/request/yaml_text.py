"""YAML read in time and memory that follow its length, with the line of each key. Nothing in it is executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mil_palettize.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"
_LONGEST_SCALAR = 4000  # characters; longer ones could be numbers of a size that takes its square to work out
_MOST_MERGED = 10_000
_ALIASES = 4  # what they stand for may be so many times as long as the text
_ALWAYS = 1_000_000  # characters that they may stand for in a short one


def read_yaml(text: str) -> Any:
    """What a document stands for; mappings are :class:`Located`.

    Raises ``yaml.YAMLError`` for what is no YAML; ConfigError for keys that are no text or are given twice, values of
    more than 4,000 characters, and aliases and merges that stand for much more than is written; RecursionError for
    depths that nobody writes.
    """
    return yaml.load(text, _Loader)


class Located(dict[str, Any]):
    """A mapping of a file, with the line of each key."""

    lines: Mapping[Any, int] = {}


class _Loader(yaml.SafeLoader):
    """Keys are text, whatever YAML would make of them (numbers can be chosen to collide), and what is merged has a
    limit. A key given twice is an error: YAML would take the last one silently."""

    def get_single_node(self) -> yaml.Node | None:
        root: yaml.Node | None = super().get_single_node()
        if root is not None:
            _check_aliases(root)
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            name, line = self._key(key), key.start_mark.line + 1
            if name in lines:
                raise ConfigError(f"{name!r} is given twice, in lines {lines[name]} and {line}")
            lines[name] = line
        self.flatten_mapping(node)
        found = Located({self._key(key): self.construct_object(value, deep=True) for key, value in node.value})
        found.lines = lines
        return found

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_SCALAR:
            raise ConfigError(f"line {node.start_mark.line + 1} holds a value of {len(node.value)} characters")
        return super().construct_scalar(node)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put the entries of what is merged in front of the node's own, as YAML does."""
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in reversed(sources):
                if not isinstance(source, yaml.MappingNode):
                    raise ConfigError(f"line {key.start_mark.line + 1} merges what is no mapping")
                self.flatten_mapping(source)
                merged += source.value
                if len(merged) > _MOST_MERGED:
                    raise ConfigError(f"line {key.start_mark.line + 1} merges more than {_MOST_MERGED} entries")
        node.value = [*merged, *(pair for pair in node.value if pair[0].tag != _MERGE)]

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(f"line {node.start_mark.line + 1} has a key that is no text")
        return str(self.construct_object(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)


def _check_aliases(root: yaml.Node) -> None:
    """Raise ConfigError where they stand for more characters than the text can be meant for: each of a few lines can
    double what the one before stands for, and an error that shows a value would write it all."""
    lengths: dict[int, int] = {}
    _length(root, lengths)
    written = sum(len(node.value) for node in _nodes(root) if isinstance(node, yaml.ScalarNode))
    if lengths[id(root)] > _ALIASES * written + _ALWAYS:
        raise ConfigError("its aliases stand for many times what is written")


def _length(node: yaml.Node, lengths: dict[int, int]) -> int:
    """Characters of all scalars below, as often as they are meant. Raises RecursionError where a node holds itself."""
    if id(node) not in lengths:
        parts = [len(node.value)] if isinstance(node, yaml.ScalarNode) else [_length(n, lengths) for n in _below(node)]
        lengths[id(node)] = 1 + sum(parts)
    return lengths[id(node)]


def _below(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _nodes(root: yaml.Node) -> list[yaml.Node]:
    """All of them, each once."""
    found: dict[int, yaml.Node] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += _below(node)
    return list(found.values())
