"""Recipes: how a network is trained, as data; a function each, whose docstring is what `cleanpath list recipes` tells.

`cleanpath train preresnet110 --data cifar10 --recipe paper`; `--set` replaces anything in it. Never imports torch.
"""

from collections.abc import Callable

from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Training


def default() -> Training:
    """20 epochs at a small batch, for a first look; no warm-up, which pre-activation networks do not need."""
    return Training(epochs=20, batch_size=64, lr=0.05)


def paper() -> Training:
    """The paper's on CIFAR (its appendix): 64,000 iterations of 128 at 0.1, the first 400 at 0.01, two drops.

    Momentum in Caffe's form, BN over 64 images (two cards), decay on all parameters. The paper reports 6.37% with
    preresnet110 and 5.46% with preresnet164 on CIFAR-10 (median of 5).

    Deviations: that decay is on all parameters is the authors' Torch code; the paper does not say. It says nothing of
    BN's groups either; two cards of 64 images follow from its hardware.
    """
    return Training(iterations=64_000, optimizer="caffe_sgd", warmup=400, bn_group=64)


def first_paper() -> Training:
    """The first paper's on CIFAR (its Section 4.2): as `paper`, with decay on weights of layers only.

    It reports 6.43% with resnet110 on CIFAR-10 (best of 5; 6.61 ± 0.16).

    Deviations: the end of the warm-up is the paper's 400 iterations, not "training error below 80%".
    """
    return Training(iterations=64_000, optimizer="caffe_sgd", warmup=400, bn_group=64, decay_on="weights")


def authors_code() -> Training:
    """What the authors' Torch code does: Nesterov, no warm-up, decay on everything, 164 epochs, drops after 80 and 121.

    Its README reports 4.62% with preresnet1001 at batch 64, 4.92% at 128.

    Deviations: pixels less their mean, as in the paper; the code also divides by a standard deviation per channel.
    """
    return Training(epochs=164, nesterov=True, lr_drops=(80 / 164, 121 / 164))


def modern() -> Training:
    """For your own images: a cosine after a linear rise, decay on weights only, smoothed labels, averaged weights."""
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
    "modern": modern,
}


def recipe(name: str) -> Training:
    """A recipe by name. Raises `UnknownNameError` with the nearest."""
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES, see="cleanpath list recipes")
    return RECIPES[name]()
