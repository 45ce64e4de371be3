"""How often each rule fires: over healthy networks of public libraries, and over the rows of Tables 1 and 2.

    python -m benchmarks.finding_rates sweep --limit-minutes 40   audit targets that have no profile yet; resumable
    python -m benchmarks.finding_rates tables                      audit the rows of both tables at their full depth
    python -m benchmarks.finding_rates judge                       judge all profiles: results/finding-rates.jsonl

Profiles are kept below runs/, outside the repository, so that rules can change without an audit anew.
"""

import argparse
import json
import multiprocessing
import os
import re
import time
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER

RESULTS = FOLDER / "finding-rates.jsonl"
TARGETS = FOLDER / "audit-sweep-targets.txt"
PROFILES = Path("runs/profiles")
SECONDS = 40
DEPTHS = {"ResNet-110": "resnet110", "ResNet-164": "resnet164"}
FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Audit what has no profile, or judge what has one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sweep", "tables", "judge"))
    parser.add_argument("--limit-minutes", type=float, default=float("inf"))
    asked = parser.parse_args()
    if asked.what == "judge":
        found = [row for name in [*table_rows(), *mixed()] if (row := judged(name))]
        RESULTS.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in found), encoding="utf-8")
        print(f"{len(found)} profiles were judged")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import_module("torch").set_num_threads(1)
    PROFILES.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * asked.limit_minutes
    for name in mixed() if asked.what == "sweep" else table_rows():
        if time.monotonic() > until:
            break
        if not profile_file(name).exists():
            with FORK.Pool(1) as pool:
                print(name, _waited(pool.apply_async(audited, (name,))), flush=True)


def _waited(pending: Any) -> str:
    try:
        said: str = pending.get(SECONDS)
    except multiprocessing.TimeoutError:
        return f"no answer within {SECONDS} s"
    return said


def profile_file(name: str) -> Path:
    """Where a target's profile is kept."""
    return PROFILES / (re.sub(r"[^\w.-]", "_", name) + ".json")


def judged(name: str) -> dict[str, Any] | None:
    """The findings of one target by today's rules; None if it has no profile or no units."""
    from cleanpath import Profile

    if not profile_file(name).exists():
        return None
    profile = Profile.load(profile_file(name))
    if not profile.units:
        return None
    profile = replace(profile, network=replace(profile.network, fresh=True))
    found = [[one.code, one.severity, len(one.units), one.measured] for one in profile.findings]
    return {"target": name, "units": len(profile.units), "findings": found}


def audited(name: str) -> str:
    """Save a profile; a failure is told and not saved."""
    import torch

    from cleanpath import audit, build
    from cleanpath.paper.tables import RECIPES
    from cleanpath.targets import resolve

    try:
        if name.startswith("table"):
            table, row, column = name.split("/")
            choice = RECIPES[table].row(row).choice
            torch.manual_seed(0)
            module = build(DEPTHS[column], **choice)
            profile = audit(module, torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        else:
            found = resolve(name)
            profile = audit(found.module, found.keywords or found.arguments)
    except Exception as error:  # noqa: BLE001 (foreign code)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    profile.save(profile_file(name))
    return "audited"


def mixed() -> list[str]:
    """The libraries in turn, so that a part of the list is a fair sample."""
    names = TARGETS.read_text(encoding="utf-8").split()
    groups = [[n for n in names if n.startswith(f"{library}:")] for library in ("timm", "torchvision", "hf")]
    longest = max(map(len, groups))
    spread = [(index * longest / len(group), name) for group in groups for index, name in enumerate(group)]
    return [name for _, name in sorted(spread)]


def table_rows() -> list[str]:
    """Every cell of both tables."""
    from cleanpath.paper.tables import RECIPES

    return [f"{name}/{row.key}/{column.key}" for name in ("table1", "table2") for row, column in RECIPES[name].cells()]


if __name__ == "__main__":
    main()
