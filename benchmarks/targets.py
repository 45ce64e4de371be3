"""What is claimed of speed and memory: of each figure what it is to be at least, and what is aimed at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Of a ratio ("times") the least; of a time, a share or a count the most."""

    what: str
    wanted: float
    aim: float | None
    unit: str = "times"

    def met(self, value: float) -> bool:
        """Whether a figure is what is wanted."""
        return value >= self.wanted if self.unit == "times" else value <= self.wanted

    def aim_met(self, value: float) -> bool:
        """Whether it is even what is aimed at."""
        return self.aim is not None and (value >= self.aim if self.unit == "times" else value <= self.aim)


TARGETS = {
    "train-164": Target("training of ResNet-164, beside the plain network", 1.9, 2.5),
    "train-110": Target("training of ResNet-110, beside the plain network", 1.4, 1.7),
    "imagenet": Target("training of the pre-activation ResNet-50, 16 of 224×224, beside timm's resnetv2_50", 1.2, 1.5),
    "grid": Target("a grid of small cells on all cores, beside one after another with all threads", 1.4, 1.7),
    "memory-164": Target("ResNet-164, memory above the import", 0.65, 0.5, "of the plain network's"),
    "memory-110": Target("ResNet-110, memory above the import", 0.65, 0.5, "of the plain network's"),
    "recompute-164": Target("ResNet-164 with units computed again, memory", 0.35, 0.2, "of the plain network's"),
    "recompute-time-164": Target("ResNet-164 with units computed again, time", 1.45, None, "of the plain network's"),
    "recompute-step-164": Target("ResNet-164 with units computed again, time", 1.45, None, "of our own step's without"),
    "recompute-110": Target("ResNet-110 with units computed again, memory", 0.35, 0.2, "of the plain network's"),
    "recompute-time-110": Target("ResNet-110 with units computed again, time", 1.45, None, "of the plain network's"),
    "recompute-step-110": Target("ResNet-110 with units computed again, time", 1.45, None, "of our own step's without"),
    "test-1": Target("ResNet-110 tested, an image at a time, beside the plain network", 1.3, 2.0),
    "test-256": Target("ResNet-110 tested, 256 images at a time, beside the plain network", 1.3, 2.0),
    "tables": Target("Table 1 and the first column of Table 2, scale quick, at depth 110", 6.0, 3.0, "min"),
    "audit": Target("an audit, the median of the sweep over the catalogues", 3.0, 2.0, "steps"),
    "audit-few": Target("an audit, the median of a few networks", 3.0, 2.0, "steps"),
    "monitor": Target("the monitor at every=100", 3.0, 1.0, "%"),
    "augmentation": Target("CIFAR's augmentation, beside what training ResNet-20 takes", 20.0, 50.0),
    "folders": Target("photographs of a folder, beside torchvision's own loader", 1.0, 1.5),
    "help": Target("`cleanpath --help`", 0.4, 0.2, "s"),
    "import": Target("`import cleanpath`", 0.3, 0.1, "s"),
    "first-step": Target("the first training step after the command", 8.0, 6.0, "s"),
    "records": Target("a run's record, of an epoch of ResNet-20", 1.0, 0.3, "%"),
    "gpu-110": Target("ResNet-110 on a GPU, beside the plain network in eager fp32", 3.0, 6.0),
    "gpu-164": Target("ResNet-164 on a GPU, beside the plain network in eager fp32", 3.0, 6.0),
    "plain": Target("the plain ResNet-164, beside timm's blocks of the same shape", 0.95, None),
}
"""By the name that a script gives its figure."""
