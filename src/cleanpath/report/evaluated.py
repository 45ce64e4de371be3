"""An evaluation and predictions on the terminal, and the confusion matrix as a picture. Never imports torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cleanpath.errors import UserError

_SHOWN = 10
_TOP5_FROM = 20
"""Classes; among few of them the five likeliest say little."""


def show(found: Mapping[str, Any]) -> None:
    """The error first, then the worst classes and what they are taken for."""
    console = Console(highlight=False)
    low, high = found["interval"]
    console.print(
        f"{escape(found['run'])} on {escape(found['data'])}: error {found['error']:.2f}% "
        f"(95% interval {low:.2f} to {high:.2f}), {found['images']:,} images",
        soft_wrap=True,
    )
    five = f"top-5 error {found['top5_error']:.2f}%, " if len(found["classes"]) >= _TOP5_FROM else ""
    seen = f"; seen as {found['view']} at {found['pixels']} pixels" if found["view"] != "middle" else ""
    console.print(f"{five}loss {found['loss']:.4f}, calibration error {found['calibration_error']:.3f}{seen}\n")
    table = Table(box=None, pad_edge=False)
    for head in ("class", "images", "error", "most often taken for"):
        table.add_column(head, justify="right" if head in {"images", "error"} else "left")
    rows = [(e, at) for at, e in enumerate(found["class_errors"]) if e is not None]
    for error, at in sorted(rows, reverse=True)[:_SHOWN]:
        row = found["confusion"][at]
        other = max((n, to) for to, n in enumerate(row) if to != at)
        said = f"{found['classes'][other[1]]} ({other[0]})" if other[0] else "–"
        table.add_row(escape(found["classes"][at]), str(sum(row)), f"{error:.1f}%", escape(said))
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"{len(rows) - _SHOWN} better classes are not shown; --json has all")


def show_predictions(found: Sequence[Mapping[str, Any]]) -> None:
    """One line per file."""
    console = Console(highlight=False)
    for one in found:
        said = one.get("broken") or "  ".join(f"{c['name']} {c['probability']:.1%}" for c in one["classes"])
        console.print(f"{escape(one['file'])}: {escape(said)}", soft_wrap=True)


def check_picture(path: Path) -> None:
    """Refuse a file that cannot become a picture, before any work."""
    if path.suffix not in {".svg", ".png"}:
        raise UserError(f"{path} is neither .svg nor .png")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder")


def draw(found: Mapping[str, Any], path: Path) -> None:
    """The confusion matrix: a row per class, its shares by colour."""
    import altair as alt
    import vl_convert

    classes, rows = found["classes"], found["confusion"]
    values = [
        {"class": classes[at], "taken for": classes[to], "share": n / max(1, sum(row)), "images": n}
        for at, row in enumerate(rows)
        for to, n in enumerate(row)
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("taken for:N", sort=classes), y=alt.Y("class:N", sort=classes)
    )
    boxes = base.mark_rect().encode(color=alt.Color("share:Q", scale=alt.Scale(scheme="blues", domain=[0, 1])))
    chart = boxes
    if len(classes) <= 20:
        white = alt.condition("datum.share > 0.5", alt.value("white"), alt.value("black"))
        chart = boxes + base.mark_text(fontSize=10).encode(text="images:Q", color=white)
    title = f"{found['run']} on {found['data']}: error {found['error']:.2f}%"
    side = max(200, min(900, 34 * len(classes)))
    spec = chart.properties(title=title, width=side, height=side).to_json()
    if path.suffix == ".svg":
        path.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
    else:
        path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
