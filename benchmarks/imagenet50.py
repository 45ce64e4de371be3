"""A training step of the pre-activation ResNet-50 for ImageNet, beside timm's resnetv2_50 as it is shipped.

    python -m benchmarks.imagenet50

Sixteen images of 224×224, random, all cores, fp32, SGD with momentum on both sides: forward, backward, step. Ours is a
training's own step (kernels chosen by themselves); timm's is in torch's usual layout, as timm builds it.
"""

import timm
import torch
from torch.nn import functional

import cleanpath
from benchmarks.figures import Figure, alternated, ratio, tell
from cleanpath import devices
from cleanpath.experiment import Training
from cleanpath.grid.local import cores
from cleanpath.training.fused import PLAIN, kernels
from cleanpath.training.gradients import Gradients
from cleanpath.training.loop import _step
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.passes import Passes
from cleanpath.training.state import Learner

ROUNDS, BATCH, SIDE = 5, 16, 224


def measure() -> list[Figure]:
    """One figure."""
    torch.set_num_threads(cores())
    training = Training(epochs=1, batch_size=BATCH)
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(1000, (BATCH,))
    ours = cleanpath.build("preresnet50").to(memory_format=torch.channels_last).train()
    path = kernels("auto", training, devices.CPU, threads=cores())
    gradients = Gradients(Passes(ours, training, fused=path != PLAIN), Loss(training, labels), training)
    learner = Learner(ours, training)
    batch = Batch(images.contiguous(memory_format=torch.channels_last), labels, labels, 1.0)
    theirs = timm.create_model("resnetv2_50", num_classes=1000).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        _step(learner, gradients, batch, 1, 0.01)

    def shipped() -> None:
        functional.cross_entropy(theirs(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    took = alternated({"ours": step, "timm": shipped}, ROUNDS)
    return [ratio("a step of the pre-activation ResNet-50, 224×224, beside timm's", took["ours"], took["timm"], 1.2)]


if __name__ == "__main__":
    tell(measure, __doc__)
