"""Drawings of the pages as files of their own: with the colours of the pages, light and dark."""

import re
from importlib import resources


def standalone(drawing: str) -> str:
    """An SVG of a page as a file."""
    templates = resources.files("cleanpath.report") / "templates"
    palette = re.match(r":root.*?\n}\n@media screen.*?\n}\n", (templates / "page.css").read_text(), re.DOTALL)
    assert palette, "page.css begins with its colours"
    style = f"{palette[0]}svg {{ background: var(--page); }}\n{(templates / 'drawing.css').read_text()}"
    return drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ').replace(
        "><title", f"><style>{style}</style><title", 1
    )
