"""How the command line speaks of itself: usage errors with the nearest right word, signals, its own command."""

import codecs
import difflib
import io
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from typer.exceptions import TyperException

from cleanpath import settings
from cleanpath.errors import Request, Stopped

_PLAIN = {"×": "x", "±": "+-", "√": "sqrt", "λ": "lambda", "→": "->", "‖": "||", "…": "...", "τ": "tau", "∞": "inf"}
_PLAIN |= dict(zip("−–—·│┌└█▁▂▃▄▅▆▇", "---.|/\\#1234567", strict=True))
_OPTION = re.compile(r"[Nn]o such option:? '?(--?[\w.-]+)")
_ALIKE, _BEGUN, _WORD = 0.8, 3, 4
"""From which likeness on an option may be meant; from how many letters on if it begins alike, or is a word of one."""


def reworded(error: TyperException) -> str:
    """A usage error in one or two lines; an option that there is not is answered with what may be meant."""
    message = error.format_message().strip().rstrip(".").replace("Value error, ", "")
    option, context = _OPTION.match(message), getattr(error, "ctx", None)
    if option and context:
        verb = "cleanpath" if context.parent is None else f"cleanpath {context.info_name}"
        options = [name for each in context.command.params for name in (*each.opts, "--help")]
        known = {name: name for name in options if name.startswith("--")}
        told = [f"`{verb} --help` names them"]
        if "--set" in known:
            told.append("`cleanpath list settings` what --set takes")
            # Seed and start are options of `train`; for `reproduce` they are no settings to change.
            keys = [key for key in settings.names() if "." in key]
            first = 0 if "." in option[1] else -1
            known |= {".".join(key.split(".")[first:]): f"--set {key}=…" for key in keys}
        meant = _meant(option[1], known)
        answer = f"did you mean {' or '.join(meant)}?" if meant else ", ".join(told)
        return f"no option {option[1]}; {answer}"
    return message[:1].lower() + message[1:]


def _meant(option: str, known: Mapping[str, str]) -> list[str]:
    """Of names with what is said of them, those that an option may stand for: alike, begun alike, or a word of it."""
    asked, scores = _letters(option), dict[str, float]()
    for name, said in known.items():
        letters = _letters(name)
        shorter = min(len(asked), len(letters))
        alike = difflib.SequenceMatcher(None, asked, letters).ratio()
        begun = shorter >= _BEGUN and asked[:shorter] == letters[:shorter]
        if alike >= _ALIKE or begun or (len(asked) >= _WORD and asked in name.split("_")):
            scores[said] = max(alike, scores.get(said, 0.0))
    best = sorted(scores, key=lambda said: -scores[said])
    return best[:1] if best and scores[best[0]] == 1 else best[:2]


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def this_command(without: str | None = None) -> str:
    """The command that is running, as it can be pasted."""
    return shlex.join(["cleanpath", *(word for word in sys.argv[1:] if word != without)])


@contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `Stopped`, once; a second Ctrl-C ends the process at once."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(f"stopped by {signal.Signals(number).name}; {how_to_go_on}", signal_number=number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests(how_to_go_on: str, *, torchrun: bool = False) -> Iterator[Request]:
    """Note Ctrl-C, SIGTERM or SIGUSR1 for whoever looks; a second one stops at once.

    Under `torchrun` it does not: a Ctrl-C comes from the terminal and as a SIGTERM from torchrun, which ends by force
    what has not ended after half a minute.
    """
    request = Request()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        message = f"stopped by {signal.Signals(number).name}; {how_to_go_on}"
        if request.signal_number is not None and torchrun:
            return
        if request.signal_number is not None:
            raise Stopped(message, signal_number=number)
        request.signal_number, request.message = number, message

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What stdout's encoding cannot say, in letters that every encoding has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def speak_any_encoding() -> None:
    """Print × as x and … as ... where stdout or stderr has no such letter, as in a container without a locale."""
    codecs.register_error("plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
