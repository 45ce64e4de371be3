"""What a forecast measures of the runs whose ends are recorded in results/quick.json, before their first step.

    python -m benchmarks.forecast_recorded                  measure what results/forecast-recorded.jsonl lacks
    python -m benchmarks.forecast_recorded --seeds 3        of the first three seeds of every cell (the default)

Their networks are built again from their seeds, and measured as `cleanpath forecast` does it; nothing is trained. A
run's name holds its digest: one that would be another run today is left out. Seeds come first, so that a beginning of
the file has every cell. About ten minutes of one core.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cleanpath.auditing.profile import plain
from cleanpath.errors import CleanpathError
from cleanpath.experiment import Experiment, Foreign, Network, Shortcut
from cleanpath.forecasted import measured_of
from cleanpath.naming import default_name
from cleanpath.paper.scales import QUICK
from cleanpath.paper.tables import RECIPES, experiments

RESULTS = Path(__file__).resolve().parent.parent / "results"
ENDS, MEASURED = RESULTS / "quick.json", RESULTS / "forecast-recorded.jsonl"


def ends() -> dict[str, dict[str, Any]]:
    """What became of every recorded run, by its name."""
    found: dict[str, dict[str, Any]] = {}
    for table in json.loads(ENDS.read_text(encoding="utf-8"))["tables"]:
        for row in table["rows"]:
            for one in row.get("seeds", ()):
                if one["status"] in ("finished", "diverged"):
                    end = {"table": table["name"], "row": row["row"], "column": row["column"], "seed": one["seed"]}
                    found.setdefault(one["run"], {**end, "error": one["train_error"], "status": one["status"]})
    return found


def variant_of(network: Network | Foreign) -> str:
    """Placement and shortcut in words, whatever the depth and the layers of F."""
    if isinstance(network, Foreign):
        return network.target
    shortcut = [
        f"{name} {value}" for name, value in asdict(network.shortcut).items() if value != getattr(Shortcut(), name)
    ]
    return ", ".join(
        [network.placement, *shortcut, *([] if network.normalisation == "batch" else [network.normalisation])]
    )


def runs(seeds: int) -> Iterator[tuple[str, dict[str, Any], Experiment]]:
    """The recorded runs of so many seeds with their experiments, seed after seed."""
    recorded, given = ends(), set[str]()
    for seed in range(seeds):
        for recipe in RECIPES.values():
            for experiment in experiments(recipe, QUICK, seeds=[seed]).values():
                name = default_name(experiment, threads=1)
                if name in recorded and name not in given:
                    given.add(name)
                    yield name, recorded[name], experiment


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = MEASURED.read_text(encoding="utf-8").splitlines() if MEASURED.exists() else []
    done = {json.loads(line)["run"] for line in lines}
    for name, end, experiment in runs(asked.seeds):
        if name in done:
            continue
        began = time.monotonic()
        try:
            found = plain(measured_of(experiment, threads=1))
        except CleanpathError as error:
            print(f"{name}: {error}", flush=True)
            continue
        network = experiment.network
        setting = {
            "variant": variant_of(network),
            "depth": getattr(network, "depth", 0),
            "rate": experiment.training.lr,
        }
        with MEASURED.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": name, **end, **setting, "measured": found}) + "\n")
        print(f"{name} {end['error']} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
