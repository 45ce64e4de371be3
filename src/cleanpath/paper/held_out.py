"""How many images the errors of a data set are counted on: one of them is the least that two rows can differ by."""

from cleanpath.experiment import Data

TEST_IMAGES = {"digits": 500, "cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}
_VALIDATION_IMAGES = {"digits": 250, "cifar10": 5_000, "cifar100": 5_000}


def held_out_images(data: Data) -> int | None:
    """The images that a data set holds out; None where that is not known without looking at it."""
    counts = TEST_IMAGES if data.held_out == "test" else _VALIDATION_IMAGES
    return counts.get(data.name.partition(":")[0])
