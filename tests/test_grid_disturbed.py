"""What happens around a grid: a disk that fills up, a clock that jumps. No cell is lost and no bit is another."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cleanpath.records import Run, runs_below
from tests.helpers import ONE, PATIENCE, TINY, assert_same_run, outside, small_disk, wait_until

GRID = ("reproduce", "table2", *TINY, *ONE, "--workers", "2", "--json", "--page", "page.html")

DISK = """
set -e
mount -t tmpfs -o size=4m tmpfs disk
dd if=/dev/zero of=disk/filler bs=1k count=3900 2> /dev/null
if "$@" --runs disk/runs > full.json 2> full; then exit 3; fi
rm -f disk/filler
"$@" --runs disk/runs > on.json 2> on
cp -r disk/runs done
"""

JUMPS = """
import random, time
real = time.time
time.time = lambda: real() + random.choice((-1e7, -3600.0, 0.0, 3600.0, 1e7))
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of an undisturbed grid."""
    folder = tmp_path_factory.mktemp("calm")
    outcome = outside(*GRID, cwd=folder)
    assert outcome.code == 0, outcome.err
    return folder / "runs"


def assert_same_runs(found: Path, calm: Path) -> None:
    names = {run.name for run in runs_below(calm)}
    assert len(names) == 5
    assert {run.name for run in runs_below(found)} == names
    for name in names:
        assert_same_run(found / name, calm / name)


@pytest.mark.slow
def test_grid_on_a_disk_that_fills_up_says_so_and_goes_on_once_there_is_room(tmp_path: Path, calm: Path) -> None:
    """What a full disk stops is no death: it is told at once, not tried three times more."""
    (tmp_path / "disk").mkdir()
    words = [*small_disk(tmp_path / "disk"), "sh", "-c", DISK, "sh", sys.executable, "-m", "cleanpath", *GRID]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=PATIENCE)
    told = (tmp_path / "full").read_text()
    assert done.returncode == 0, (done.stderr, told)
    assert "No space left on device" in told
    assert "tried again" not in told
    assert "Traceback" not in told
    assert_same_runs(tmp_path / "done", calm)


@pytest.mark.slow
def test_clock_that_jumps_changes_no_bit_and_loses_no_cell(tmp_path: Path, calm: Path) -> None:
    """In the driver and in its workers: a module that Python loads at its start."""
    (tmp_path / "sitecustomize.py").write_text(JUMPS)
    outcome = outside(*GRID, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert outcome.code == 0, outcome.err
    assert_same_runs(tmp_path / "runs", calm)
    took = [(Run(run.folder).result or {})["seconds"] for run in runs_below(tmp_path / "runs")]
    assert all(0 < seconds < PATIENCE for seconds in took)
    shutil.rmtree(tmp_path / "runs" / runs_below(calm)[0].name)
    again = outside(*GRID, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "1 of 5 cells to do" in again.err


@pytest.mark.slow
def test_two_drivers_on_one_grid_of_which_one_is_killed_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, calm: Path
) -> None:
    words = [sys.executable, "-m", "cleanpath", *GRID]
    drivers = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in "ab"]
    results = dict[str, int]()

    def seen() -> int:
        for path in tmp_path.glob("runs/*/result.json"):
            results.setdefault(path.parent.name, path.stat().st_ino)
        return len(results)

    wait_until(lambda: seen() > 0, "the first cell")
    drivers[0].kill()
    wait_until(lambda: bool(seen()) and drivers[1].poll() is not None, "the other driver")
    for driver in drivers:
        driver.communicate(timeout=PATIENCE)
    assert drivers[1].returncode in (0, 2), "done, or told that the other one's workers still had a cell"
    seen()
    again = outside(*GRID, cwd=tmp_path)
    assert again.code == 0, again.err
    assert {path.parent.name: path.stat().st_ino for path in tmp_path.glob("runs/*/result.json")} == results
    assert not list(tmp_path.glob("runs/*/failure.txt"))
    assert_same_runs(tmp_path / "runs", calm)
