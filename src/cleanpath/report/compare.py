"""Runs side by side: the settings in which they differ, where they ran otherwise, and what they came to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanpath import settings
from cleanpath.records import Run, numeric

_RESULTS = ("status", "error", "test_loss", "train_error", "train_loss", "iterations", "seconds")


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """The schema of `cleanpath compare --json`. Raises `RunError` for a folder that is not a run."""
    runs = [Run(folder) for folder in folders]
    experiments = [run.experiment for run in runs]
    changed = sorted({key for other in experiments for key in settings.differences(experiments[0], other)})
    flat = [settings.flat(experiment) for experiment in experiments]
    environments = [numeric(run.environment) for run in runs]
    known = dict.fromkeys(key for each in environments for key in each)
    otherwise = [key for key in known if any(each.get(key) != environments[0].get(key) for each in environments)]
    results = [{"status": run.status, **(run.result or {})} for run in runs]
    return {
        "schema": "cleanpath.comparison",
        "version": 1,
        "runs": [run.name for run in runs],
        "settings": {key: [values.get(key) for values in flat] for key in changed},
        "environment": {key: [each.get(key) for each in environments] for key in otherwise},
        "results": {key: [result.get(key) for result in results] for key in _RESULTS},
    }
