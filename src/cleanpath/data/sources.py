"""The data sets by name."""

from collections.abc import Callable

from cleanpath.data.cifar import cifar10, cifar100
from cleanpath.data.digits import digits
from cleanpath.data.folder import folder
from cleanpath.data.imagenet import imagenet
from cleanpath.data.images import Images
from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Data

SOURCES: dict[str, Callable[[Data], Images]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
    "imagenet": imagenet,
}


def load(data: Data) -> Images:
    """The images that a setting names."""
    kind, _, _ = data.name.partition(":")
    if kind not in SOURCES:
        raise UnknownNameError("data set", data.name, SOURCES)
    return SOURCES[kind](data)
