"""A page inside another, as notebooks show it."""

from __future__ import annotations

import html

_HEIGHT = 640  # pixels


def framed(page: str) -> str:
    """``page`` in a frame of its own, so that neither's style reaches the other."""
    return f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
