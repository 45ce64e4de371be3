"""What is answered to an option that there is not: what was meant if it is near, else where all are listed."""

import pytest

from cleanpath import settings
from tests.helpers import assert_user_error, here

MEANT = {
    "reproduce all --seed 3": "--seeds",
    "reproduce all --worker 2": "--workers",
    "train preresnet8 --sed 3": "--seed",
    "train preresnet8 --dry_run": "--dry-run",
    "train preresnet8 --output X": "--out",
    "train preresnet8 --log-level 3": "--log",
    "show preresnet8 --jso": "--json",
    "--vers": "--version",
    "train preresnet8 --epoch 3": "--set training.epochs=…",
    "train preresnet8 --batch-size 3": "--set training.batch_size=…",
    "train preresnet8 --lr 0.1": "--set training.lr=…",
    "train preresnet8 --training.lr=0.1": "--set training.lr=…",
    "train preresnet8 --precision bf16": "--set training.precision=…",
    "reproduce all --width 8": "--set network.width=…",
    "train preresnet8 --decay 0": "--set training.decay_on=… or --set training.weight_decay=…",
}
NOTHING_LIKE_IT = (
    *(
        "reproduce all --out X",
        "reproduce all --data cifar10",
        "reproduce all --resume",
        "audit resnet8 --verbose-findings",
    ),
    *("train preresnet8 --foo", "train preresnet8 --learning-rate 3", "train preresnet8 -q", "list networks --all"),
)


@pytest.mark.parametrize("words", MEANT)
def test_an_option_that_is_near_is_what_was_meant(words: str) -> None:
    outcome = here(*words.split())
    assert_user_error(outcome)
    option = next(word for word in words.split() if word.startswith("-")).partition("=")[0]
    assert outcome.err == f"error: no option {option}; did you mean {MEANT[words]}?\n"


@pytest.mark.parametrize("words", NOTHING_LIKE_IT)
def test_where_none_is_near_none_is_named(words: str) -> None:
    verb, outcome = words.partition(" ")[0], here(*words.split())
    assert_user_error(outcome, f"`cleanpath {verb} --help` names them")
    assert "mean" not in outcome.err
    assert ("`cleanpath list settings` what --set takes" in outcome.err) == (verb in ("train", "reproduce", "audit"))


def test_every_setting_that_is_given_as_an_option_is_answered_with_itself() -> None:
    keys = [key for key in settings.names() if "." in key and not key.endswith(".code")]
    for key in keys:
        name = key.rpartition(".")[2]
        for option in (f"--{name}", f"--{key}", f"--{name.replace('_', '-')}"):
            assert here("train", "preresnet8", f"{option}=1").err == (
                f"error: no option {option}; did you mean --set {key}=…?\n"
            )
