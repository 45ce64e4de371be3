"""What was measured on a finished run beside its training, as files in its folder: which there are, and reading them.

    measured.json                       numbers of the signal at the start and at the end, and responses by layer
    moments.json                        the same numbers at a few moments of the training, where a grid trained it
    profile-start.json, profile-end.json   audits
    evaluation-VIEW.json                error with another view of the test images

All of it follows from the experiment and the weights: `measuring` makes it again where it is missing or of other
weights. `moments.json` alone does not come back without the training. Never imports torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cleanpath.errors import RunError
from cleanpath.reading import ReadOnce
from cleanpath.records import Run

VERSION = 1
# One more for every number that came to be measured: a finished run that lacks it is measured again, not trained.
NUMBERS = 2
MEASURED, MOMENTS = "measured.json", "moments.json"
PROFILES = ("profile-start.json", "profile-end.json")

Line = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wanted of a run: its profiles, and views of its test images."""

    profiles: bool = False
    views: tuple[str, ...] = ()

    def together(self, other: "Wish") -> "Wish":
        """Both."""
        views = tuple(dict.fromkeys((*self.views, *other.views)))
        return Wish(profiles=self.profiles or other.profiles, views=views)


def evaluation_file(view: str) -> str:
    """Where the error with a view stands."""
    return f"evaluation-{view}.json"


def wanting(run: Run, wish: Wish) -> bool:
    """Whether a finished run lacks something that is wanted, or has it of other weights."""
    run = ReadOnce(run.folder)
    if run.status != "finished":
        return False
    names = (MEASURED, *(PROFILES if wish.profiles else ()), *map(evaluation_file, wish.views))
    if any(not (run.folder / name).is_file() for name in names) or not of_these_weights(run, names):
        return True
    return bool(read(run, MEASURED).get("numbers") != NUMBERS)


def of_these_weights(run: Run, names: Iterable[str]) -> bool:
    """Whether files are of the weights that the run has now; an audit is made with the numbers beside it."""
    digest = (run.result or {}).get("weights_sha256")
    dated = [name for name in names if name not in PROFILES]
    return all(read(run, name).get("weights_sha256") == digest for name in dated)


def numbers(run: Run) -> dict[str, float]:
    """The numbers at the end by quantity; none if they are not there or of other weights."""
    found = read(run, MEASURED)
    return dict(found["end"]) if found and of_these_weights(run, [MEASURED]) else {}


def lines(run: Run) -> dict[str, Line]:
    """`response` by layer, `negative_share` and `truncated` by iteration, and at the end by unit."""
    found = read(run, MEASURED)
    if not found or not of_these_weights(run, [MEASURED]):
        return {}
    series = {
        key: tuple((float(at), value) for at, value in enumerate(found.get(name, []), start=1))
        for key, name in (
            ("response", "responses"),
            (by_unit("negative_share"), "negative_shares"),
            (by_unit("truncated"), "gaps"),
        )
    }
    moments = _moments(run, found)
    for quantity in ("negative_share", "truncated"):
        series[quantity] = tuple((at, value[quantity]) for at, value in moments if quantity in value)
    return {key: line for key, line in series.items() if line}


def by_unit(quantity: str) -> str:
    """The name of the line that has a quantity unit by unit."""
    return f"{quantity}_by_unit"


def evaluated(run: Run, view: str) -> dict[str, Any]:
    """The error with a view of the test images; empty if it was not taken or is of other weights."""
    name = evaluation_file(view)
    return read(run, name) if of_these_weights(run, [name]) else {}


def _moments(run: Run, found: Mapping[str, Any]) -> list[tuple[float, dict[str, float]]]:
    """The start, the moments between that a grid took, and the end."""
    total = float((run.result or {})["iterations"])
    between = read(run, MOMENTS).get("points", [])
    inside = [(float(point["iteration"]), point) for point in between if 0 < point["iteration"] < total]
    return [(0.0, found["start"]), *inside, (total, found["end"])]


def read(run: Run, name: str) -> dict[str, Any]:
    """What a file says; nothing if it is not there, is damaged or of another version: it is made again then."""
    try:
        data = run.table(name)
    except (RunError, OSError):
        return {}
    return {} if data is None or data.get("version") != VERSION else data
