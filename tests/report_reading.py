"""A page as text, tags and attributes."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a reader would see, and what a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        # A printed minus is a minus, whatever its sign; where a cell breaks is the page's business.
        self.text += data.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ")
