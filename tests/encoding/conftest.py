"""What tests of encoding share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kept_palettes import Counts

from mil_palettize.encoding import encoder as encode


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counted = Counts(make_palette=0, describe=0)

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(encode, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            counted[name] += 1
            return original(*arguments, **keywords)

        return call

    for name in counted:
        monkeypatch.setattr(encode, name, counting(name))
    return counted
