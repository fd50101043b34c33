"""Damage that parses: Core ML specifications with fields changed, dropped, doubled and put where others belong."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (0, 1, 2, 3, 7, 8, 10, 11, 13, 17, 63, 64, 65, 101, 10**6, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1, -1)
REALS = (0.0, 1e308, float("nan"), float("inf"), -1.0)
TEXTS = (
    "", "main", "../x", "@model_path/../../../etc/passwd", "@model_path/weights/weight.bin", "const", "conv", "linear",
    "constexpr_lut_to_dense", "cast", "while_loop", "transpose", "gather", "x" * 1000, "a\nb", "\x1b[31m", "CoreML5",
    "CoreML8", "CoreML99",
)  # fmt: skip
BYTES = (b"", b"\0", b"12345", bytes(64))


def mutate(message: Message, random: Random) -> str:
    """Change one field somewhere under ``message``; return which."""
    while True:
        everything = list(_messages(message))
        owner = random.choice(everything)
        fields = [field for field, _ in owner.ListFields()]
        if not fields or random.random() < 0.2:
            fields = list(owner.DESCRIPTOR.fields)
        if not fields:
            continue
        field = random.choice(fields)
        try:
            _change(owner, field, everything, random)
        except ValueError:  # out of the field's range
            continue
        return f"{owner.DESCRIPTOR.name}.{field.name}"


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            # Sorted: maps have no order of their own, and the same seed should do the same.
            inner_type = field.message_type.fields_by_name["value"].message_type
            values = [value[key] for key in sorted(value)] if inner_type else []
        else:
            values = [value] if isinstance(value, Message) else list(value)
        for inner in values:
            yield from _messages(inner)


def _change(owner: Message, field: FieldDescriptor, everything: list[Message], random: Random) -> None:
    current = getattr(owner, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _change_map(current, field, random)
    elif hasattr(current, "append"):
        _change_list(current, field, everything, random)
    elif random.random() < 0.2:
        owner.ClearField(field.name)
    elif field.message_type is None:
        setattr(owner, field.name, _scalar(field, random))
    else:
        current.CopyFrom(_like(field, everything, random))


def _change_map(current: Any, field: FieldDescriptor, random: Random) -> None:
    key_field = field.message_type.fields_by_name["key"]
    if not current:
        return
    key = random.choice(sorted(current))
    new = random.choice((random.choice(sorted(current)), _scalar(key_field, random)))
    value = _clone(current[key]) if isinstance(current[key], Message) else current[key]
    if random.random() < 0.7:
        del current[key]
    if random.random() < 0.7:
        if isinstance(value, Message):
            current[new].CopyFrom(value)
        else:
            current[new] = value


def _change_list(current: Any, field: FieldDescriptor, everything: list[Message], random: Random) -> None:
    how = random.random()
    if len(current) and how < 0.3:
        del current[random.randrange(len(current))]
    elif len(current) > 1 and how < 0.5 and field.message_type is not None:
        one, two = random.sample(range(len(current)), 2)
        kept = _clone(current[one])
        current[one].CopyFrom(_clone(current[two]))
        current[two].CopyFrom(kept)
    elif field.message_type is not None:
        current.add().CopyFrom(_like(field, everything, random))
    elif len(current) and how < 0.8:
        current[random.randrange(len(current))] = _scalar(field, random)
    else:
        current.append(_scalar(field, random))


def _scalar(field: FieldDescriptor, random: Random) -> object:
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return random.choice(REALS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return random.choice(BYTES if field.type == FieldDescriptor.TYPE_BYTES else TEXTS)
    return random.choice(INTEGERS)


def _like(field: FieldDescriptor, everything: list[Message], random: Random) -> Message:
    """A copy of a message of the field's type from elsewhere, or an empty one."""
    found = [message for message in everything if message.DESCRIPTOR is field.message_type]
    return _clone(random.choice(found)) if found else field.message_type._concrete_class()


def _clone(message: Message) -> Message:
    # Not CopyFrom: a message copied into itself is an endless one.
    return type(message).FromString(message.SerializeToString())
