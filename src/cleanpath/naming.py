"""What a run's folder is called."""

import re
from functools import lru_cache
from pathlib import Path

from cleanpath import settings
from cleanpath.experiment import Experiment, Foreign, Network
from cleanpath.nn import catalog


def default_name(experiment: Experiment, *, threads: int = 1, ranks: bool = False, gpu: bool = False) -> str:
    """A run's name: network, data, seed, digest, and on what its bits depend: threads or a GPU, and several ranks.

    Not how many of these: a run goes on with another number of them.
    """
    network, data = _network(experiment.network), _plain(experiment.data.name)
    name = f"{network}-{data}-s{experiment.seed}-{settings.digest(experiment)}"
    name = f"{name}-gpu" if gpu else name if threads == 1 else f"{name}-t{threads}"
    return f"{name}-ranks" if ranks else name


@lru_cache(maxsize=1024)  # parts are shared by the cells of a grid, which may be ten thousand
def _network(of: Network | Foreign) -> str:
    return _plain(catalog.name_of(of))


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    """Of `folder:/data/photos`, or `nets/mine.py:make`, what a folder's name may hold."""
    kind, colon, rest = name.rpartition(":")
    return re.sub(r"[^\w.+]+", "-", f"{Path(kind).stem}{colon}{Path(rest).name}").strip("-")
