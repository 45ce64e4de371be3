"""A page read strictly, and its colours: what is opened must be closed, and what is written must be legible."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import accumulate
from urllib.parse import unquote

VOID = {"meta", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: "Element | None" = None
    children: list["Element"] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def all(self, tag: str) -> Iterator["Element"]:
        for child in self.children:
            if child.tag == tag:
                yield child
            yield from child.all(tag)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())


class Reader(HTMLParser):
    """The tree of a page; fails where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = self.open = Element("", {})
        self.every: list[Element] = []
        self.feed(html)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(element)
        self.every.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        element: Element | None = self.open
        while element is not None:
            element.words.append(data)
            element = element.parent

    def at(self, key: str) -> Element:
        (found,) = (element for element in self.every if element.attributes.get("id") == key)
        return found

    @property
    def ids(self) -> list[str]:
        return [element.attributes["id"] for element in self.every if "id" in element.attributes]

    @property
    def links(self) -> list[str]:
        """Where the links lead, as a browser reads them."""
        every = [element.attributes["href"] for element in self.every if "href" in element.attributes]
        assert all(href.startswith("#") for href in every)
        return [unquote(href[1:]) for href in every]


def themes(html: str) -> tuple[dict[str, str], dict[str, str]]:
    """The colours by name, light and dark."""
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for media, block in re.findall(r"(@media [^{]*dark[^{]*\{\s*)?:root \{(.*?)\}", style[1], re.DOTALL):
        (dark if media else light).update(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    return light, {**light, **dark}


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def polyline(d: str) -> list[tuple[float, float]]:
    """The points of a drawn line, of which each stands as the way from the one before."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", d)]
    return list(zip(accumulate(numbers[::2]), accumulate(numbers[1::2]), strict=True))
