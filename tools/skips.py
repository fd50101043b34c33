"""Counts the tests that are skipped where something is missing, by what that is: the table in CONTRIBUTING.md.

``python -m tools.skips`` collects all tests, and runs none; with torch installed, else its own are not seen.
"""

from __future__ import annotations

import io
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import pytest

_NEEDED = 'pytest.importorskip("torch"'


class Kinds:
    """Counts tests as pytest collects them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self.counts.update(["(all of them)", *_kinds(item)])


def _kinds(item: pytest.Item) -> list[str]:
    fixtures = getattr(item, "fixturenames", ())
    whole_file = Path(item.path).read_text(encoding="utf-8").partition("\ndef ")[0]
    found = {
        "torch": _NEEDED in whole_file,
        "a Mac": item.get_closest_marker("macos") is not None,
        "the packages at MIL_PALETTIZE_MODELS": "shared_models" in fixtures,
        "Chromium": "laid_out" in fixtures,
    }
    return [kind for kind, skipped in found.items() if skipped]


def main() -> None:
    kinds = Kinds()
    with redirect_stdout(io.StringIO()):  # the list of all files
        code = pytest.main(["--collect-only"], plugins=[kinds])
    if code:
        raise SystemExit("the tests cannot be collected: python -m pytest --collect-only says why")
    for kind, count in kinds.counts.most_common():
        print(f"| {kind} | {count:,} |")


if __name__ == "__main__":
    main()
