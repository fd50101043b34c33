"""``docs/operators.md`` says what the evaluator knows."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tools import list_operators


def test_the_list_of_operators_is_up_to_date() -> None:
    assert list_operators.PATH.read_text(encoding="utf-8") == list_operators.document(), "run tools/list_operators.py"
