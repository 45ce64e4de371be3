"""The training loop for classification: plain PyTorch, read from top to bottom."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cleanpath.data.images import Images, batch
from cleanpath.data.stream import batches
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Training
from cleanpath.training.evaluation import tested
from cleanpath.training.keeper import Keeper, NoKeeper
from cleanpath.training.losses import Batch, Loss, Mixing
from cleanpath.training.nonfinite import first_non_finite
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
) -> dict[str, float | int]:
    """Train `network` in place; the last iteration's errors and losses, in percent and nats.

    `callbacks` are told one line per iteration (or mean over several) and one per epoch; all but the `seconds` in them
    is a function of network, images, training, seed and number of threads, however often the `keeper` stopped the run
    and it went on. Dropout draws from torch's global generator. Several `ranks` each take a share of every batch, and
    all come to the same weights: those of one process, to float rounding, but for dropout.

    Raises `NonFiniteError` before the optimizer step in which a loss or a gradient is not finite.
    """
    keeper = keeper or NoKeeper()
    learner, loss_of = Learner(network, training), Loss(training, images.train.labels, ranks)
    mixing, passes = Mixing(training, seed, ranks), Passes(network, training, ranks)
    test = partial(tested, learner, images, training, seed=seed, keeper=keeper, ranks=ranks)
    count, size = len(images.train.labels), training.batch_size
    total = length(training, count)
    every = math.ceil(total / MOST_LINES)
    course = Course()
    if (kept := keeper.restored()) is not None:
        course, tensors = kept
        learner.load(tensors)
    began, before, first = time.monotonic() - course.seconds, course.seconds, course.iteration
    for each in callbacks:
        each.began(network, first)
    loss = math.nan
    steps = {"start": first + 1, "end": total}
    stream = batches(images.train, size, seed=seed, **steps, loaders=loaders, places=mixing.places)
    network.train()
    with _post_mortem(keeper, learner, images, training, seed):
        while True:
            if not course.evaluated and (found := test(images.held_out, "test loss", course.iteration)) is not None:
                course.error, course.test_loss, course.evaluated = found.error, found.loss, True
                line = {"iteration": course.iteration, "epoch": course.iteration * size / count}
                _tell(callbacks, {**line, "error": found.error, "test_loss": found.loss, "seconds": _since(began)})
            if course.iteration > first:
                speed = (course.iteration - first) * size / max(_since(began) - before, 1e-9)
                progress = Progress(course.iteration, total, loss=loss, images_per_second=speed, error=course.error)
                for each in callbacks:
                    each.stepped(progress)
            if keeper.due:
                course.seconds = _since(began)
                keeper.save(course, learner.tensors())
            if course.iteration == total:
                break
            iteration = course.iteration + 1
            lr = learning_rate(training, iteration, total)
            drawn = mixing(*next(stream), iteration)
            loss, norm = _step(learner, passes, drawn, loss_of, iteration, lr)

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


def _step(
    learner: Learner, passes: Passes, drawn: Batch, loss_of: Loss, iteration: int, lr: float
) -> tuple[float, float]:
    """One step of the optimizer; the loss before it and the norm of its gradient."""
    for group in learner.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    with passes():
        loss, norm = _gradients(passes, drawn, loss_of, iteration)
    if passes.clip is not None:
        clip_grads_with_norm_(learner.network.parameters(), passes.clip, torch.tensor(norm))
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    return loss, norm


def _gradients(passes: Passes, drawn: Batch, loss_of: Loss, iteration: int) -> tuple[float, float]:
    """Loss and gradient norm of one batch; the gradients are left in the parameters."""
    loss, norm, ranks, parts = 0.0, math.nan, passes.ranks, passes.parts
    pieces = zip(*(t.chunk(parts) for t in (drawn.images, drawn.labels, drawn.mixed_in)), strict=True)
    for number, (images, labels, mixed_in) in enumerate(pieces, start=1):
        random_state = torch.get_rng_state()
        of_logits = partial(loss_of, labels=labels, mixed_in=mixed_in, share=drawn.share)
        tensor = of_logits(passes.forward(images, last=number == parts))
        loss += ranks.mean(tensor.item())
        if math.isfinite(loss):
            passes.backward(tensor)
            norm = float(get_total_norm([p.grad for p in passes.network.parameters() if p.grad is not None]))
        # Before the last micro-batch each rank has a norm of its own.
        if ranks.any(not (math.isfinite(loss) and math.isfinite(norm))):
            torch.set_rng_state(random_state)
            quantity, value = ("loss", loss)
            if math.isfinite(loss):
                quantity, value = "gradient norm", next(one for one in ranks.gathered(norm) if not math.isfinite(one))
            with passes.plain():
                where = first_non_finite(passes.network, images, of_logits, ranks)
            raise NonFiniteError(quantity, value, iteration=iteration, where=where)
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
