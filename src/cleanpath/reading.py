"""Reading many runs: each file once, and an index of what they said, so that a report of thousands reads one file.

runs-KEY.index   in the user's cache folder (`machine.cache_folder`), for each folder with many runs: a line with the
                 SHA-256 of the rest, then one line of JSON per run

A run's line holds what its files said and what those files were like: place on the disk, size, times. It is believed
only while the run's folder and every file are like that; whatever else is in the index, or becomes of it, the runs are
read. Measurements are kept as the curves that a report has of them.
"""

import contextlib
import hashlib
import json
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from cleanpath.errors import RunError
from cleanpath.machine import cache_folder
from cleanpath.records import METRICS, Run
from cleanpath.writing import write

_FORMAT = b"cleanpath.runs 1 "
_FROM = 200  # runs; fewer are read as fast
_STALE = 0.02  # share of runs that are not in an index as they are, from which on it is written anew
_NANOSECONDS_AT_REST = 5 * 10**9
"""Since a change: a file that changes twice within a tick of the file system's clock looks as after the first time."""
_DAYS_KEPT = 30

_ANY_BYTES = "utf-8", "surrogateescape"

Curve = tuple[tuple[int, float], ...]
Stamp = list[int]


class Curves(NamedTuple):
    """What a run measured, as (iteration, value), and whether it measured anything."""

    any: bool
    loss: Curve
    error: Curve


class ReadOnce(Run):
    """A run of which each file is read once, when it is first asked for: for who asks for many, and much of each."""

    def read(self, name: str) -> bytes | None:
        """As `Run.read`, of the moment when it was first asked for."""
        if name not in self._texts:
            self._texts[name] = super().read(name)
        return self._texts[name]

    def table(self, name: str) -> dict[str, Any] | None:
        """As `Run.table`."""
        if name not in self._tables:
            self._tables[name] = super().table(name)
        return self._tables[name]

    @cached_property
    def curves(self) -> Curves:
        """Its curves; raises `RunError` as `metrics`."""
        lines = self.metrics()
        loss, error = (
            tuple([(line["iteration"], line[key]) for line in lines if key in line]) for key in ("loss", "error")
        )
        return Curves(bool(lines), loss, error)

    @cached_property
    def _texts(self) -> dict[str, bytes | None]:
        return {}

    @cached_property
    def _tables(self) -> dict[str, dict[str, Any] | None]:
        return {}


class Noted(ReadOnce):
    """One for an index: it is noted what its files are like."""

    @classmethod
    def from_line(cls, folder: Path, line: bytes) -> "Noted | None":
        """As an index has it; None if its files are no longer like that, or the line is none of this format."""
        try:
            stamps, texts, (some, *curves) = json.loads(line)
            loss, error = (tuple(zip(*each, strict=True)) for each in (curves[:2], curves[2:]))
            run = cls(folder)
            run.stamps.update(stamps)
            if not run.is_as_it_was:
                return None
            run._texts.update(
                {name: None if text is None else text.encode(*_ANY_BYTES) for name, text in texts.items()}
            )
        except (ValueError, TypeError, AttributeError, OSError):
            return None
        run.__dict__.update(curves=Curves(some, loss, error), known=len(run._texts))
        return run

    def to_line(self) -> bytes | None:
        """What stands in an index; None if a file changed a moment ago, or there is no such run."""
        changed = [max(stamp[2:]) for stamp in self.stamps.values() if stamp is not None]
        if self.stamps.get("") is None or time.time_ns() - max(changed) < _NANOSECONDS_AT_REST:
            return None
        texts = {name: None if text is None else text.decode(*_ANY_BYTES) for name, text in self._texts.items()}
        try:
            some, loss, error = self.curves
        except RunError:  # damaged
            return None
        curves = [some, *([point[at] for point in curve] for curve in (loss, error) for at in (0, 1))]
        return json.dumps([self.stamps, texts, curves], separators=(",", ":")).encode()

    @cached_property
    def known(self) -> int:
        """How many of its files an index told of, those included that are not there."""
        return 0

    @property
    def is_new(self) -> bool:
        """Whether more was read of it than an index told."""
        return len(self._texts) > self.known

    @cached_property
    def stamps(self) -> dict[str, Stamp | None]:
        """Of its folder, under no name, None if there is none; and of each file that was read and is there."""
        return {}

    def read(self, name: str) -> bytes | None:
        """As `ReadOnce.read`."""
        if name in self._texts:
            return self._texts[name]
        # Before it is read: what changes meanwhile is not as it was noted, and read again.
        if not self.stamps:
            self.stamps[""] = _stamp(str(self.folder))
        if (stamp := _stamp(f"{self.folder}/{name}")) is not None:
            self.stamps[name] = stamp
        return Run.read(self, name) if name == METRICS else super().read(name)  # of which curves are kept

    @property
    def is_as_it_was(self) -> bool:
        """Whether nothing has changed since it was read."""
        return bool(self.stamps) and all(_stamp(f"{self.folder}/{name}") == at for name, at in self.stamps.items())


class Index:
    """The index of the runs directly below a folder; it goes unused where there is no cache folder."""

    def __init__(self, root: Path) -> None:
        cache, self._root = cache_folder(), root
        key = hashlib.sha256(os.path.realpath(root).encode(*_ANY_BYTES)).hexdigest()[:16]
        self._path = None if cache is None else cache / f"runs-{key}.index"
        self._news = 0

    def run(self, folder: Path) -> Noted:
        """A run, read as far as the index tells of it."""
        line = self._lines.get(_key(folder))
        return (None if line is None else Noted.from_line(folder, line)) or Noted(folder)

    def note(self, run: Noted) -> None:
        """Take note of what was read of a run."""
        if run.is_new and (line := run.to_line()) is not None:
            self._lines[_key(run.folder)] = line
            self._news += 1

    def save(self) -> None:
        """Write it, if it told too little and there are many runs; where it cannot be written, runs are read."""
        if self._path is None or len(self._lines) < _FROM or self._news < _STALE * len(self._lines):
            return
        there = {_key(path) for path in self._root.iterdir()}
        body = b"".join(key + b"\t" + line + b"\n" for key, line in self._lines.items() if key in there)
        with contextlib.suppress(OSError, RunError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write(self._path, _FORMAT + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            self._news = 0
            for other in self._path.parent.glob("runs-*.index"):
                if time.time() - other.stat().st_mtime > _DAYS_KEPT * 86400:
                    other.unlink(missing_ok=True)

    @cached_property
    def _lines(self) -> dict[bytes, bytes]:
        """The lines of the file by run; none if it is not as it was written."""
        try:
            head, _, body = (b"" if self._path is None else self._path.read_bytes()).partition(b"\n")
        except OSError:
            return {}
        if head != _FORMAT + hashlib.sha256(body).hexdigest().encode():
            return {}
        found = (line.partition(b"\t") for line in body.split(b"\n")[:-1])
        return {key: line for key, _, line in found}


def _key(folder: Path) -> bytes:
    return json.dumps(folder.name).encode()


def _stamp(path: str) -> Stamp | None:
    """What a file is like, or a folder; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (half the time, of tens of thousands)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
