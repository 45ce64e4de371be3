"""Audit one network of each family of timm, torchvision and transformers; resumable.

    python -m benchmarks.audit_sweep                       the whole list, which takes hours
    python -m benchmarks.audit_sweep --only 'hf:.*bert'    what matches; --limit-minutes 30 stops in time
    python -m benchmarks.audit_sweep --summary             what the results say so far

Each target has a process of its own with a limit on time and memory; a process that dies is a row like another. Rows
are appended to the results as they come; targets that have one are passed over. Linux, from the root of the repository.
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import time
import warnings
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER
from benchmarks.sweep_summary import RESULTS, load, not_exact, summary

TARGETS = FOLDER / "audit-sweep-targets.txt"
SECONDS = 600
BYTES = 10 << 30
FORK = multiprocessing.get_context("fork")

Row = dict[str, Any]


def main() -> None:
    """Audit what has no row yet, or print what the rows say."""
    asked = _asked()
    if asked.summary:
        found = load(asked.results)
        print(f"{summary(found)}\n\n{not_exact(found.rows)}")
        return
    wanted = re.compile(asked.only)
    done = {row["target"] for row in load(asked.results).rows}
    names = asked.targets or TARGETS.read_text(encoding="utf-8").split()
    todo = [name for name in names if wanted.search(name) and name not in done]
    print(f"{len(todo)} targets to audit, {len(done)} have a row in {asked.results}")
    _prepare(asked.results)
    until = time.monotonic() + 60 * asked.limit_minutes
    for number, target in enumerate(todo, 1):
        if time.monotonic() > until:
            print(f"{asked.limit_minutes} minutes are over; {len(todo) - number + 1} targets are left")
            return
        row = audited(target, seconds=asked.seconds)
        _append(asked.results, row)
        print(f"[{number}/{len(todo)}] {_told(row)}", flush=True)


def audited(target: str, *, seconds: float = SECONDS) -> Row:
    """One row, whatever happens to the process that finds it."""
    began = time.monotonic()
    receiving, sending = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(target, sending), daemon=True)
    process.start()
    sending.close()
    row: Row = {"target": target}
    ended = False
    while not ended and (left := began + seconds - time.monotonic()) > 0:
        if receiving.poll(left):
            try:
                row |= receiving.recv()
            except EOFError:
                ended = True
    if not ended:
        process.kill()
    process.join()
    during = row.pop("during", "start")
    trouble = row.pop("broke", "")
    if not ended:
        trouble = f"no answer within {seconds:.0f} s"
    elif process.exitcode:
        trouble = f"the process died ({process.exitcode})"
    if trouble:
        _note(row, trouble, during)
    return {**row, "seconds": round(time.monotonic() - began, 1)}


def _note(row: Row, trouble: str, during: str) -> None:
    """A child that was stopped: before the audit was known, or afterwards."""
    if "outcome" not in row:
        row |= {"outcome": "failed", "reason": f"{trouble}, during {during}"}
    elif "state" not in row:
        row["state"] = {"audit": f"not compared: {trouble}"}


def _child(target: str, sending: Connection) -> None:
    """What runs in the process of a target."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    try:
        import_module("benchmarks.sweep_child").examine(target, sending.send)
    except Exception as error:  # noqa: BLE001 (a row tells it)
        sending.send({"broke": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    sending.close()


def _prepare(results: Path) -> None:
    """Import once what every child needs, and say in the results what they are measured on."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("timm", "torchvision", "transformers", "cleanpath.targets", "benchmarks.sweep_child"):
        import_module(name)
    said = import_module("benchmarks.machine").machine()
    libraries = ("timm", "torchvision", "transformers")
    versions = ", ".join(f"{name} {import_module(name).__version__}" for name in libraries)
    machine = f"{said}, {versions}, one thread"
    if load(results).machine != machine:
        _append(results, {"machine": machine})


def _append(results: Path, row: Row) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(row, ensure_ascii=False)}\n")


def _told(row: Row) -> str:
    state = "same" if set(row.get("state", {"": ""}).values()) == {"same"} else str(row.get("state", "not compared"))
    cost = f", audit / step {row['ratio']:.1f}" if row.get("ratio") else ""
    return (
        f"{row['target']}: {row['outcome']}, {row.get('units', 0)} units{cost}, state {state}, {row['seconds']:.0f} s"
        + (f" ({row['reason'][:150]})" if row.get("reason") else "")
    )


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="these and no others; otherwise the list")
    parser.add_argument("--only", default="", metavar="PATTERN", help="targets in which a regular expression is found")
    parser.add_argument("--limit-minutes", type=float, default=float("inf"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit for one target")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--summary", action="store_true", help="print what the results say, and audit nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
