"""How fast this machine is, measured once and kept: for a second of measuring torch has to start, which takes longer.

speed.json   two probes by machine and versions; in the user's cache folder (`machine.cache_folder`)
"""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cleanpath
from cleanpath.errors import RunError
from cleanpath.estimate import Probe, Speed, speed_of
from cleanpath.grid import local
from cleanpath.machine import cache_folder, processor
from cleanpath.writing import write


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The speed of one core, on which day it was measured, and where that is kept; None if it is not."""

    speed: Speed
    on: str
    kept: Path | None

    def in_words(self) -> str:
        """One line."""
        where = f", kept in {self.kept}: remove that to measure anew" if self.kept is not None else " and not kept"
        return f"speed of this machine: measured on {self.on}{where}"


def measured() -> Measured:
    """The speed as it was kept, else measured now; then kept, unless the machine is too busy to tell."""
    folder, key = cache_folder(), _key()
    path = None if folder is None else folder / "speed.json"
    every = {} if path is None else _read(path)
    if key in every:
        return every[key]
    busy = path is None or _busy()
    small, large = local.probe()
    found = Measured(speed=speed_of(small, large), on=time.strftime("%Y-%m-%d"), kept=None if busy else path)
    if found.kept is None or path is None:
        return found
    probes = {"small": asdict(small), "large": asdict(large), "on": found.on}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps({**_raw(path), key: probes}, indent=1).encode())
    except (OSError, RunError):
        return Measured(speed=found.speed, on=found.on, kept=None)
    return found


def _key() -> str:
    versions = f"torch {metadata.version('torch')}, cleanpath {cleanpath.__version__}"
    return f"{platform.node()}: {local.cores()} cores of {processor()}, {versions}"


def _busy() -> bool:
    """Whether others have all cores, so that a probe would tell of them."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] >= local.cores()


def _read(path: Path) -> dict[str, Measured]:
    """What is kept; nothing where that cannot be read."""
    found = {}
    for key, one in _raw(path).items():
        try:
            small, large = Probe(**one["small"]), Probe(**one["large"])
            found[key] = Measured(speed=speed_of(small, large), on=str(one["on"]), kept=path)
        except (KeyError, TypeError, ZeroDivisionError):
            continue
    return found


def _raw(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
