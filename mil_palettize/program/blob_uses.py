"""Every value of a model that is stored in a weight file, wherever the format lets one stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.message import Message

from mil_palettize.program.op_names import op_name
from mil_palettize.program.values import MIL


@dataclass(frozen=True, eq=False)
class BlobUse:
    """A value stored in a weight file, and the op (or function) it belongs to."""

    value: MIL.Value
    owner: str

    @property
    def file_name(self) -> str:
        return self.value.blobFileValue.fileName

    @property
    def offset(self) -> int:
        return int(self.value.blobFileValue.offset)


def blob_uses(message: Message, owner: str = "the model") -> list[BlobUse]:
    """Those under ``message``, itself included. ``owner``: what they belong to outside of ops."""
    found: list[BlobUse] = []
    _collect(message, owner, found)
    return found


def _collect(message: Message, owner: str, found: list[BlobUse]) -> None:
    kind: Any = type(message)
    if kind is MIL.Value and message.WhichOneof("value") == "blobFileValue":
        found.append(BlobUse(message, owner))
    elif kind is MIL.Operation:
        owner = op_name(message)
    if kind in _PLAIN and _PLAIN[kind](message):
        return
    for name, place in _fields(kind):
        for child in _children(message, name, place):
            _collect(child, owner, found)


def _children(message: Message, name: str, place: str) -> Iterable[Message]:
    if place == "one":
        return [getattr(message, name)] if message.HasField(name) else ()
    return getattr(message, name).values() if place == "map" else getattr(message, name)


@cache
def _fields(kind: type[Message]) -> tuple[tuple[str, str], ...]:
    """The fields of a message under which a value can stand: names, and "one", "many" or "map"."""
    return tuple(
        (field.name, _place(field))
        for field in kind.DESCRIPTOR.fields
        if field.message_type is not None and MIL.Value.DESCRIPTOR.full_name in _reached(field.message_type)
    )


def _place(field: Any) -> str:
    if field.message_type.GetOptions().map_entry:
        return "map"
    # protobuf below 6.31 has the label alone, and protobuf 7 has it no longer.
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return "many" if repeated else "one"


def _reached(descriptor: Any) -> set[str]:
    """Full names of the messages that one may hold at any depth, itself included."""
    found: set[str] = set()
    waiting = [descriptor]
    while waiting:
        found.add((current := waiting.pop()).full_name)
        inner = [field.message_type for field in current.fields if field.message_type is not None]
        waiting += [message for message in inner if message.full_name not in found]
    return found


def _is_plain_type(value_type: Any) -> bool:
    """A tensor type that holds no values itself."""
    return value_type.WhichOneof("type") == "tensorType" and not value_type.tensorType.attributes


def _is_plain_value(value: Any) -> bool:
    if value.WhichOneof("value") == "immediateValue" and value.immediateValue.WhichOneof("value") != "tensor":
        return False
    return _is_plain_type(value.type)


# What holds no values under it, as nearly all messages of a program do: not looked into, which saves most of the time.
_PLAIN: dict[Any, Callable[[Any], bool]] = {
    MIL.ValueType: _is_plain_type,
    MIL.NamedValueType: lambda named: _is_plain_type(named.type),
    MIL.Value: _is_plain_value,
    MIL.Argument.Binding: lambda binding: binding.WhichOneof("binding") == "name",
}
