"""How the command line speaks of itself: usage errors with the nearest right word, signals, its own command."""

import codecs
import difflib
import io
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from typer.exceptions import TyperException

from cleanpath import settings
from cleanpath.errors import Request, Stopped

_PLAIN = {"×": "x", "±": "+-", "√": "sqrt", "λ": "lambda", "→": "->", "‖": "||", "…": "...", "τ": "tau", "∞": "inf"}
_PLAIN |= dict(zip("−–—·│┌└█▁▂▃▄▅▆▇", "---.|/\\#1234567", strict=True))
_OPTION = re.compile(r"[Nn]o such option:? '?(--?[\w-]+)")


def reworded(error: TyperException) -> str:
    """A usage error in one or two lines; an option that is a setting's name is answered with `--set`."""
    message = error.format_message().strip().rstrip(".")
    option = _OPTION.match(message)
    if option and (possible := getattr(error, "possibilities", None)):
        return f"no option {option[1]}; did you mean {' or '.join(possible)}?"
    if option:
        name = option[1].strip("-").replace("-", "_")
        last_words = {key.rpartition(".")[2]: key for key in settings.names()}
        close = difflib.get_close_matches(name, last_words, n=1)
        if close:
            return f"no option {option[1]}; did you mean --set {last_words[close[0]]}=…?"
    return message[:1].lower() + message[1:]


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
