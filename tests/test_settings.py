"""Experiments as data: there and back, their digest, overrides, and what is said about wrong ones."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanpath import settings
from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.experiment import (
    ACTIVATIONS,
    BRANCHES,
    LAYOUTS,
    NORMALISATIONS,
    Data,
    Experiment,
    Foreign,
    Network,
    Shortcut,
    Training,
)
from tests.helpers import examples, network_of, tiny

WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_-"), min_size=1, max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
INSIDE = st.floats(0, 1, exclude_min=True, exclude_max=True)
BELOW_1 = st.floats(0, 1, exclude_max=True)
COUNTS = st.integers(2, 10**9)

SHORTCUT = {
    "kind": WORDS,
    "scale": st.none() | FLOATS,
    "branch_scale": st.none() | FLOATS,
    "bias": st.none() | FLOATS,
    "rate": st.none() | BELOW_1,
    "inverted": st.booleans(),
    "norm": st.booleans(),
    "gate_widening": st.booleans(),
    "start": st.none() | FLOATS,
    "streams": st.none() | COUNTS,
    "reduction": st.none() | COUNTS,
    "code": WORDS,
}
NETWORK = {
    "depth": COUNTS,
    "branch": st.sampled_from(BRANCHES),
    "placement": WORDS,
    "layout": st.sampled_from(LAYOUTS),
    "shortcut": st.builds(Shortcut, **SHORTCUT),
    "widening": st.sampled_from(("A", "B", "D")),
    "widening_input": st.sampled_from(("activated", "raw")),
    "widening_norm": st.booleans(),
    "padding": st.sampled_from(("after", "both")),
    "stride_on": st.sampled_from(("first", "middle")),
    "width": COUNTS,
    "in_channels": COUNTS,
    "num_classes": COUNTS,
    "normalisation": st.sampled_from(NORMALISATIONS),
    "activation": st.sampled_from(ACTIVATIONS),
    "inner": POSITIVE,
}
TRAINING = {
    "batch_size": COUNTS,
    "lr": POSITIVE,
    "momentum": INSIDE,
    "nesterov": st.booleans(),
    "weight_decay": st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    "decay_on": st.sampled_from(("all", "weights", "all_but_gate_bias")),
    "warmup": st.integers(0, 10**9),
    "warmup_factor": POSITIVE,
    "lr_drops": st.lists(INSIDE, max_size=4).map(tuple),
    "lr_drop_factor": POSITIVE,
    "optimizer": st.just("sgd"),  # the others have no Nesterov
    "schedule": st.sampled_from(("steps", "cosine")),
    "warmup_shape": st.sampled_from(("constant", "linear")),
    "accumulation": st.just(1),
    "bn_group": st.none(),
    "average": st.none() | INSIDE,
    "label_smoothing": INSIDE,
    "mixup": POSITIVE,
    "body_factor": POSITIVE,
    "class_weights": st.sampled_from(("none", "balanced")),
    "bn_images": st.integers(0, 1000),
    "memory": st.sampled_from(("plain", "recompute")),
    "precision": st.sampled_from(("fp32", "tf32", "bf16")),
    "deterministic": st.booleans(),
    "graph": st.booleans(),
    "clip": st.none() | POSITIVE,
    "compile": st.booleans(),
    "fused": st.booleans(),
}
DATA: dict[str, Any] = {
    "held_out": st.sampled_from(("test", "validation")),
    "augment": st.sampled_from(("usual", "none")),
}
BROKEN = st.sampled_from(("refuse", "skip"))
EXPERIMENTS = st.builds(
    Experiment,
    network=st.builds(Network, **NETWORK)
    | st.builds(Foreign, target=WORDS.map("{}:net".format), in_channels=COUNTS, code=WORDS),
    data=st.builds(Data, name=WORDS, **DATA)
    | st.builds(Data, name=WORDS.map("folder:{}".format), side=st.integers(8, 300), broken=BROKEN, **DATA),
    training=st.builds(Training, epochs=COUNTS, **TRAINING) | st.builds(Training, iterations=COUNTS, **TRAINING),
    seed=st.integers(0, 2**63 - 1),
    init=st.text(max_size=16),
    source=st.text(max_size=20),
)

PLAIN = Experiment(
    network=Network(depth=20, branch="two_layer", placement="original"), training=Training(iterations=100)
)
# A value for every setting that PLAIN does not have.
OTHER = {
    "network.depth": "26",
    "network.branch": "bottleneck",
    "network.placement": "full_preactivation",
    "network.layout": "imagenet",
    "network.shortcut.kind": "scaling",
    "network.shortcut.scale": "0.5",
    "network.shortcut.branch_scale": "0.5",
    "network.shortcut.bias": "-6",
    "network.shortcut.rate": "0.5",
    "network.shortcut.inverted": "true",
    "network.shortcut.norm": "true",
    "network.shortcut.gate_widening": "false",
    "network.shortcut.start": "0.1",
    "network.shortcut.streams": "4",
    "network.shortcut.reduction": "8",
    "network.shortcut.code": "0123",
    "network.widening": "B",
    "network.widening_input": "raw",
    "network.widening_norm": "true",
    "network.padding": "both",
    "network.stride_on": "middle",
    "network.width": "8",
    "network.in_channels": "1",
    "network.num_classes": "100",
    "network.normalisation": "group",
    "network.activation": "gelu",
    "network.inner": "0.5",
    "training.epochs": "3",
    "training.iterations": "101",
    "training.batch_size": "64",
    "training.lr": "0.2",
    "training.momentum": "0.8",
    "training.nesterov": "true",
    "training.weight_decay": "0",
    "training.decay_on": "weights",
    "training.warmup": "5",
    "training.warmup_factor": "0.2",
    "training.lr_drops": "0.5",
    "training.lr_drop_factor": "0.2",
    "training.optimizer": "caffe_sgd",
    "training.schedule": "cosine",
    "training.warmup_shape": "linear",
    "training.accumulation": "2",
    "training.bn_group": "64",
    "training.average": "0.99",
    "training.class_weights": "balanced",
    "training.bn_images": "1000",
    "training.label_smoothing": "0.1",
    "training.mixup": "0.2",
    "training.body_factor": "0.1",
    "training.precision": "bf16",
    "training.clip": "1",
    "training.compile": "true",
    "training.fused": "true",
    "training.deterministic": "false",
    "init": "0123",
    "data.augment": "none",
    "data.name": "cifar10",
    "data.held_out": "validation",
    "seed": "1",
}
# As it was before any later setting; what came later is not in it while at its default.
CANONICAL = (
    '{"data":{"held_out":"test","name":"digits"},"format":1,"network":{"branch":"two_layer","depth":20,'
    '"in_channels":3,"layout":"cifar","num_classes":10,"padding":"after","placement":"original",'
    '"shortcut":{"gate_widening":true,"inverted":false,"kind":"identity","norm":false},"stride_on":"first",'
    '"widening":"A","widening_input":"activated","widening_norm":false,"width":16},"seed":0,'
    '"training":{"batch_size":128,"decay_on":"all","iterations":100,"lr":0.1,"lr_drop_factor":0.1,'
    '"lr_drops":[0.5,0.75],"momentum":0.9,"nesterov":false,"warmup":0,"warmup_factor":0.1,"weight_decay":0.0001}}'
)


@pytest.mark.parametrize(
    ("cls", "drawn"),
    [
        (Shortcut, {*SHORTCUT}),
        (Network, {*NETWORK}),
        (Training, {*TRAINING, "epochs", "iterations"}),
        (Data, {"name", "held_out", "augment", "side", "broken"}),
        (Experiment, {"network", "data", "training", "seed", "init", "source"}),
    ],
)
def test_every_setting_is_drawn_below(cls: type, drawn: set[str]) -> None:
    assert {field.name for field in dataclasses.fields(cls)} == drawn


@examples
@given(EXPERIMENTS)
def test_data_and_back_is_the_identity(experiment: Experiment) -> None:
    plain = settings.to_data(experiment)
    assert settings.from_data(plain) == experiment
    assert settings.from_data(json.loads(json.dumps(plain, allow_nan=False))) == experiment


@examples
@given(EXPERIMENTS)
def test_toml_and_back_is_the_identity(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> None:
    path = tmp_path_factory.getbasetemp() / "experiment.toml"
    path.write_bytes(settings.to_toml(experiment).encode())
    assert settings.read(path) == experiment


@examples
@given(EXPERIMENTS)
def test_digest_survives_the_way_there_and_back(experiment: Experiment) -> None:
    assert settings.digest(settings.from_data(settings.to_data(experiment))) == settings.digest(experiment)


def test_digest_is_of_the_canonical_json() -> None:
    assert settings.from_data(json.loads(CANONICAL)) == PLAIN
    assert settings.digest(PLAIN) == hashlib.sha256(CANONICAL.encode()).hexdigest()[:12] == "4a5c2c90f731"
    assert settings.to_data(PLAIN).keys() == json.loads(CANONICAL).keys()


def test_digest_does_not_change_with_the_source() -> None:
    assert settings.digest(dataclasses.replace(PLAIN, source="table1/original")) == settings.digest(PLAIN)


def test_every_setting_has_another_value_here() -> None:
    others = {"source", "data.side", "data.broken", "network.target", "network.code", *settings.free()}
    assert set(settings.names()) == {*OTHER, *others}


def test_digest_does_not_change_with_settings_of_which_no_bit_depends() -> None:
    assert settings.free() == {"training.memory", "training.graph"}
    again = settings.override(PLAIN, ["training.memory=recompute", "training.graph=false"])
    assert settings.digest(again) == settings.digest(PLAIN)
    assert settings.from_data(settings.to_data(again)) == again


def test_digest_changes_with_a_foreign_network_s_target_and_code() -> None:
    made = [
        dataclasses.replace(PLAIN, network=Foreign(target=target, code=code))
        for target, code in (("timm:resnet18", ""), ("timm:resnet34", ""), ("a.py:f", "1"), ("a.py:f", "2"))
    ]
    assert len({settings.digest(experiment) for experiment in made}) == 4


@pytest.mark.parametrize("key", OTHER)
def test_digest_changes_with_every_setting(key: str) -> None:
    other = settings.override(PLAIN, [f"{key}={OTHER[key]}"])
    assert settings.digest(other) != settings.digest(PLAIN)
    # Setting the length in one way clears the other way.
    also = {"training.epochs": {"training.iterations"}}.get(key, set())
    assert set(settings.differences(PLAIN, other)) == {key} | also


def test_equal_experiments_have_one_digest() -> None:
    whole = dataclasses.replace(PLAIN, training=Training(iterations=100, lr=1))
    point = dataclasses.replace(PLAIN, training=Training(iterations=100, lr=1.0))
    assert whole == point
    assert settings.digest(whole) == settings.digest(point)


def test_digest_does_not_see_the_sign_of_zero() -> None:
    minus, plus = (settings.override(PLAIN, [f"network.shortcut.bias={zero}"]) for zero in ("-0.0", "0.0"))
    assert minus == plus
    assert settings.digest(minus) == settings.digest(plus)


def test_empty_name_does_not_become_the_default() -> None:
    try:
        empty = dataclasses.replace(PLAIN, data=Data(name=""))
    except SettingError:
        return
    assert settings.from_data(settings.to_data(empty)) == empty


def test_override_types_every_value() -> None:
    changed = settings.override(
        PLAIN,
        [
            "training.epochs=2",
            " training.lr = 1",
            "training.nesterov=True",
            "training.lr_drops=[0.25, 0.5]",
            "network.shortcut.kind=dropout",
            "network.shortcut.rate=.5",
        ],
    )
    assert changed.training == Training(epochs=2, lr=1.0, nesterov=True, lr_drops=(0.25, 0.5))
    assert network_of(changed).shortcut == Shortcut(kind="dropout", rate=0.5)
    assert [type(value) for value in (changed.training.epochs, changed.training.lr)] == [int, float]


def test_override_can_clear_an_optional_setting_and_a_list() -> None:
    scaled = settings.override(PLAIN, ["network.shortcut.scale=0.5", "training.lr_drops="])
    assert (network_of(scaled).shortcut.scale, scaled.training.lr_drops) == (0.5, ())
    assert network_of(settings.override(scaled, ["network.shortcut.scale=none"])).shortcut.scale is None


def test_override_without_settings_changes_nothing() -> None:
    assert settings.override(PLAIN, []) == PLAIN


def test_setting_epochs_clears_iterations_and_back() -> None:
    epochs = settings.override(PLAIN, ["training.epochs=3"])
    assert (epochs.training.epochs, epochs.training.iterations) == (3, None)
    iterations = settings.override(epochs, ["training.iterations=7"])
    assert (iterations.training.epochs, iterations.training.iterations) == (None, 7)


def test_same_setting_twice_with_one_value_is_no_contradiction() -> None:
    assert settings.override(PLAIN, ["seed=3", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("given_settings", "answer"),
    [
        (["training.epochs"], "--set training.epochs: write key=value"),
        (["=3"], "write key=value"),
        (["training.epoch=3"], "did you mean training.epochs"),
        (["trainig.lr=3"], "did you mean training.lr"),
        (["lr=3"], "no setting 'lr'"),
        (["network.depth.x=3"], "no setting 'network.depth.x'"),
        (["training=3"], "training is a group of settings: training.epochs"),
        (["training.epochs=ten"], "training.epochs: 'ten' is not a whole number"),
        (["training.epochs=1e3"], "training.epochs: '1e3' is not a whole number; write 1000"),
        (["training.epochs=1.5"], "training.epochs: '1.5' is not a whole number"),
        (["training.epochs="], "training.epochs: '' is not a whole number"),
        (["training.lr=fast"], "training.lr: 'fast' is not a number"),
        (["training.lr_drops=0.5;0.7"], "training.lr_drops: '0.5;0.7' is not a number"),
        (["training.nesterov=yes"], "training.nesterov: 'yes' is neither true nor false"),
        (["training.lr=0.1", "training.lr=0.2"], "training.lr is given twice: 0.1 and 0.2"),
        (["training.epochs=1", "training.iterations=1"], "training.epochs and training.iterations are both given"),
        (["format=2"], "no setting 'format'"),
    ],
)
def test_override_says_what_is_wrong(given_settings: list[str], answer: str) -> None:
    with pytest.raises((SettingError, UnknownNameError)) as caught:
        settings.override(PLAIN, given_settings)
    assert answer in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("training.epochs=0", "training.epochs is 0; must be >= 1"),
        ("training.epochs=-3", "training.epochs is -3; must be >= 1"),
        ("training.iterations=0", "training.iterations is 0; must be >= 1"),
        ("training.batch_size=0", "training.batch_size is 0; must be >= 2"),
        ("training.warmup=-1", "training.warmup is -1; must be >= 0"),
        ("training.lr=nan", "training.lr is nan; must be finite and > 0"),
        ("training.lr=inf", "training.lr is inf; must be finite and > 0"),
        ("training.lr=-0.1", "training.lr is -0.1; must be finite and > 0"),
        ("training.lr=0", "training.lr is 0.0; must be finite and > 0"),
        ("training.warmup_factor=0", "training.warmup_factor is 0.0"),
        ("training.lr_drop_factor=nan", "training.lr_drop_factor is nan"),
        ("training.momentum=1.5", "training.momentum is 1.5; must be >= 0 and < 1"),
        ("training.momentum=nan", "training.momentum is nan"),
        ("training.weight_decay=-1", "training.weight_decay is -1.0"),
        ("training.weight_decay=inf", "training.weight_decay is inf"),
        ("training.decay_on=biases", "choose one of all, weights, all_but_gate_bias"),
        ("training.lr_drops=0.5,1.5", "training.lr_drops has 1.5"),
        ("network.width=0", "network.width is 0"),
        ("network.num_classes=1", "network.num_classes is 1; must be >= 2"),
        ("network.branch=three_layer", "choose one of one_layer, two_layer, bottleneck"),
        ("network.layout=svhn", "choose one of cifar, imagenet"),
        ("network.widening=C", "choose one of A, B, D"),
        ("network.normalisation=instance", "choose one of batch, group, layer, none"),
        ("network.activation=tanh", "choose one of relu, gelu, silu"),
        ("network.inner=0", "network.inner is 0.0; must be finite and > 0"),
        ("network.shortcut.start=nan", "shortcut.start is nan; must be finite"),
        ("network.shortcut.streams=0", "shortcut.streams is 0; must be >= 1"),
        ("network.shortcut.reduction=0", "shortcut.reduction is 0; must be >= 1"),
        ("network.widening_input=both", "choose one of activated, raw"),
        ("network.padding=before", "choose one of after, both"),
        ("network.stride_on=last", "choose one of first, middle"),
        ("network.shortcut.scale=nan", "shortcut.scale is nan; must be finite"),
        ("network.shortcut.bias=inf", "shortcut.bias is inf; must be finite"),
        ("network.shortcut.rate=1.5", "shortcut.rate is 1.5; must be >= 0 and < 1"),
        ("data.held_out=train", "choose one of test, validation"),
        ("seed=-1", "seed is -1; must be >= 0"),
        (f"seed={2**70}", f"seed is {2**70}; must be >= 0 and < 2**63"),
    ],
)
def test_value_out_of_range_is_refused_with_the_range(setting: str, answer: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings.override(PLAIN, [setting])
    assert answer in str(caught.value)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(SettingError, match=r"training\.nesterov needs training\.momentum > 0"):
        settings.override(PLAIN, ["training.nesterov=true", "training.momentum=0"])


def changed_data(key: str, value: Any) -> dict[str, Any]:
    """The data of PLAIN with one value replaced, or removed if it is `...`."""
    data = settings.to_data(PLAIN)
    *groups, name = key.split(".")
    at = data
    for group in groups:
        at = at[group]
    if value is ...:
        del at[name]
    else:
        at[name] = value
    return data


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("format", 3, "format 3, this cleanpath reads 1"),
        ("format", ..., "format None, this cleanpath reads 1"),
        ("sead", 3, "no setting 'sead'; did you mean seed"),
        ("training.epoch", 3, "no setting 'training.epoch'; did you mean training.epochs"),
        ("network.depth", ..., "network.depth is missing"),
        ("network", ..., "network is missing"),
        ("network", 3, "network is 3; a table of settings is needed"),
        ("network.depth", "20", "network.depth is '20'; int is needed"),
        ("network.depth", True, "network.depth is True; int is needed"),
        ("network.depth", 20.0, "network.depth is 20.0; int is needed"),
        ("network.widening_norm", 1, "network.widening_norm is 1; bool is needed"),
        ("training.lr", "0.1", "training.lr is '0.1'; float is needed"),
        ("training.lr", True, "training.lr is True; float is needed"),
        ("training.lr_drops", 0.5, "training.lr_drops is 0.5; a list is needed"),
        ("training.lr_drops", ["a"], "training.lr_drops is 'a'; float is needed"),
        ("training.epochs", 3, "give either epochs or iterations, and not both"),
        ("training.iterations", ..., "give either epochs or iterations, and not both"),
        ("training.lr", math.nan, "training.lr is nan"),
    ],
)
def test_wrong_data_is_refused_by_name(key: str, value: Any, answer: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings.from_data(changed_data(key, value), where="run.toml")
    assert answer in str(caught.value)


def test_data_may_hold_whole_numbers_where_floats_are_meant() -> None:
    assert settings.from_data(changed_data("training.lr", 1)).training.lr == 1.0


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        ("run.toml", b"format = 1\nseed = 1\nseed = 2\n", "line 3"),
        ("run.toml", b"format = 1\nseed 1\n", "line 2"),
        ("run.toml", b"format = 1\n[network]\ndepth = 2020-01-01\n", "network.depth is datetime.date"),
        ("run.toml", b"format = 1\n\xff", "is not UTF-8 (byte 0xff at 11)"),
        ("run.toml", b"#" * (settings.LARGEST_FILE + 1), "has 1.0 MB; the limit is 1 MB"),
        ("run.json", b"[1, 2]", "holds a list; a table of settings is needed"),
        ("run.json", b'{"format": 1,', "run.json: "),
        ("run.json", b"[" * 100_000, "run.json: "),
        ("run.toml", b"format = 1\nx = " + b"[" * 5_000, "run.toml: "),
    ],
    ids=["twice", "syntax", "a date", "encoding", "large", "list", "cut", "deep json", "deep toml"],
)
def test_file_that_is_no_experiment_is_refused(tmp_path: Path, name: str, content: bytes, answer: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        settings.read(path)
    assert answer in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("run.json", '{"seed": %s}'), ("run.toml", "seed = %s\n")])
def test_number_of_5000_digits_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content % ("9" * 5000))
    with pytest.raises(SettingError):
        settings.read(path)


def test_key_twice_in_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(CANONICAL.replace('"seed":0', '"seed":0,"seed":1'))
    with pytest.raises(SettingError):
        settings.read(path)


def test_file_that_is_a_folder_or_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"is a folder; a \.toml or \.json file is needed"):
        settings.read(tmp_path)
    with pytest.raises(SettingError, match="does not exist"):
        settings.read(tmp_path / "run.toml")


def test_differences_name_both_values_and_what_only_one_has() -> None:
    other = settings.override(PLAIN, ["training.epochs=3", "network.shortcut.scale=0.5"])
    assert settings.differences(PLAIN, other) == {
        "network.shortcut.scale": (None, 0.5),
        "training.epochs": (None, 3),
        "training.iterations": (100, None),
    }


def test_experiments_are_frozen_and_can_be_keys() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.seed = 1  # type: ignore[misc]
    assert len({PLAIN, dataclasses.replace(PLAIN), tiny()}) == 2
