"""The exception tree, its exit codes, and the nearest names that it offers."""

import inspect
import re
import signal

import pytest

from cleanpath import errors, settings
from cleanpath.errors import (
    CleanpathError,
    NonFiniteError,
    RunError,
    SettingError,
    Stopped,
    UnknownNameError,
    UserError,
)


def drawn() -> dict[str, str]:
    """Class to parent, as the docstring draws them."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.fullmatch(r"    ([│ ├└─]*)(\w+)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_drawn_tree_is_the_tree_of_classes() -> None:
    classes = {
        name: cls.__bases__[0].__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if cls.__module__ == errors.__name__ and issubclass(cls, Exception)
    }
    assert drawn() == classes
    assert len(classes) >= 7


def test_every_class_knows_its_exit_code() -> None:
    assert CleanpathError.exit_code == 3
    assert {cls.exit_code for cls in (UserError, SettingError, UnknownNameError, RunError)} == {2}
    assert NonFiniteError("loss", 1.0, iteration=1, where="here").exit_code == 1
    assert Stopped("stopped", signal_number=signal.SIGINT).exit_code == 130
    assert Stopped("stopped", signal_number=signal.SIGTERM).exit_code == 143


@pytest.mark.parametrize(
    ("name", "known", "answer"),
    [
        ("tabel1", ("table1", "table2"), "no thing 'tabel1'; did you mean table1"),
        ("xyz", ("table1", "table2"), "no thing 'xyz'; choose one of table1, table2"),
        ("xyz", tuple(f"network{number}" for number in range(40)), "no thing 'xyz'; none of the 40 there are is like"),
        ("lr", settings.names(), "no thing 'lr'; did you mean training.lr or training.lr_drop_factor"),
        ("trainig.lr", settings.names(), "no thing 'trainig.lr'; did you mean training.lr?"),
        ("training.epoch", settings.names(), "no thing 'training.epoch'; did you mean training.epochs?"),
        ("training.foo", settings.names(), "no thing 'training.foo'; none of the"),
        ("", settings.names(), "no thing ''; none of the"),
    ],
    ids=["a typo", "few known", "many known", "a part", "a group", "a setting", "a group without such", "nothing"],
)
def test_unknown_name_is_answered_with_those_like_it(name: str, known: tuple[str, ...], answer: str) -> None:
    assert str(UnknownNameError("thing", name, known)).startswith(answer)


def test_unknown_name_says_where_all_names_are_listed() -> None:
    error = UnknownNameError("network", "resnet111", ["resnet110"], see="cleanpath list networks")
    assert str(error) == "no network 'resnet111'; did you mean resnet110? see `cleanpath list networks`"


def test_where_nothing_is_alike_the_list_is_all_that_is_said() -> None:
    error = UnknownNameError("setting", "foo", settings.names(), see="cleanpath list settings")
    assert str(error) == "no setting 'foo'; see `cleanpath list settings`"


def test_non_finite_error_says_what_when_and_where() -> None:
    error = NonFiniteError("loss", float("nan"), iteration=7, where="module 3")
    assert str(error) == "stopped before iteration 7: loss is nan, first at module 3"
    assert (error.quantity, error.iteration, error.where) == ("loss", 7, "module 3")


def test_names_joined_by_commas_are_told_apart() -> None:
    with pytest.raises(UserError, match="'CP102,CP201'; write CP102 CP201, apart"):
        raise UnknownNameError("rule", "CP102,CP201", ["CP102", "CP201", "CP202"])
