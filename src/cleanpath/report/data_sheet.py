"""A data set in words, and some of its images beside their augmentations as one picture. Never imports torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHOWN, _NAMED = 12, 3
_LEAST, _MARGIN, _LINE = 64, 6, 22
_INK, _PAPER, _FAINT = "#1a1a1a", "#ffffff", "#6b6b6b"
_WORDS = {
    "cut": "8 to 100% of the area at a ratio of 3/4 to 4/3, mirrored or not",
    "scale": "the shorter side at 256 to 480 for parts of 224, mirrored or not, colours moved (first paper)",
    "scale_aspect": "8 to 100% of the area, mirrored or not; light, contrast and colours moved (Table 5, last row)",
}


def show(found: Mapping[str, Any], *, every: bool) -> None:
    """What there is, how it is made ready, and what is wrong with it, each with what to do."""
    console = Console(highlight=False)
    counts = found["splits"]
    total = f"{counts['train']:,} images to train on and {counts['held_out']:,} held out"
    console.print(f"[bold]{escape(found['name'])}[/]: {total}, {len(found['classes'])} classes", soft_wrap=True)
    for name, looked in (found["looked_at"] or {}).items():
        console.print(f"looked at {looked:,} of {counts[name]:,} ({name}), evenly spaced; --all looks at every one")
    if found["sizes"]:
        sizes = {name: "×".join(map(str, size)) for name, size in found["sizes"].items()}
        same = sizes["smallest"] == sizes["largest"]
        said = sizes["median"] if same else f"{sizes['smallest']} to {sizes['largest']}, median {sizes['median']}"
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in found["kinds"].items())
        console.print(f"sizes {said}{f'; {kinds}' if kinds else ''}", soft_wrap=True)
    if found["mean"] is not None:
        console.print(
            f"training pixels from 0 to 1, per channel: mean {_row(found['mean'])}, std {_row(found['std'])}",
            soft_wrap=True,
        )
    _show_preparation(console, found["preparation"])
    _show_classes(console, found["classes"], every=every)
    _show_troubles(console, found["troubles"], every=every)


def _show_preparation(console: Console, made: Mapping[str, Any] | str) -> None:
    if isinstance(made, str):
        console.print(f"training refuses it: {escape(made)}", soft_wrap=True)
        return
    cut = f", {made['border']:.1%} of the shorter side cut off" if made["border"] else ""
    mean = made["mean"] if isinstance(made["mean"], str) else _row(made["mean"])
    divided = "" if made["std"] is None else f", divided by {_row(made['std'])}"
    side, colours = made["side"], made["channels"]
    console.print(f"made ready: {side}×{side}×{colours}{cut}, less the mean ({mean}){divided}", soft_wrap=True)
    console.print(f"augmentation: {_WORDS.get(made['augmentation'], made['augmentation'])}\n", soft_wrap=True)


def _show_classes(console: Console, classes: Sequence[Mapping[str, Any]], *, every: bool) -> None:
    rows = sorted(classes, key=lambda row: -row["train"])
    shown = rows if every or len(rows) <= _SHOWN else [*rows[: _SHOWN // 2], *rows[-_SHOWN // 2 :]]
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for head in ("train", "held out"):
        table.add_column(head, justify="right")
    for place, row in enumerate(shown):
        if len(shown) < len(rows) and place == _SHOWN // 2:
            table.add_row(f"… {len(rows) - len(shown)} more", "", "")
        table.add_row(escape(row["name"]), f"{row['train']:,}", f"{row['held_out']:,}")
    console.print(table)


def _show_troubles(console: Console, troubles: Sequence[Mapping[str, Any]], *, every: bool) -> None:
    console.print("\nnothing wrong was found" if not troubles else "")
    for one in troubles:
        named = one["examples"] if every else one["examples"][:_NAMED]
        more = f" and {one['count'] - len(named)} more" if one["count"] > len(named) else ""
        counted = f"{one['count']:,} {one['what']}" if one["what"] != "uneven classes" else one["what"]
        console.print(f"[bold]{counted}[/]: {escape(', '.join(named))}{more}", soft_wrap=True)
        console.print(f"      {escape(one['remedy'])}", soft_wrap=True)


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def draw(samples: Sequence[tuple[str, Sequence[Sequence[Any]]]], side: int, path: Path) -> None:
    """A block per class: a row per image, as it is tested and then as it is trained on in its first epochs."""
    scale = max(1, -(-_LEAST // side))
    cell = side * scale
    font = ImageFont.load_default(14)
    columns = max(len(row) for _, rows in samples for row in rows)
    wide = columns * (cell + _MARGIN) + 2 * _MARGIN
    blocks = max(1, min(len(samples), 1600 // wide))
    per_block = -(-len(samples) // blocks)
    high = max(len(rows) for _, rows in samples) * (cell + _MARGIN) + _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (blocks * wide + _MARGIN, per_block * high + _LINE + 2 * _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for block in range(blocks):
        left = block * wide + 2 * _MARGIN
        pen.text((left, _MARGIN), _fitting(pen, "as tested", cell, font), fill=_FAINT, font=font)
        over = _fitting(pen, "as trained on, epoch by epoch", (columns - 1) * (cell + _MARGIN) - _MARGIN, font)
        pen.text((left + cell + _MARGIN, _MARGIN), over, fill=_FAINT, font=font)
    for place, (label, rows) in enumerate(samples):
        left = (place // per_block) * wide + 2 * _MARGIN
        top = (place % per_block) * high + _LINE + _MARGIN
        pen.text((left, top), _fitting(pen, label, wide - 2 * _MARGIN, font), fill=_INK, font=font)
        for y, row in enumerate(rows):
            for x, pixels in enumerate(row):
                image = Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
                image = image.resize((cell, cell), Image.Resampling.NEAREST)
                sheet.paste(image, (left + x * (cell + _MARGIN), top + _LINE + y * (cell + _MARGIN)))
    sheet.save(path)


def _fitting(pen: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """The text, cut so that it stays within a width."""
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(f"{text}…", font=font) > width:
        text = text[:-1]
    return f"{text}…"
