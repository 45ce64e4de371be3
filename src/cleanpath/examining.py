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
_CODE = re.compile(r"CP\w*", re.IGNORECASE)
_FLAGS = {"--fix", "--unsafe", "--all", "-v", "--json", "--help"}
"""The options of `audit` that take no value of their own; what follows `--fix` is looked at here."""


def spread(arguments: Sequence[str]) -> list[str]:
    """`--fix CP201 CP202` as `--fix CP201 --fix CP202`, and `--fix` alone as `--fix all`: for the parser of options.

    >>> spread(["audit", "resnet20", "--fix", "CP201", "CP202", "--unsafe"])
    ['audit', 'resnet20', '--fix', 'CP201', '--fix', 'CP202', '--unsafe']
    >>> spread(["audit", "--fix", "--out", "mended"])
    ['audit', '--fix', 'all', '--out', 'mended']
    >>> spread(["audit", "--fix", "CP201", "resnet20"])
    ['audit', '--fix', 'CP201', 'resnet20']
    """
    asked, loose = _runs(arguments)
    if not loose:  # the target is one of the words behind --fix: the last that is no code
        others = [at for run in asked.values() for at in run if not _is_code(arguments[at])]
        for run in asked.values():
            run[:] = [at for at in run if at not in others[-1:]]
    codes = {at for run in asked.values() for at in run}
    found = list[str]()
    for at, word in enumerate(arguments):
        if at in asked:
            found += [] if asked[at] else [word, ALL]
        else:
            found += ["--fix", word] if at in codes else [word]
    return found


def _runs(arguments: Sequence[str]) -> tuple[dict[int, list[int]], list[int]]:
    """The places of the words that follow each `--fix`, and those of the targets that stand elsewhere."""
    asked, loose, run, valued = dict[int, list[int]](), list[int](), None, False
    for at, word in enumerate(arguments[1:], start=1):
        if valued:
            valued = False
        elif word.startswith("-") and len(word) > 1:
            run = asked.setdefault(at, []) if word == "--fix" else None
            valued = word not in _FLAGS and "=" not in word
        elif run is not None:
            run.append(at)
        else:
            loose.append(at)
    return asked, loose


def _is_code(word: str) -> bool:
    """What can only be a code or the name of a rule, though perhaps a misspelt one; a target looks otherwise."""
    if _CODE.fullmatch(word):
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
        if form is not Form.text:
            raise UserError(f"--format {form.value} is for audits, and --fix tells its own report: leave it out")
        if draws != 1:
            raise UserError("--draws is for audits: --fix measures one draw before and after; leave it out")
        codes = None if ALL in fixes else fixes
        wanted = _Wanted(unsafe=unsafe, out=out, html=html, fail_on=fail_on, every=every, as_json=as_json)
        _mend(target, asked, codes, wanted)
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
    every: bool
    as_json: bool


def _mend(target: str, asked: "Asked", codes: Sequence[str] | None, wanted: _Wanted) -> None:
    """Mend, save, show; exit code 1 where nothing was mended."""
    from cleanpath import audited, mended

    audited.check(asked, out=None, page=wanted.html)
    found = mended.mended(target, asked, codes, unsafe=wanted.unsafe, out=wanted.out)
    if wanted.html is not None:
        audited.write_page(wanted.html, found.here, found.there, command=this_command())
    options.show(found.data(), wanted.as_json, lambda: mended.show(found, every=wanted.every))
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
