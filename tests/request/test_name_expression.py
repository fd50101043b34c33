"""Regular expressions over names, beside Python's own, which they are to agree with, and where that would not end."""

from __future__ import annotations

import random
import re
from itertools import product

import pytest

from mil_palettize.request.name_expression import NameExpression

NAMES = ["".join(letters) for length in range(5) for letters in product("ab_", repeat=length)]
WORDS = ["head_weight", "Head_Weight", "layers_10_attn_q_proj_weight_to_fp16", "a\nb", "ä", "main/up"]


def agrees(text: str, names: list[str]) -> None:
    wanted, made = re.compile(text), NameExpression(text)
    assert [name for name in names if made.fullmatch(name)] == [name for name in names if wanted.fullmatch(name)]


PIECES = [
    "a", "b", "ab", ".", "[ab]", "[^a]", r"\w", "(a|ab)", "(?:|b)", "^", "$", r"\b", "(?=a)", "(?!b)", "(?<=a)",
    "(?<!b)", "(?=.*b)", "(?!.*_)", r"\Z",
]  # fmt: skip
REPEATS = ["", "", "*", "+", "?", "*?", "{2}", "{1,2}", "{2,}", "{0,3}?"]


@pytest.mark.parametrize("seed", range(40))
def test_against_python(seed: int) -> None:
    """Of pieces that are repeated, in a group that is; of more Python itself would not end."""
    draw = random.Random(seed)

    def repeated(piece: str) -> str:
        return f"(?:{piece}){draw.choice(REPEATS)}"

    for _ in range(15):
        first, second, third = (repeated(draw.choice(PIECES)) for _ in range(3))
        agrees(draw.choice([f"{repeated(first + second)}{third}", f"{first}|{second}{third}"]), NAMES)


@pytest.mark.parametrize(
    "text",
    [
        r".*_(q|k|v)_proj_.*", r"(?i)head.*", r"(?i:HEAD)_Weight", r"layers_\d+_.*", r"layers_(1|10)_.*fp(16|32)",
        r"(?s)a.b", r"a.b", r"(?x) head _ weight # a remark", r"(?a)\w", r"\w", r"(?P<module>.*)_weight", r"[\w/]+up",
        r"(?!)|head.*", r"[^\W\d]+", r"head_(?-i:w)eight", "",
    ],
)  # fmt: skip
def test_flags_and_words(text: str) -> None:
    agrees(text, WORDS)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("(a|aa)+b", "a" * 500, False),
        ("(a+)+b", "a" * 500, False),
        ("(a|a)*b", "a" * 500 + "b", True),
        ("(a?){300}a{300}", "a" * 300, True),
        (".*.*.*.*.*.*.*.*x", "a" * 500, False),
        ("(?=(a+)+b)a", "a" * 200, False),
        ("(a{2,99999}){5,9999999}b", "a" * 500, False),
        ("(a*)*", "a" * 500, True),
    ],
)
def test_what_python_would_not_end_with(text: str, name: str, found: bool) -> None:
    assert NameExpression(text).fullmatch(name) == found


@pytest.mark.parametrize("text", [r"(a)\1", r"(?P<x>a)(?P=x)", r"(a)?(?(1)b|a)"])
def test_references_back_are_refused(text: str) -> None:
    with pytest.raises(re.error, match="references back to groups"):
        NameExpression(text)
