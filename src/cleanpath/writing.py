"""Files that are whole or not there."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleanpath.errors import RunError

_TORN = re.compile(r"\.(?!lock\.).+\.\d+")
"""What `write` names a file before it is whole."""


def write(path: Path, data: bytes) -> None:
    """Replace a file whole and durably: a temporary file in the same folder, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_torn(folder: Path) -> None:
    """Remove what killed processes did not write to its end; not what `acquire` is making a lock of."""
    for path in folder.glob(".*"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def document(data: Mapping[str, Any]) -> bytes:
    """Plain data as a JSON document whose keys are in order."""
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
