"""``docs/ARCHITECTURE.md`` is true: its picture follows from its table, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_rooms import PACKAGE, ROOMS, TABLE

ROOT = TABLE.parent.parent
TEXT = TABLE.read_text(encoding="utf-8")


def reached(room: str) -> set[str]:
    """All rooms that a way along allowed imports leads to."""
    return ROOMS[room].union(*(reached(below) for below in ROOMS[room]))


def drawn(room: str) -> list[str]:
    """Allowed neighbours that no longer way leads to, in the order of the table."""
    around = set[str]().union(*(reached(below) for below in ROOMS[room]))
    return [below for below in ROOMS if below in ROOMS[room] - around]


def test_the_picture_is_drawn_from_the_table() -> None:
    expected = [f"    {room} --> {below}" for room in reversed(ROOMS) for below in drawn(room)]
    picture = re.search(r"```mermaid\ngraph TD\n(.*?)```", TEXT, re.S)
    assert picture is not None
    assert picture[1].splitlines() == expected, "the picture should read:\n" + "\n".join(expected)
    assert {word for line in expected for word in re.findall(r"\w+", line)} == {*ROOMS}


def place(path: str) -> Path:
    """A path of the document: in the package, or else in the project."""
    return PACKAGE / path if (PACKAGE / path).exists() else ROOT / path


# Folders of the table of rooms are named without the room.
PATHS = sorted(set(re.findall(r"`([\w./]+(?:\.py|\.md|/))`", TEXT.partition("## Picture")[2])))


@pytest.mark.parametrize("path", PATHS)
def test_named_files_are_there(path: str) -> None:
    assert place(path).exists()


def hops() -> list[tuple[str, list[str]]]:
    """(file, names of types) of each row of the way of a weight."""
    section = TEXT.partition("## One way for a weight")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return [(file.strip("`"), re.findall(r"`(\w+)`", f"{before} {after}")) for _, file, before, after in rows]


@pytest.mark.parametrize(("file", "types"), hops())
def test_hops_are_where_they_are_said_to_be(file: str, types: list[str]) -> None:
    source = (PACKAGE / file).read_text(encoding="utf-8")
    assert [name for name in types if not re.search(rf"\b{name}\b", source)] == []


def test_a_weight_has_a_way() -> None:
    assert len(hops()) > 10


def test_every_room_has_its_tests() -> None:
    """``errors`` and ``text`` are single files, whose sentences the other rooms' tests read."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    rooms = {"evaluator" if room == "torch" else room for room in ROOMS if (PACKAGE / room).is_dir()}
    assert rooms - folders <= {"expressions"}
