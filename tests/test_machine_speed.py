"""The speed of a machine: measured once, kept by machine and versions, measured anew where that cannot be read."""

from pathlib import Path

import pytest

from cleanpath import machine_speed
from cleanpath.estimate import Probe, speed_of
from cleanpath.grid import local

SMALL = Probe(layers=20, multiply_adds=1e8, seconds=0.05)
LARGE = Probe(layers=20, multiply_adds=4e9, seconds=0.9)


@pytest.fixture
def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often the machine was measured; it is idle and keeps what it finds in an empty folder."""
    calls: list[str] = []

    def probe() -> tuple[Probe, Probe]:
        calls.append("probe")
        return SMALL, LARGE

    monkeypatch.setattr(local, "probe", probe)
    monkeypatch.setattr(machine_speed, "_busy", lambda: False)
    monkeypatch.setenv("CLEANPATH_CACHE", str(tmp_path / "cache"))
    return calls


def test_speed_is_measured_once_and_says_when(probed: list[str], tmp_path: Path) -> None:
    first, second = machine_speed.measured(), machine_speed.measured()
    assert probed == ["probe"]
    assert first == second
    assert first.speed == speed_of(SMALL, LARGE)
    assert first.kept == tmp_path / "cache" / "speed.json"
    assert f"measured on {first.on}, kept in {first.kept}: remove that to measure anew" in first.in_words()
    first.kept.unlink()
    machine_speed.measured()
    assert len(probed) == 2


def test_other_machine_and_other_versions_are_measured_on_their_own(
    probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_speed.measured()
    plain = machine_speed._key()
    for key in ("another machine", plain):
        monkeypatch.setattr(machine_speed, "_key", lambda key=key: key)
        machine_speed.measured()
    assert len(probed) == 2
    monkeypatch.undo()
    assert "torch 2." in plain
    assert "cleanpath" in plain


def test_speed_of_a_busy_machine_is_not_kept(probed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_speed, "_busy", lambda: True)
    found = machine_speed.measured()
    assert found.kept is None
    assert "kept in" not in found.in_words()
    machine_speed.measured()
    assert len(probed) == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"KEY": {}}', '{"KEY": 3}', '{"KEY": {"small": 1, "large": 2}}'])
def test_what_cannot_be_read_is_measured_anew(content: str, probed: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    key = machine_speed._key().replace('"', "")
    (tmp_path / "cache" / "speed.json").write_text(content.replace("KEY", key))
    assert machine_speed.measured().speed == speed_of(SMALL, LARGE)
    assert machine_speed.measured().speed == speed_of(SMALL, LARGE)
    assert len(probed) == 1


def test_folder_that_cannot_be_written_is_done_without(probed: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert machine_speed.measured().kept is None
    assert len(probed) == 1


def test_where_nobody_has_a_home_nothing_is_kept(
    probed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("CLEANPATH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(nobody))
    monkeypatch.chdir(tmp_path)
    found = [machine_speed.measured() for _ in range(2)]
    assert len(probed) == 2
    assert found[0].kept is None
    assert found[0].in_words().endswith("and not kept")
    assert list(tmp_path.iterdir()) == []
