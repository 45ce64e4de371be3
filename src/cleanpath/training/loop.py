"""The training loop for classification: plain PyTorch, read from top to bottom."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_

from cleanpath import devices
from cleanpath.data.images import Images, batch
from cleanpath.data.stream import batches
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Training
from cleanpath.training.evaluation import tested
from cleanpath.training.fused import PLAIN, Kernels
from cleanpath.training.gradients import Gradients
from cleanpath.training.keeper import Keeper, NoKeeper
from cleanpath.training.losses import Batch, Loss, Mixing
from cleanpath.training.passes import Passes
from cleanpath.training.progress import Callback, Progress
from cleanpath.training.ranks import ALONE, Ranks
from cleanpath.training.schedule import learning_rate, length
from cleanpath.training.state import Course, Learner

# Lines of training loss in a metrics file, at the most: a long run writes means over several iterations.
MOST_LINES = 2000


def train(  # noqa: PLR0913 (keyword options of the one loop)
    network: nn.Module,
    images: Images,
    training: Training,
    *,
    seed: int,
    callbacks: Sequence[Callback] = (),
    keeper: Keeper | None = None,
    loaders: int = 0,
    ranks: Ranks = ALONE,
    kernels: Kernels = PLAIN,
) -> dict[str, float | int]:
    """Train `network` in place and where it is; the last iteration's errors and losses, in percent and nats.

    `callbacks` are told one line per iteration (or mean over several) and one per epoch; all but the `seconds` in them
    is a function of network, images, training, seed and number of threads, however often the `keeper` stopped the run
    and it went on. Dropout draws from torch's global generator. Several `ranks` each take a share of every batch, and
    all come to the same weights: those of one process, to float rounding, but for dropout.

    Raises `NonFiniteError` before the optimizer step in which a loss or a gradient is not finite.
    """
    keeper, device = keeper or NoKeeper(), devices.of(network)
    learner, mixing = Learner(network, training), Mixing(training, seed, ranks)
    passes, loss_of = Passes(network, training, ranks, kernels=kernels), Loss(training, images.train.labels, ranks)
    gradients, given, images = Gradients(passes, loss_of, training), images, images.on(device)
    drawn_from = given if loaders else images  # processes that prepare batches cannot use a GPU
    test = partial(tested, learner, images, training, seed=seed, keeper=keeper, ranks=ranks, kernels=kernels)
    count, size = len(images.train.labels), training.batch_size
    total = length(training, count)
    course, every = Course(), math.ceil(total / MOST_LINES)
    if (kept := keeper.restored()) is not None:
        course, tensors = kept
        learner.load(tensors)
    began, before, first = time.monotonic() - course.seconds, course.seconds, course.iteration
    for each in callbacks:
        each.began(network, first)
    loss, steps = math.nan, {"start": first + 1, "end": total}
    stream = batches(drawn_from.train, size, seed=seed, **steps, loaders=loaders, places=mixing.places)
    network.train()
    with (
        devices.exact(device, tf32=training.precision == "tf32", deterministic=training.deterministic),
        _post_mortem(keeper, learner, images, training, seed),
    ):
        while True:
            if not course.evaluated and (found := test(images.held_out, "test loss", course.iteration)) is not None:
                course.error, course.test_loss, course.evaluated = found.error, found.loss, True
                line = {"iteration": course.iteration, "epoch": course.iteration * size / count}
                _tell(callbacks, {**line, "error": found.error, "test_loss": found.loss, "seconds": _since(began)})
            if course.iteration > first:
                speed = (course.iteration - first) * size / max(_since(began) - before, 1e-9)
                told = Progress(course.iteration, total, loss=loss, images_per_second=speed, error=course.error)
                for each in callbacks:
                    each.stepped(told)
            if keeper.due:
                course.seconds = _since(began)
                keeper.save(course, learner.tensors())
            if course.iteration == total:
                break
            iteration = course.iteration + 1
            lr = learning_rate(training, iteration, total)
            x, y = (each.to(device) for each in next(stream))
            drawn = mixing(x, y, iteration)
            loss, norm = _step(learner, gradients, drawn, iteration, lr)

            course.iteration = iteration
            course.losses.append(loss)
            if iteration % every == 0 or iteration == total:
                mean = sum(course.losses) / len(course.losses)
                line = {"iteration": iteration, "lr": lr, "loss": mean, "gradient_norm": norm}
                _tell(callbacks, {**line, "seconds": _since(began)})
                course.losses.clear()
            course.evaluated = iteration * size // count == (iteration - 1) * size // count and iteration < total
        while (last := test(images.train, "training loss in eval mode", total)) is None:
            keeper.save(course, learner.tensors())
    learner.settle(last.network)
    errors = {"error": course.error, "test_loss": course.test_loss, "train_error": last.error, "train_loss": last.loss}
    return {"iterations": total, **errors, "seconds": _since(began)}


def _step(learner: Learner, gradients: Gradients, drawn: Batch, iteration: int, lr: float) -> tuple[float, float]:
    """One step of the optimizer; the loss before it and the norm of its gradient."""
    for group in learner.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    loss, norm = gradients(drawn, iteration)
    if gradients.clip is not None:
        clip_grads_with_norm_(learner.network.parameters(), gradients.clip, torch.tensor(norm))
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    return loss, norm


@contextmanager
def _post_mortem(keeper: Keeper, learner: Learner, images: Images, training: Training, seed: int) -> Iterator[None]:
    """Have the weights and the images kept with which a value was not finite."""
    try:
        yield
    except NonFiniteError as error:
        count = len(images.train.labels)
        indices, epochs = batch(count, training.batch_size, seed=seed, iteration=error.iteration)
        keeper.diverged(error, learner.tensors(), indices, epochs)
        raise


def _tell(callbacks: Sequence[Callback], line: Mapping[str, float | int]) -> None:
    for each in callbacks:
        each.measured(line)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
