"""What `list settings` says of a setting is what stands beside its field, and what the setting takes."""

import dataclasses
import inspect
import io
import json
import re
from dataclasses import dataclass

import pytest
from rich.console import Console

from cleanpath import meanings, settings
from cleanpath.errors import SettingError
from cleanpath.experiment import Data, Experiment, Foreign, Network, Shortcut, Training
from cleanpath.report import terminal
from tests.helpers import here
from tests.test_settings import OTHER, PLAIN

PARTS = (Shortcut, Network, Foreign, Data, Training, Experiment)
ROWS = {str(row["name"]): row for row in meanings.rows()}


@pytest.mark.parametrize("part", PARTS)
def test_every_field_has_one_line_in_its_docstring(part: type) -> None:
    lines = (inspect.getdoc(part) or "").splitlines()
    named = [line[1:].partition("`")[0] for line in lines if re.match(r"`\w+`: ", line)]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(part))
    assert set(meanings.entries(part)) == set(named)


@dataclass
class _Told:
    """A sentence that names `one` thing.

    `one`: the first,
    in two lines.
    `two`: the second `one`: no entry.

    Where nothing is said:

    `three`: the third.
    """


def test_an_entry_goes_on_to_the_next_one_or_an_empty_line() -> None:
    assert meanings.entries(_Told) == {
        "one": "the first, in two lines.",
        "two": "the second `one`: no entry.",
        "three": "the third.",
    }


def test_rows_are_the_settings_and_every_one_has_a_meaning() -> None:
    assert tuple(ROWS) == settings.names()
    assert [name for name, row in ROWS.items() if not re.fullmatch(r"[^|\n]{5,230}\.", row["meaning"] or "")] == []


@pytest.mark.parametrize("key", OTHER)
def test_the_default_is_what_set_takes_to_come_back_to_it(key: str) -> None:
    if key in ("training.epochs", "training.iterations", "network.depth", "network.branch", "network.placement"):
        assert ROWS[key]["default"] in (None, "none")  # PLAIN has given them
        return
    other = settings.override(PLAIN, [f"{key}={OTHER[key]}"])
    assert settings.override(other, [f"{key}={ROWS[key]['default']}"]) == PLAIN


def test_types_and_what_must_be_given() -> None:
    kinds = {
        "training.lr": "float",
        "training.clip": "float",
        "training.lr_drops": "floats",
        "training.fused": "bool",
        "network.depth": "int",
        "data.broken": "str",
    }
    assert {key: ROWS[key]["type"] for key in kinds} == kinds
    required = {key for key, row in ROWS.items() if row["default"] is None}
    assert required == {"network.depth", "network.branch", "network.placement", "network.target"}


@pytest.mark.parametrize("key", [key for key in OTHER if ROWS[key]["type"] == "str"])
def test_a_meaning_names_every_choice(key: str) -> None:
    base = settings.override(PLAIN, ["data.name=folder:photos"]) if key.startswith("data.") else PLAIN
    try:
        settings.override(base, [f"{key}=none of them"])
    except SettingError as error:
        for choice in str(error).partition("choose one of ")[2].split(", "):
            assert f"`{choice}`" in (ROWS[key]["meaning"] or ""), f"{key} says nothing of {choice}"
    else:
        assert key in {  # their names are looked up elsewhere
            *("network.placement", "network.shortcut.kind", "network.shortcut.code", "data.name", "init"),
        }


def test_a_pipe_gets_a_line_for_each() -> None:
    outcome = here("list", "settings", "training.*")
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [name for name in ROWS if name.startswith("training.")]
    assert all(line == line.rstrip() for line in lines)
    assert next(line for line in lines if line.startswith("training.bn_images")).endswith(
        str(ROWS["training.bn_images"]["meaning"])
    )
    assert "--dry-run" in outcome.err
    assert here("list", "settings", "--json").err == ""


def test_json_has_all_columns() -> None:
    found = json.loads(here("list", "settings", "--json").out)["settings"]
    assert {row["name"]: row for row in found} == ROWS
    assert all(set(row) == {"name", "type", "default", "meaning"} for row in found)


def test_a_terminal_of_80_columns_shows_names_and_meanings_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    narrow = Console(file=out, width=80, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(terminal, "_console", lambda: narrow)
    terminal.print_rows(list(ROWS.values()))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == [*ROWS]
    meant = " ".join(line[lines[0].index("meaning") :].strip() for line in lines[1:])
    assert meant == " ".join(str(row["meaning"]) for row in ROWS.values())
