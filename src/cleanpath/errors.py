"""What can go wrong, as exceptions that say what to do; each class knows the exit code of its verb.

    CleanpathError
    ├── UserError
    │   ├── SettingError
    │   ├── UnknownNameError
    │   ├── DataError
    │   └── RunError
    │       ├── HeldError
    │       └── KernelsError
    ├── NonFiniteError
    ├── RankLostError
    └── Stopped

A message says what was asked, what was found and what to do, in one or two lines.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

_CUTOFF = 0.6
"""From which likeness on a name may be meant."""
_LISTED = 20
"""So many names are listed where none is alike."""


class CleanpathError(Exception):
    """Whatever cleanpath raises on purpose."""

    exit_code = 3


class UserError(CleanpathError):
    """Something that the user can mend: an argument, a file, a setting."""

    exit_code = 2


class SettingError(UserError):
    """A setting that has no such value, or that does not go with another."""


class UnknownNameError(UserError):
    """A name that is not in the list it was looked up in; those like it are named, or all if they are few."""

    def __init__(self, what: str, name: str, known: Iterable[str], *, see: str | None = None) -> None:
        super().__init__(f"no {what} '{name}'; {_nearest(name, sorted(known), see)}")


class DataError(UserError):
    """Images that are missing, damaged, or not what they should be."""


class RunError(UserError):
    """A run folder that is not what it should be: another experiment's, damaged, or in use."""


class HeldError(RunError):
    """A run that another process writes, or is just opening."""


class KernelsError(RunError):
    """A run that was begun on kernels which this machine has not, and whose bits would be others."""


class NonFiniteError(CleanpathError):
    """A loss or a gradient norm that is not finite; training stopped before the optimizer step."""

    exit_code = 1

    def __init__(self, quantity: str, value: float, *, iteration: int, where: str, tested: bool = False) -> None:
        super().__init__(f"stopped before iteration {iteration}: {quantity} is {value}, first at {where}")
        self.quantity, self.value, self.iteration, self.where = quantity, value, iteration, where
        self.tested = tested
        """Whether it appeared in a test, on held-out images; else in training."""


SAVED = "what was saved is kept: torchrun's restart, or the same command again, goes on"
"""What every process of a shared run says in the end when another one is lost."""


class RankLostError(CleanpathError):
    """Another process of the run is gone or does not answer; what was saved is kept, and the same command goes on."""

    exit_code = 1


class Stopped(CleanpathError):  # noqa: N818 (a request, not an error)
    """A signal asked to stop; what is finished is kept, and the message tells how to go on."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@dataclass
class Request:
    """Whether somebody asked a run to stop, and with which signal; set from a signal's handler."""

    signal_number: int | None = None
    message: str = ""


def _nearest(name: str, known: list[str], see: str | None) -> str:
    if {*name.split(",")} <= {*known}:
        return f"write {name.replace(',', ' ')}, apart"
    containing = [other for other in known if name and name in other]
    if close := (containing or _alike(name, known))[:3]:
        answer = f"did you mean {' or '.join(close)}?"
    elif len(known) <= _LISTED:
        answer = f"choose one of {', '.join(known)}"
    else:
        answer = "" if see else f"none of the {len(known):,} there are is like it"
    listed = f"see `{see}`" if see else ""
    # A question ends by its own mark.
    return f"{answer} {listed}".strip() if answer.endswith("?") else "; ".join(filter(None, (answer, listed)))


def _alike(name: str, known: list[str]) -> list[str]:
    """The likeliest first; of dotted names the group and the rest are each alike, however long the group is."""
    scores = {}
    for other in known:
        pairs = zip(name.rpartition("."), other.rpartition("."), strict=True)
        scores[other] = min(difflib.SequenceMatcher(None, ours, theirs).ratio() for ours, theirs in pairs)
    return sorted((other for other in known if scores[other] >= _CUTOFF), key=lambda other: -scores[other])
