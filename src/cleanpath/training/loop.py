"""The training loop for classification: plain PyTorch, read from top to bottom."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import get_total_norm

from cleanpath.data.images import Images, Split
from cleanpath.data.stream import batches
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Training
from cleanpath.training.grouped import bn_groups
from cleanpath.training.keeper import Keeper, NoKeeper
from cleanpath.training.nonfinite import first_non_finite
from cleanpath.training.progress import Progress
from cleanpath.training.schedule import learning_rate, length
from cleanpath.training.state import Course, Learner

# Lines of training loss in a metrics file, at the most: a long run writes means over several iterations.
MOST_LINES = 2000
_EVALUATION_BATCH = 500

Record = Mapping[str, float | int]


def train(  # noqa: PLR0913 (keyword options of the one loop)
    network: nn.Module,
    images: Images,
    training: Training,
    *,
    seed: int,
    record: Callable[[Record], None],
    on_step: Callable[[Progress], None] | None = None,
    keeper: Keeper | None = None,
    loaders: int = 0,
) -> dict[str, float | int]:
    """Train `network` in place; the last iteration's errors and losses, in percent and nats.

    `record` gets one line per iteration (or mean over several) and one per epoch; all but the `seconds` in them is a
    function of network, images, training, seed and number of threads, however often the `keeper` stopped the run and
    it went on. Dropout draws from torch's global generator.

    Raises `NonFiniteError` before the optimizer step in which a loss or a gradient is not finite.
    """
    keeper = keeper or NoKeeper()
    learner = Learner(network, training)
    count, size = len(images.train.labels), training.batch_size
    total = length(training, count)
    every = math.ceil(total / MOST_LINES)
    course = Course()
    if (kept := keeper.restored()) is not None:
        course, tensors = kept
        learner.load(tensors)
    began, before, first = time.monotonic() - course.seconds, course.seconds, course.iteration
    loss = math.nan
    stream = batches(images.train, size, seed=seed, start=first + 1, end=total, loaders=loaders)
    network.train()
    while True:
        if not course.evaluated and (tested := evaluate(learner.tested, images.held_out, keeper)) is not None:
            course.error, course.test_loss = tested
            _check_finite("test loss", course.test_loss, learner.tested, images, course.iteration)
            line = {"iteration": course.iteration, "epoch": course.iteration * size / count}
            record({**line, "error": tested[0], "test_loss": tested[1], "seconds": _since(began)})
            course.evaluated = True
        if on_step is not None and course.iteration > first:
            speed = (course.iteration - first) * size / max(_since(began) - before, 1e-9)
            on_step(
                Progress(
                    iteration=course.iteration, total=total, loss=loss, images_per_second=speed, error=course.error
                )
            )
        if keeper.due:
            course.seconds = _since(began)
            keeper.save(course, learner.tensors())
        if course.iteration == total:
            break
        iteration = course.iteration + 1
        lr = learning_rate(training, iteration, total)
        loss, norm = _step(learner, _mixed(*next(stream), training, seed, iteration), training, iteration, lr)

        course.iteration = iteration
        course.losses.append(loss)
        if iteration % every == 0 or iteration == total:
            mean = sum(course.losses) / len(course.losses)
            record({"iteration": iteration, "lr": lr, "loss": mean, "gradient_norm": norm, "seconds": _since(began)})
            course.losses.clear()
        course.evaluated = iteration * size // count == (iteration - 1) * size // count and iteration < total
    while (last := evaluate(learner.tested, images.train, keeper)) is None:
        keeper.save(course, learner.tensors())
    _check_finite("training loss in eval mode", last[1], learner.tested, images, total)
    learner.settle()
    errors = {"error": course.error, "test_loss": course.test_loss, "train_error": last[0], "train_loss": last[1]}
    return {"iterations": total, **errors, "seconds": _since(began)}


def evaluate(network: nn.Module, split: Split, keeper: Keeper | None = None) -> tuple[float, float] | None:
    """Error in percent and mean cross-entropy in nats, in eval mode; the training flags are as before afterwards.

    None if the `keeper` was asked to stop meanwhile.
    """
    wrong, loss = 0, 0.0
    for logits, y in outputs(network, split):
        wrong += int((logits.argmax(dim=1) != y).sum())
        loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        if keeper is not None and keeper.stopping:
            return None
    return 100 * wrong / len(split.labels), loss / len(split.labels)


def outputs(network: nn.Module, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of a split, batch by batch, in eval mode; the training flags are as before afterwards."""
    flags = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            for indices in torch.split(torch.arange(len(split.labels)), _EVALUATION_BATCH):
                yield network(split.plain(indices)), split.labels[indices]
    finally:
        for module, flag in flags.items():
            module.training = flag


def _check_finite(quantity: str, value: float, network: nn.Module, images: Images, iteration: int) -> None:
    """Raise `NonFiniteError` if an evaluation after `iteration` gave a value that is not finite."""
    if math.isfinite(value):
        return
    network.eval()
    few = torch.arange(min(_EVALUATION_BATCH, len(images.held_out.labels)))
    x, y = images.held_out.plain(few), images.held_out.labels[few]
    where = first_non_finite(network, x, lambda logits: functional.cross_entropy(logits, y))
    raise NonFiniteError(quantity, value, iteration=iteration + 1, where=where)


@dataclass(frozen=True)
class _Batch:
    """Images, their labels, and those of what was mixed into them; `share` of an image is itself."""

    images: Tensor
    labels: Tensor
    mixed_in: Tensor
    share: float


def _mixed(x: Tensor, y: Tensor, training: Training, seed: int, iteration: int) -> _Batch:
    if not training.mixup:
        return _Batch(x, y, y, 1.0)
    share = float(np.random.default_rng([seed, iteration, 1]).beta(training.mixup, training.mixup))
    return _Batch(share * x + (1 - share) * x.flip(0), y, y.flip(0), share)


def _step(learner: Learner, batch: _Batch, training: Training, iteration: int, lr: float) -> tuple[float, float]:
    """One step of the optimizer; the loss before it and the norm of its gradient."""
    for group in learner.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    with bn_groups(learner.network, training.bn_group):
        loss, norm = _gradients(learner.network, batch, training, iteration)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    return loss, norm


def _gradients(network: nn.Module, batch: _Batch, training: Training, iteration: int) -> tuple[float, float]:
    """Loss and gradient norm of one batch; the gradients are left in the parameters."""
    loss, norm, parts = 0.0, math.nan, training.accumulation
    for images, *labels in zip(*(t.chunk(parts) for t in (batch.images, batch.labels, batch.mixed_in)), strict=True):
        random_state = torch.get_rng_state()
        loss_of = partial(_loss, labels=labels, share=batch.share, parts=parts, smoothing=training.label_smoothing)
        tensor = loss_of(network(images))
        loss += tensor.item()
        if math.isfinite(loss):
            tensor.backward()  # type: ignore[no-untyped-call]
            norm = float(get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            torch.set_rng_state(random_state)
            quantity, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
            where = first_non_finite(network, images, loss_of)
            raise NonFiniteError(quantity, value, iteration=iteration, where=where)
    return loss, norm


def _loss(logits: Tensor, labels: Sequence[Tensor], *, share: float, parts: int, smoothing: float) -> Tensor:
    """Cross-entropy of a part of the batch, as it enters the mean over all parts."""
    found = functional.cross_entropy(logits, labels[0], label_smoothing=smoothing)
    if share < 1:
        found = share * found + (1 - share) * functional.cross_entropy(logits, labels[1], label_smoothing=smoothing)
    return found if parts == 1 else found / parts


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
