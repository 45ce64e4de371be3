"""What `audit` and `explain` print. Never imports torch."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from cleanpath.auditing import text
from cleanpath.auditing.judging import page_of
from cleanpath.report import terminal
from cleanpath.report.annotations import github, markdown
from cleanpath.report.audit_page import Side


def show(sides: Sequence[Side], *, form: str, every: bool) -> None:
    """One audit, or two side by side, in the form that was asked for."""
    if form == "github":
        print(*(github(one.profile, one.judgement) for one in sides), sep="\n")
    elif form == "md":
        print(*(markdown(one.name, one.profile, one.judgement) for one in sides), sep="\n\n")
    elif len(sides) == 1:
        one = sides[0]
        terminal.print_text(text.renderable(one.profile, one.name, one.note, every=every, judgement=one.judgement))
    else:
        here, there = sides
        names = (here.name, there.name)
        terminal.print_text(text.renderable_pair(here.profile, there.profile, names, every=every))


def explained(code: str) -> dict[str, Any]:
    """A rule's page as data."""
    one = page_of(code)
    return {
        "schema": "cleanpath.rule",
        "version": 1,
        "code": one.code,
        "name": one.name,
        "title": one.title,
        "sections": dict(one.sections),
    }


def print_explained(code: str) -> None:
    """A rule's page for a terminal."""
    one = page_of(code)
    parts = "\n\n".join(f"[bold]{heading}[/]\n  {escape(said)}" for heading, said in one.sections.items())
    terminal.print_text(f"[bold]{one.code} {one.name}[/]: {escape(one.title)}\n\n{parts}")
