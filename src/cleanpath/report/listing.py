"""What there is: networks, data sets, runs, settings and rules, as rows; without torch. Tables: `inventory`."""

import inspect
import time
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cleanpath import meanings
from cleanpath.auditing.judging import every_rule
from cleanpath.nn import catalog
from cleanpath.paper import recipes
from cleanpath.records import runs_below

Row = dict[str, Any]
LEGENDS = {
    "tables": (
        "runs finished of all, and about how long the rest trains here: an estimate, without the start of processes "
        "and what is measured behind; at scale paper in GPU-hours of the paper's time; of cells what the paper prints, "
        "and runs finished of all; `cleanpath show TABLE` tells of a table"
    ),
    "settings": (
        "defaults are those of a .toml file that leaves a setting out (–: it must not); `cleanpath train NAME` has "
        "its network's, its data's and its recipe's: `--dry-run` prints them all"
    ),
}
"""What is to be known of a list, by what it lists."""
_CIFAR = "cs.toronto.edu/~kriz/cifar.html; from the folder in CLEANPATH_DATA (default: data), else fetched"
_DATA = (
    ("digits", "1,797 of 8×8 pixels, 10 classes", "with scikit-learn"),
    ("cifar10", "60,000 of 32×32 pixels, 10 classes", _CIFAR),
    ("cifar100", "60,000 of 32×32 pixels, 100 classes", _CIFAR),
    ("imagenet:PATH", "ILSVRC's, 224×224 pixels", "PATH/train/CLASS/… and PATH/val/CLASS/…"),
    ("folder:PATH", "your own, of any size and mode", "PATH/train/CLASS/… with PATH/val or PATH/test, or PATH/CLASS/…"),
)


def rows(what: str, pattern: str, runs: Path) -> list[Row]:
    """The rows of one kind whose name matches a pattern with * and ?."""
    kinds: dict[str, Callable[[], list[Row]]] = {
        "networks": lambda: [_network(name) for name in catalog.names()],
        "data": lambda: [{"name": name, "images": images, "source": source} for name, images, source in _DATA],
        "recipes": lambda: [{"name": name, "what": _first_sentence(make)} for name, make in recipes.RECIPES.items()],
        "runs": lambda: [_run(run) for run in runs_below(runs)],
        "settings": meanings.rows,
        "rules": lambda: [{"name": one.code, "finding": one.name, "title": one.title} for one in every_rule()],
    }
    return [row for row in kinds[what]() if fnmatchcase(row["name"], pattern)]


def recipe_data(name: str) -> dict[str, Any]:
    """A recipe's docstring and settings."""
    made = recipes.RECIPES[name]
    lines = inspect.cleandoc(made.__doc__ or "")
    return {"schema": "cleanpath.recipe", "version": 1, "name": name, "what": lines, "training": asdict(made())}


def _first_sentence(described: Callable[..., Any]) -> str:
    return (described.__doc__ or "").partition("\n")[0]


def _network(name: str) -> Row:
    network = catalog.network(name)
    return {
        "name": name,
        "images": network.layout,
        "units": sum(catalog.units_per_stage(network)),
        "branch": network.branch,
        "placement": network.placement,
        "shortcut": network.shortcut.kind,
        "widening": network.widening,
    }


def _run(run: Any) -> Row:
    status = run.status
    result = (run.result or {}) if status != "damaged" else {}
    age = time.time() - (run.folder / "experiment.json").stat().st_mtime
    return {
        "name": run.name,
        "status": status,
        "error": result.get("error"),
        "iterations": result.get("iterations"),
        "seconds": result.get("seconds"),
        "minutes_ago": max(0, round(age / 60)),
    }
