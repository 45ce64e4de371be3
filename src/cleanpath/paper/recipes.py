"""Recipes: how a network is trained, as data; a function each, whose docstring is what `cleanpath list recipes` tells.

`cleanpath train preresnet110 --data cifar10 --recipe paper`; `--set` replaces anything in it. Never imports torch.
"""

from collections.abc import Callable

from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Training


def default() -> Training:
    """20 epochs at a small batch, for a first look; no warm-up, which pre-activation networks do not need.

    `cleanpath train preresnet20 --data cifar10`. JPEG copies of CIFAR-10, batch 128, rate 0.1, 20 epochs: 16.5%, 38
    minutes on one of two shared cores of an AMD EPYC with AVX-512 (results/cifar10.jsonl).
    """
    return Training(epochs=20, batch_size=64, lr=0.05)


def paper() -> Training:
    """The paper's on CIFAR (its appendix): 64,000 iterations of 128 at 0.1, the first 400 at 0.01, two drops.

    `cleanpath train preresnet110 --data cifar10 --recipe paper`: 6.37% in the paper, preresnet164 5.46% (Table 2,
    medians of 5). preresnet1001 takes about 27 hours on two cards of that time (Section 5). Momentum in Caffe's form,
    BN over 64 images (two cards), decay on all parameters.

    Deviations: that decay is on all parameters is the authors' Torch code; the paper does not say. It says nothing of
    BN's groups either; two cards of 64 images follow from its hardware.
    """
    return Training(iterations=64_000, optimizer="caffe_sgd", warmup=400, bn_group=64)


def first_paper() -> Training:
    """The first paper's on CIFAR (its Section 4.2): as `paper`, with decay on weights of layers only.

    `cleanpath train resnet110 --data cifar10 --recipe first_paper`: 6.43% in the first paper (best of 5; 6.61 ± 0.16).

    Deviations: the end of the warm-up is the paper's 400 iterations, not "training error below 80%".
    """
    return Training(iterations=64_000, optimizer="caffe_sgd", warmup=400, bn_group=64, decay_on="weights")


def authors_code() -> Training:
    """What the authors' Torch code does: Nesterov, no warm-up, decay on everything, 164 epochs, drops after 80 and 121.

    `cleanpath train preresnet1001 --data cifar10 --recipe authors_code`: 4.92% in its README, 4.62% at a batch of 64.

    Deviations: pixels less their mean, as in the paper; the code also divides by a standard deviation per channel.
    """
    return Training(epochs=164, nesterov=True, lr_drops=(80 / 164, 121 / 164))


def paper_imagenet() -> Training:
    """The paper's on ImageNet (its appendix): batches of 256 at 0.1, no warm-up, drops after 30 and 60 epochs.

    `cleanpath train preresnet200 --data imagenet:PATH --recipe paper_imagenet`, then `cleanpath evaluate RUN --view
    large`: 20.7% and top-5 5.3% in the paper (Table 5), after about three weeks on eight cards of that time. BN over 32
    images (eight cards), momentum in Caffe's form.

    Deviations: the end after 90 epochs is that of the authors' code; the paper does not say.
    """
    return Training(epochs=90, batch_size=256, optimizer="caffe_sgd", bn_group=32, lr_drops=(30 / 90, 60 / 90))


def first_paper_imagenet() -> Training:
    """The first paper's on ImageNet (its Section 3.4): batches of 256 at 0.1, three drops, 600,000 iterations.

    `cleanpath train resnet50 --data imagenet:PATH --recipe first_paper_imagenet`: 24.7% and top-5 7.8% with one crop
    (README of its Caffe models); `--view ten` 22.85% and 6.71% (its Table 3).

    Deviations: drops after 30, 60 and 90 of 120 epochs, where the paper waited for plateaus.
    """
    return Training(
        iterations=600_000,
        batch_size=256,
        optimizer="caffe_sgd",
        bn_group=32,
        decay_on="weights",
        lr_drops=(0.25, 0.5, 0.75),
    )


def authors_code_imagenet() -> Training:
    """What the authors' ImageNet code does: Nesterov, 90 epochs of batches of 256, drops after 30 and 60.

    `cleanpath train preresnet200 --data imagenet:PATH --recipe authors_code_imagenet --set data.augment=scale_aspect`:
    20.1% and top-5 4.8% with `--view large` (the paper's Table 5, last row of its own).
    """
    return Training(epochs=90, batch_size=256, nesterov=True, bn_group=32, lr_drops=(30 / 90, 60 / 90))


def modern() -> Training:
    """For your own images: a cosine after a linear rise, decay on weights only, smoothed labels, averaged weights.

    `cleanpath train preresnet20 --data folder:photos --recipe modern`; how good it is depends on the images, and
    `--dry-run` measures how long it takes.
    """
    return Training(
        epochs=60,
        schedule="cosine",
        warmup=200,
        warmup_factor=0.01,
        warmup_shape="linear",
        nesterov=True,
        weight_decay=5e-4,
        decay_on="weights",
        label_smoothing=0.1,
        average=0.998,
    )


RECIPES: dict[str, Callable[[], Training]] = {
    "default": default,
    "paper": paper,
    "first_paper": first_paper,
    "authors_code": authors_code,
    "paper_imagenet": paper_imagenet,
    "first_paper_imagenet": first_paper_imagenet,
    "authors_code_imagenet": authors_code_imagenet,
    "modern": modern,
}


def recipe(name: str) -> Training:
    """A recipe by name. Raises `UnknownNameError` with the nearest."""
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES, see="cleanpath list recipes")
    return RECIPES[name]()
