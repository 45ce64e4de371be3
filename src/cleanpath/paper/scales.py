"""Scales: what the paper's networks, data and training are run as, and what can therefore not be concluded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Data, Network, Training
from cleanpath.nn import catalog
from cleanpath.paper import recipes
from cleanpath.paper.parts import Part
from cleanpath.paper.questions import BIASES

# Of the paper's networks: their names in the catalog. `original` stands for the unit, which a row may change.
PAPER_NETWORKS = {
    **{f"ResNet-{depth}": f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)},
    "ResNet-110(1layer)": "cifar-resnet110-1layer",
    "ResNet-164": "resnet164",
    "ResNet-1001": "resnet1001",
    **{f"ResNet-{depth}": f"resnet{depth}" for depth in (34, 101, 152, 200)},
}
_CLASSES = {"CIFAR-10": 10, "CIFAR-100": 100, "ImageNet": 1000}


@dataclass(frozen=True)
class Remark:
    """A sentence on what differs from the paper, or on what cannot be concluded for it."""

    text: str
    letter: str = ""
    """With which the cells are marked that it is said of (`deviations.LETTERS`); empty where none are."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the cells of all tables are run as: each network, data set and way of training of the paper, by its words.

    The key of a network or of a way of training may name the table that it is for ("depth/ResNet-110"). What is not
    there is `missing` in a table, with the reason that `reasons` gives for the data set, the way of training, or the
    cell "table/row/column".
    """

    name: str
    about: str
    seeds: int
    """How many, unless the user says."""
    seeds_of_claims: int = 10
    """How many the cells of claims have with `--seeds claims`: as few as can confirm one of up to 51."""
    data: Mapping[str, Data]
    channels: int
    networks: Mapping[str, str]
    gates_everywhere: bool = False
    """Whether gates stand also where the width changes, as the caption of Table 1 says."""
    trainings: Mapping[str, Training]
    """By the name of the paper's way; `""` is that of its CIFAR tables."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[Remark, ...]
    """What differs from the paper for all tables, and what cannot be concluded."""
    notes: Mapping[str, tuple[Remark, ...]] = field(default_factory=dict)
    """The same for one table."""
    undecidable: Mapping[str, str] = field(default_factory=dict)
    """By claim, why runs at this scale are no evidence for or against it."""

    def network(self, table: str, part: Part) -> Network:
        """The network of a cell."""
        name = self._name(table, part.network)
        assert name is not None, f"{part.network} is not at scale {self.name}; `missing` says so"
        given = {"in_channels": self.channels, "num_classes": _CLASSES[part.data], **part.choice}
        network = catalog.network(name, **given)
        if self.gates_everywhere:
            network = replace(network, shortcut=replace(network.shortcut, gate_widening=True))
        return network

    def data_of(self, part: Part) -> Data:
        """The data set of a cell, augmented as its row says where the paper's photographs are."""
        data = self.data[part.data]
        return replace(data, augment=part.augment) if part.augment and data.name.startswith("imagenet:") else data

    def training(self, table: str, part: Part) -> Training:
        """How a cell is trained."""
        return replace(self._training(table, part), **part.training)  # type: ignore[arg-type]

    def missing(self, table: str, row: Part, column: Part, part: Part) -> str:
        """Why there is no such cell at this scale; empty if there is one."""
        keys = (f"{table}/{row.key}/{column.key}", part.data, part.recipe, f"{table}/{part.network}", part.network)
        said = next((self.reasons[key] for key in keys if key in self.reasons), "")
        there = part.data in self.data and part.recipe in self.trainings and self._name(table, part.network)
        assert said or there, f"scale {self.name} has neither {keys} nor a reason why not"
        return said

    def translations(self, table: str, parts: Iterable[Part]) -> tuple[str, ...]:
        """Which network stands for which of a table's, in words; of those that differ."""
        found = [self._translation(table, key) for key in dict.fromkeys(part.network for part in parts)]
        told = [f"{layers} ({units})" for layers, units in found if layers]
        return (f"Networks of {table}: {'; '.join(told)}.",) if told else ()

    def stand_ins(self, cells: Iterable[tuple[str, Part]]) -> str:
        """What stands for the paper's networks and data in cells, each with its table; empty where nothing does."""
        cells = list(cells)
        layers = dict.fromkeys(self._translation(table, part.network)[0] for table, part in cells)
        data = {part.data: self.data[part.data].name for _, part in cells if part.data in self.data}
        other = [f"{here} for {there}" for there, here in data.items() if here != PAPER.data[there].name]
        return ", ".join([*filter(None, layers), *other])

    def _translation(self, table: str, network: str) -> tuple[str, str]:
        """The layers that stand for a network of the paper's, and the units; nothing if it is the network itself."""
        name = self._name(table, network)
        if name is None or name == PAPER_NETWORKS[network]:
            return "", ""
        here, there = (catalog.network(each) for each in (name, PAPER_NETWORKS[network]))
        units = [sum(catalog.units_per_stage(each)) for each in (here, there)]
        return f"{here.depth} layers for {network}", f"{units[0]} units instead of {units[1]}"

    def _training(self, table: str, part: Part) -> Training:
        return self.trainings.get(f"{table}/{part.recipe}", self.trainings[part.recipe])

    def _name(self, table: str, network: str) -> str | None:
        return self.networks.get(f"{table}/{network}", self.networks.get(network))


_GATES = Remark(
    "Gates stand in the units that keep the width, where the caption of Table 1 says all units: chosen by result on a "
    "validation split. With gates in all units, exclusive gating at −6 and −7 fails at scale quick "
    "(docs/quick-scale.md).",
    letter="g",
)
_GATES_EVERYWHERE = Remark(
    "Gates stand in all units, as the caption of Table 1 says; where the width changes they have the unit's stride: "
    "x and F(x) differ in shape there, and the paper does not say how they are gated."
)
_CONTROL = Remark(
    "Not in the paper: shortcut 1 with F 0.5, a control. Where h stays the identity, equation (8) has no product."
)
_MEASURED = Remark(
    "Responses and sums are those of 64 held-out images, BN with the statistics of these images: at the end of the run "
    "unless said otherwise."
)
_NOTES = {
    "table1": (_GATES, _CONTROL),
    "gate_bias": (_GATES, Remark("The paper prints 0 to −5 as one row that fails, and no result for −8 to −10.")),
    "figure3": (_GATES,),
    "responses": (_MEASURED, Remark("The first paper prints curves, no numbers (its Figure 7).")),
    "truncation": (_MEASURED, Remark("The paper tells of monitored responses and prints no numbers (Section 4.2).")),
    "beyond": (
        Remark("None of these rows is in the paper; what each is, stands in its note with the reference."),
        _GATES,
    ),
}
_ONE_TRAINING = Remark(
    "One way of training for all tables, where the first paper decays only the weights of layers.", letter="w"
)

# Claims that order rows which all train, by test error or by what is left of the training loss.
_OF_ORDER = ("H1c", "H3b", "H5a", "H6a", "H6b", "H7c", "H14b", "H15b")
# Claims that some networks overfit and others do not.
_OF_OVERFITTING = (*(f"H9{letter}" for letter in "abcdefgh"), "H10b", "H13a", "H13b")

_QUICK = Training(iterations=300, batch_size=64, lr=0.05, warmup=75)
# How this setting was chosen, on a validation split and among which others: docs/quick-scale.md.
QUICK = Scale(
    name="quick",
    about="the digits of scikit-learn: what can be trained and what cannot, in minutes on two cores",
    seeds=3,
    data={"CIFAR-10": Data(name="digits")},
    channels=1,
    networks={
        "ResNet-20": "cifar-resnet14-2layer",
        "ResNet-32": "resnet20",
        "ResNet-44": "resnet26",
        "ResNet-56": "resnet32",
        "ResNet-110": "resnet56",
        "ResNet-110(1layer)": "cifar-resnet29-1layer",
        "ResNet-164": "cifar-resnet83-bottleneck",
        "ResNet-1001": "cifar-resnet128-bottleneck",
        "ResNet-1202": "resnet74",
        "gate_bias/ResNet-110": "resnet20",
        "beyond/ResNet-110": "resnet20",
        "beyond/ResNet-164": "cifar-resnet29-bottleneck",
    },
    trainings={
        "": _QUICK,
        "first_paper": _QUICK,
        "beyond/": replace(_QUICK, iterations=150, warmup=40),
        "gate_bias/": replace(_QUICK, iterations=150, warmup=40),
    },
    reasons={
        "CIFAR-100": "the digits have ten classes: nothing small stands for CIFAR-100",
        "ImageNet": "nothing small stands for ImageNet",
        "batch_of_64": "the paper's gain by the smaller batch, 0.3%, is no more than two of the 500 test images",
        **{f"gate_bias/shortcut_only_gating_{bias}/ResNet-110": "left out for time" for bias in BIASES},
    },
    deviations=(
        Remark(
            "Data: the digits of scikit-learn (8×8 pixels, one channel, 1,297 to train on and 500 to test) instead of "
            "CIFAR-10, without augmentation.",
            letter="d",
        ),
        Remark(
            "Training: 300 iterations of 64 images instead of 64,000 of 128, with lr 0.05 instead of 0.1 and a warm-up "
            "of a quarter of the run, since the original unit starts slowly. The early training loss is that of 47 "
            "iterations behind this warm-up, where the paper's first 10,000 have 400 of it.",
            letter="t",
        ),
        _ONE_TRAINING,
        Remark(
            "It shows which rows can be trained and which cannot. It cannot show the order of those that can: one of "
            "500 images is 0.2%, and exclusive gating at −6 and −7, which suffers in the paper, does not here. A row "
            "that suffers in the paper may end above the limit of 20% in so short a run."
        ),
    ),
    notes={
        **_NOTES,
        **{
            table: (*_NOTES[table], Remark("150 iterations, for time.", letter="t"))
            for table in ("beyond", "gate_bias")
        },
    },
    undecidable={
        **dict.fromkeys(
            ("H1a", "H1b", *_OF_ORDER),
            "it cannot order rows that train: gating at −6 and −7, which suffers in the paper, does not here",
        ),
        **dict.fromkeys(_OF_OVERFITTING, "300 iterations are too few to overfit"),
    },
)

_LAPTOP = Training(iterations=2000, batch_size=128, lr=0.1, warmup=100)
LAPTOP = Scale(
    name="laptop",
    about="CIFAR-10 with small networks and few iterations: hours on two cores",
    seeds=3,
    data={"CIFAR-10": Data(name="cifar10")},
    channels=3,
    networks={
        "ResNet-110": "resnet32",
        "ResNet-110(1layer)": "cifar-resnet17-1layer",
        "ResNet-164": "cifar-resnet47-bottleneck",
        "ResNet-1001": "cifar-resnet110-bottleneck",
        "ResNet-1202": "resnet74",
        **{
            f"{table}/ResNet-{depth}": f"resnet{here}" if here != 14 else "cifar-resnet14-2layer"
            for table in ("depth", "responses")
            for depth, here in ((20, 14), (32, 20), (44, 26), (56, 32), (110, 56), (1202, 74))
        },
        "shortcuts/ResNet-32": "resnet20",
        "shortcuts/ResNet-110": "resnet56",
        "gate_bias/ResNet-110": "resnet20",
        "beyond/ResNet-110": "resnet20",
        "beyond/ResNet-164": "cifar-resnet29-bottleneck",
    },
    trainings={
        "": _LAPTOP,
        "first_paper": _LAPTOP,
        "beyond/": replace(_LAPTOP, iterations=1500),
        # As many images in smaller batches.
        "batch_of_64": replace(_LAPTOP, iterations=4000, batch_size=64, warmup=200),
    },
    reasons={
        "CIFAR-100": "CIFAR-10 alone fills the hours of this scale",
        "ImageNet": "nothing small stands for ImageNet",
        **{f"gate_bias/shortcut_only_gating_{bias}/ResNet-110": "left out for time" for bias in BIASES if bias % 2},
    },
    deviations=(
        Remark("Data: CIFAR-10, as in the paper."),
        Remark(
            "Training: 2,000 iterations of 128 instead of 64,000, a warm-up of 100 instead of 400, drops of the rate "
            "at the same fractions of the run; momentum as torch has it, BN over the whole batch.",
            letter="t",
        ),
        Remark(
            "After a thirtieth of the training no error is near the paper's. It can show which rows train at all and "
            "which start slowly; it cannot show final errors, nor differences that only great depth or long training "
            "bring."
        ),
        _ONE_TRAINING,
    ),
    notes={**_NOTES, "beyond": (*_NOTES["beyond"], Remark("1,500 iterations, for time.", letter="t"))},
    undecidable={
        **dict.fromkeys(("H1a", *_OF_ORDER), "its errors and losses are not final after a thirtieth of the training"),
        **dict.fromkeys(_OF_OVERFITTING, "a thirtieth of the training is too little to overfit"),
        "H15a": "110 layers in place of 1001 are too few for what only great depth brings",
    },
)

PAPER = Scale(
    name="paper",
    about="the paper's own protocol: GPU-days to GPU-years",
    seeds=5,
    data={
        "CIFAR-10": Data(name="cifar10"),
        "CIFAR-100": Data(name="cifar100"),
        "ImageNet": Data(name="imagenet:data/imagenet"),
    },
    channels=3,
    networks=PAPER_NETWORKS,
    gates_everywhere=True,
    trainings={
        "": recipes.paper(),
        "first_paper": recipes.first_paper(),
        "paper_imagenet": recipes.paper_imagenet(),
        "first_paper_imagenet": recipes.first_paper_imagenet(),
        "authors_code_imagenet": recipes.authors_code_imagenet(),
        # The Torch code's command for ResNet-1001: 200 epochs of 64, 32 a card.
        "batch_of_64": replace(
            recipes.authors_code(), epochs=200, batch_size=64, bn_group=32, lr_drops=(80 / 200, 121 / 200)
        ),
    },
    deviations=(
        Remark("Protocol: the paper's (its appendix), the first paper's for its own; the last iteration is reported."),
        Remark(
            "BN takes its statistics over groups of 64 images (two cards of a batch of 128), of 32 on ImageNet (eight "
            "cards), in one process."
        ),
        Remark("ImageNet is looked for in data/imagenet; --set data.name=imagenet:PATH names another, for one table."),
        Remark("The paper does not say which BN statistics its tests use, nor whether the last epoch is reported."),
    ),
    notes={
        table: tuple(_GATES_EVERYWHERE if note == _GATES else note for note in notes) for table, notes in _NOTES.items()
    },
)

SCALES = {scale.name: scale for scale in (QUICK, LAPTOP, PAPER)}


def scale_of(name: str) -> Scale:
    """The scale of that name."""
    if name not in SCALES:
        raise UnknownNameError("scale", name, SCALES)
    return SCALES[name]
