"""The verbs that look into a network: audit and explain; `--fix` mends what is found. Never imports torch by itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanpath import options
from cleanpath.errors import UserError
from cleanpath.options import AsJson, Form, Mode, Settings, Severity
from cleanpath.usage import this_command

if TYPE_CHECKING:
    from cleanpath.audited import Asked

ALL = "all"
"""What `--fix` without a code stands for."""
_CODE = re.compile(r"CP\d{3}|[a-z0-9]+(?:-[a-z0-9]+)+", re.IGNORECASE)


def spread(arguments: Sequence[str]) -> list[str]:
    """`--fix CP201 CP202` as `--fix CP201 --fix CP202`, and `--fix` alone as `--fix all`: for the parser of options.

    >>> spread(["audit", "resnet20", "--fix", "CP201", "CP202", "--unsafe"])
    ['audit', 'resnet20', '--fix', 'CP201', '--fix', 'CP202', '--unsafe']
    >>> spread(["audit", "--fix", "--out", "mended"])
    ['audit', '--fix', 'all', '--out', 'mended']
    """
    found, taking = list[str](), False
    for place, word in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if word == "--fix":
            found += [] if _is_code(following) else [word, ALL]
            taking = _is_code(following)
        elif taking and _is_code(word):
            found += ["--fix", word]
        else:
            found.append(word)
            taking = False
    return found


def _is_code(word: str) -> bool:
    """A code or the name of a rule; a target with a dash has no rule's name."""
    if word.upper().startswith("CP") and _CODE.fullmatch(word):
        return True
    from cleanpath.auditing.judging import every_rule

    return word == ALL or any(word == one.name for one in every_rule())


def audit(
    target: Annotated[
        str,
        typer.Argument(
            help="A network, a run folder, timm:NAME, torchvision:NAME, hf:NAME, file.py:factory, or a saved profile.",
            autocompletion=options.networks,
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="SHAPE", help="As in 1x3x224x224 or int64:1x128; may be repeated."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights: safetensors, or .pt with tensors only.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Put all modules in this mode; default: as the target comes.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the dropout masks: means and their spread.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The seed of made-up inputs and weights.")] = 0,
    settings: Settings = None,
    against: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Compare with another target or a saved profile.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="CODE[:UNIT]=WHY", help="Leave a finding out, with the reason; repeatable."),
    ] = None,
    fail_on: Annotated[
        Severity | None, typer.Option("--fail-on", help="Exit with 1 if a finding is this severe or worse.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the audit as one HTML page.")] = None,
    form: Annotated[
        Form, typer.Option("--format", help="text; md for a pull request; github annotates source lines.")
    ] = Form.text,
    every: Annotated[bool, typer.Option("--all", "-v", help="Every unit on a line of its own.")] = False,
    fixes: Annotated[
        list[str] | None,
        typer.Option("--fix", metavar="[CODE...]", help="Mend what is found, or these codes, in a copy: --out DIR."),
    ] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Allow fixes that keep the weights but change the function.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="Save the profile as JSON; with --fix the network.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the residual units of any network and measure the signal through them, both ways.

    Examples: cleanpath audit timm:resnet18 --html page.html; cleanpath audit resnet56 --fix --unsafe --out mended
    """
    from cleanpath import audited
    from cleanpath.report import audit_output

    asked = audited.Asked(inputs or [], weights, mode, draws, seed, tuple(ignore or ()), tuple(settings or ()))
    if fixes:
        if against is not None:
            raise UserError("--fix compares a network with itself, mended: leave --against out")
        codes = None if ALL in fixes else fixes
        _mend(target, asked, codes, _Wanted(unsafe=unsafe, out=out, html=html, fail_on=fail_on, as_json=as_json))
        return
    if unsafe:
        raise UserError("--unsafe says which fixes are allowed, and none is asked for: add --fix")
    audited.check(asked, out=out, page=html)
    here = audited.audited(target, asked)
    if out is not None:
        here.profile.save(out)
    there = None if against is None else audited.audited(against, asked.of_the_other())
    if html is not None:
        audited.write_page(html, here, there, command=this_command())
    data = here.data() if there is None else audited.comparison(here, there)
    sides = (here.side,) if there is None else (here.side, there.side)
    options.show(data, as_json, lambda: audit_output.show(sides, form=form, every=every))
    if html is not None:
        typer.echo(f"page: {html}", err=True)
    if fail_on is not None and here.judgement.at_least(fail_on):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Wanted:
    """What becomes of a fix."""

    unsafe: bool
    out: Path | None
    html: Path | None
    fail_on: Severity | None
    as_json: bool


def _mend(target: str, asked: "Asked", codes: Sequence[str] | None, wanted: _Wanted) -> None:
    """Mend, save, show; exit code 1 where nothing was mended."""
    from cleanpath import audited, mended

    audited.check(asked, out=None, page=wanted.html)
    found = mended.mended(target, asked, codes, unsafe=wanted.unsafe, out=wanted.out)
    if wanted.html is not None:
        audited.write_page(wanted.html, found.here, found.there, command=this_command())
    options.show(found.data(), wanted.as_json, lambda: mended.show(found))
    if wanted.html is not None:
        typer.echo(f"page: {wanted.html}", err=True)
    failing = wanted.fail_on is not None and found.there.judgement.at_least(wanted.fail_on)
    if failing or not found.fixed.changes:
        raise typer.Exit(1)


def explain(
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="A finding's code or name.", autocompletion=options.rules)
    ],
    as_json: AsJson = False,
) -> None:
    """Print what a finding means: what is measured, why it matters, with which evidence, what to do.

    Examples: cleanpath explain CP104; cleanpath explain closed-gate --json
    """
    from cleanpath.report import audit_output

    options.show(audit_output.explained(code), as_json, lambda: audit_output.print_explained(code))
