"""What the scripts recorded in results/, and tables in Markdown. Never imports torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "results"

Row = tuple[object, ...]


def read(name: str) -> dict[str, Any]:
    """A file, or nothing of one that is not there."""
    path = FOLDER / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def lines(name: str) -> list[dict[str, Any]]:
    """A file of a record on each line; none if it is not there."""
    path = FOLDER / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def on(record: Mapping[str, Any]) -> str:
    """The machine and the day of a record."""
    where = record.get("machine") or record["environment"]
    device = f"{where['device']}, " if "device" in where else ""
    processor = f"{where['processor']} ({where['instructions']}), {where['cores']} cores"
    return f"{device}{processor}, torch {where['torch'].partition('+')[0]}, Python {where['python']}, {record['date']}"


def numbered(places: Iterable[str]) -> tuple[list[str], str]:
    """Different places in the order in which they come, and a line that numbers them."""
    found = list(dict.fromkeys(places))
    return found, "; ".join(f"[{at}] {place}" for at, place in enumerate(found, start=1))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    """In Markdown; columns of `numbers` to the right."""
    right = {*numbers}
    marks = ["--:" if at in right else "---" for at in range(len(head))]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, marks, *rows))
