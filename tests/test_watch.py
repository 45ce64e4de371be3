"""What a terminal is told while something is counted: not too often, and the last of it always."""

import pytest

from cleanpath.watch import Counting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("cleanpath.watch.time.monotonic", lambda: now[0])
    return now


def test_a_count_ends_with_the_last_that_was_reached(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Counting("runs measured") as counting:
        for done in range(1, 15):
            clock[0] += 1.0
            counting.tell(done, 14)
    assert capsys.readouterr().err.splitlines() == ["2 of 14 runs measured", "14 of 14 runs measured"]


def test_a_count_that_was_told_at_its_end_is_not_told_twice(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Counting("runs measured") as counting:
        clock[0] += 5.0
        counting.tell(14, 14)
    assert capsys.readouterr().err.splitlines() == ["14 of 14 runs measured"]


def test_what_is_soon_done_is_not_counted(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Counting("runs measured") as counting:
        clock[0] += 1.0
        counting.tell(14, 14)
    assert capsys.readouterr().err == ""


def test_where_a_count_broke_off_is_told(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        with Counting("runs measured") as counting:
            for done in range(1, 8):
                clock[0] += 1.0
                counting.tell(done, 14)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert capsys.readouterr().err.splitlines()[-1] == "7 of 14 runs measured"
