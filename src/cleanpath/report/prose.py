"""A rule's page, written as plain text with a few marks, as HTML: paragraphs, lists, code. Everything else is text."""

import re
from html import escape

from markupsafe import Markup

_ITEM = re.compile(r"^\s*[-*] +")


def prose(text: str) -> Markup:
    """Blank lines part paragraphs; lines with `- ` are a list; four spaces or a fence make a block of code."""
    blocks = (_block(block) for block in re.split(r"\n[ \t]*\n(?!    )", _fenced(text).strip("\n")))
    return Markup("".join(blocks))  # noqa: S704 (every word went through html.escape)


def _fenced(text: str) -> str:
    """Code between fences, indented instead."""

    def indented(match: re.Match[str]) -> str:
        return "\n\n" + "\n".join(f"    {line}" for line in match[1].splitlines()) + "\n\n"

    return re.sub(r"^```[^\n]*\n(.*?)^```[ \t]*$", indented, text, flags=re.DOTALL | re.MULTILINE)


def _block(block: str) -> str:
    lines = block.strip("\n").splitlines()
    if all(line.startswith("    ") or not line.strip() for line in lines):
        code = "\n".join(line[4:] for line in lines)
        return f"<pre><code>{escape(code)}</code></pre>" if code.strip() else ""
    starts = [at for at, line in enumerate(lines) if _ITEM.match(line)]
    if not starts:
        return f"<p>{_inline(' '.join(map(str.strip, lines)))}</p>"
    before = f"<p>{_inline(' '.join(map(str.strip, lines[: starts[0]])))}</p>" if starts[0] else ""
    ends = [*starts[1:], len(lines)]
    whole = (" ".join(line.strip() for line in lines[a:b]) for a, b in zip(starts, ends, strict=True))
    items = "".join(f"<li>{_inline(_ITEM.sub('', item))}</li>" for item in whole)
    return f"{before}<ul>{items}</ul>"


def _inline(text: str) -> str:
    """Backticks are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{escape(part)}</code>" if at % 2 else escape(part) for at, part in enumerate(parts))
