"""Which commit this package is, where it runs from a checkout; never imports torch."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

_SECONDS = 10


@cache
def commit(package: Path = Path(__file__).parent) -> str:
    """The commit of the checkout that holds the package, and whether its files differ from it.

    Empty where there is no checkout of it, as for an installed wheel, whose version says which code it is; a package
    that lies in somebody else's repository without being a part of it has no commit either.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return ""
    found = _git(package, "rev-parse", "HEAD")
    if found is None:
        return ""
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{found}{' with changes' if changed else ''}"


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None if there is no git, or it says no."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603 (ours)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
