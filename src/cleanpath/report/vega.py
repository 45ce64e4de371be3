"""What Vega draws, as SVG for a page: with a text alternative, as large as its box, and small.

A page of all tables has a hundred drawings with hundreds of points each: what no eye sees is left out of them.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Any

import vl_convert

FONT = "system-ui, sans-serif"
# A tenth of a pixel, of coordinates; other numbers, as how opaque a line is, to a hundredth.
_COORDINATES = ("d", "transform")
_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e[-+]?\d+)?")
_POLYLINE = re.compile(r'(?<= d=")M[\d.e,-]+(?:L[\d.e,-]+)+(?=")')


def to_svg(specification: Mapping[str, Any]) -> str:
    """A chart as SVG, by Vega."""
    return _to_svg(json.dumps(specification))


@lru_cache(maxsize=512)
def _to_svg(specification: str) -> str:
    """Kept, since a page that is written anew while runs go on has few charts that have changed."""
    return str(vl_convert.vegalite_to_svg(specification))


def named(svg: str, key: str, title: str, sentence: str) -> str:
    """The drawing with a text alternative, as large as its box, without what Vega leaves empty."""
    box = re.search(r'viewBox="([\d. -]+)"', svg)
    assert box is not None, "vl-convert writes a viewBox"
    return (
        f'<svg role="img" aria-labelledby="{key}-name {key}-text" viewBox="{box[1]}" font-family="{FONT}" '
        f'stroke-linejoin="round"><title id="{key}-name">{escape(title)}</title>'
        f'<desc id="{key}-text">{escape(sentence)}</desc>{_small(svg[svg.index(">") + 1 :])}'
    )


def _small(body: str) -> str:
    """The same drawing without groups of nothing and attributes that say what holds without them."""
    for empty in (
        r'<path class="(?:foreground|background)"[^>]*/>',
        r' (?:role|aria-\w+|pointer-events|class|font-family|stroke-linejoin|stroke-miterlimit)="[^"]*"',
        r' (?:opacity="1"|stroke-width="1"|stroke-dasharray=""|font-weight="normal"|text-anchor="start")',
        r' (?:transform="translate\(0,0\)"|[xy]2="0")',
    ):
        body = re.sub(empty, "", body)
    innermost = re.compile(r"<g>((?:(?!</?g[ >]).)*)</g>", re.DOTALL)
    plain = innermost.sub(r"\1", body)
    while plain != body:
        body, plain = plain, innermost.sub(r"\1", plain)
    body = _POLYLINE.sub(_polyline, body)
    return re.sub(r'([\w-]+)="([^"]*\d\.\d{2,}[^"]*)"', _rounded, body)


def _polyline(path: re.Match[str]) -> str:
    """Each point as the way from the one before, in fewer digits; rounded before that, so that no error adds up."""
    points = [tuple(round(10 * float(value)) for value in point.split(",")) for point in path[0][1:].split("L")]
    start, *ways = [points[0], *((x - u, y - v) for (u, v), (x, y) in pairwise(points))]
    return f"M{_tenths(start)}l{' '.join(map(_tenths, ways))}"


def _tenths(point: tuple[int, ...]) -> str:
    return ",".join(f"{value / 10:g}" for value in point)


def _rounded(attribute: re.Match[str]) -> str:
    digits = 1 if attribute[1] in _COORDINATES else 2

    def short(found: re.Match[str]) -> str:
        return f"{float(found[0]):.{digits}f}".rstrip("0").rstrip(".")

    return f'{attribute[1]}="{_NUMBER.sub(short, attribute[2])}"'
