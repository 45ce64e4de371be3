"""How long the command takes to answer, the library to be imported, and a run to end its first training step.

    python -m benchmarks.startup

Each in a new process. A run of one step on the digits holds the first step and what comes after it: the tests on both
splits, the weights and the record.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from benchmarks.figures import Figure, alternated, number, tell

ROUNDS = 7
STEP = ("train", "preresnet20", "--data", "digits", "--set", "training.iterations=1", "--threads", "2")


def measure() -> list[Figure]:
    """Seconds, beyond those of an empty Python where that is said."""
    with tempfile.TemporaryDirectory() as folder:
        ended = iter(range(10_000))

        def run(*words: str) -> Callable[[], object]:
            return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=folder)

        def first_step() -> object:
            return run("-m", "cleanpath", *STEP, "--out", f"run{next(ended)}")()

        took = alternated(
            {
                "nothing": run("-c", "pass"),
                "import": run("-c", "import cleanpath"),
                "help": run("-m", "cleanpath", "--help"),
                "step": first_step,
            },
            ROUNDS,
        )
    return [
        number("`cleanpath --help`", took["help"], "help"),
        number("`import cleanpath`, beyond an empty Python", _beyond(took["import"], took["nothing"]), "import"),
        number("`cleanpath train preresnet20`, a run of one step on the digits", took["step"], "first-step"),
    ]


def _beyond(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(these, those, strict=True)]


if __name__ == "__main__":
    tell(measure, __doc__)
