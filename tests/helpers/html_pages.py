"""Pages as a browser takes them."""

from __future__ import annotations

from html.parser import HTMLParser


class Checked(HTMLParser):
    """Refuses a page that needs anything else, and tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str) -> None:
    """Raise AssertionError where it is no whole page that stands alone."""
    checked = Checked()
    checked.feed(text)
    checked.close()
    assert checked.open == []
