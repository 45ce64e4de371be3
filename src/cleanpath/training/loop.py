"""The training loop for classification: plain PyTorch, read from top to bottom."""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import get_total_norm

from cleanpath.data.images import Images, batch
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Training
from cleanpath.training.nonfinite import first_non_finite
from cleanpath.training.progress import Progress
from cleanpath.training.schedule import learning_rate, length, sgd

# Lines of training loss in a metrics file, at the most: a long run writes means over several iterations.
MOST_LINES = 2000
_EVALUATION_BATCH = 500

Record = Mapping[str, float | int]


def train(
    network: nn.Module,
    images: Images,
    training: Training,
    *,
    seed: int,
    record: Callable[[Record], None],
    on_step: Callable[[Progress], None] | None = None,
) -> dict[str, float | int]:
    """Train `network` in place; the last iteration's errors and losses, in percent and nats.

    `record` gets one line per iteration (or mean over several) and one per epoch; all but the `seconds` in them is a
    function of network, images, training, seed and number of threads. Dropout draws from torch's global generator.

    Raises `NonFiniteError` before the optimizer step in which a loss or a gradient is not finite.
    """
    optimizer = sgd(network, training)
    count, size = len(images.train_labels), training.batch_size
    total = length(training, count)
    every = math.ceil(total / MOST_LINES)
    began = time.monotonic()
    losses: list[float] = []
    error = test_loss = math.nan
    network.train()
    for iteration in range(1, total + 1):
        lr = learning_rate(training, iteration, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        indices = batch(count, size, seed=seed, iteration=iteration)
        loss, norm = _gradients(network, images.train_images[indices], images.train_labels[indices], iteration)
        optimizer.step()
        optimizer.zero_grad()

        losses.append(loss)
        if iteration % every == 0 or iteration == total:
            mean = sum(losses) / len(losses)
            record({"iteration": iteration, "lr": lr, "loss": mean, "gradient_norm": norm, "seconds": _since(began)})
            losses.clear()
        if iteration * size // count > (iteration - 1) * size // count or iteration == total:
            error, test_loss = evaluate(network, images.held_out_images, images.held_out_labels)
            line = {"iteration": iteration, "epoch": iteration * size / count, "error": error, "test_loss": test_loss}
            record({**line, "seconds": _since(began)})
        if on_step is not None:
            speed = iteration * size / max(_since(began), 1e-9)
            on_step(Progress(iteration=iteration, total=total, loss=loss, images_per_second=speed, error=error))
    train_error, train_loss = evaluate(network, images.train_images, images.train_labels)
    last = {"error": error, "test_loss": test_loss, "train_error": train_error, "train_loss": train_loss}
    return {"iterations": total, **last, "seconds": _since(began)}


def evaluate(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Error in percent and mean cross-entropy in nats, in eval mode; the training flags are as before afterwards."""
    flags = {module: module.training for module in network.modules()}
    network.eval()
    wrong, loss = 0, 0.0
    with torch.inference_mode():
        for x, y in zip(torch.split(images, _EVALUATION_BATCH), torch.split(labels, _EVALUATION_BATCH), strict=True):
            logits = network(x)
            wrong += int((logits.argmax(dim=1) != y).sum())
            loss += float(functional.cross_entropy(logits, y, reduction="sum"))
    for module, flag in flags.items():
        module.training = flag
    return 100 * wrong / len(labels), loss / len(labels)


def _gradients(network: nn.Module, x: Tensor, y: Tensor, iteration: int) -> tuple[float, float]:
    """Loss and gradient norm of one batch; the gradients are left in the parameters."""
    random_state = torch.get_rng_state()

    def loss_of(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, y)

    tensor = loss_of(network(x))
    loss = tensor.item()
    norm = math.nan
    if math.isfinite(loss):
        tensor.backward()  # type: ignore[no-untyped-call]
        norm = float(get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        torch.set_rng_state(random_state)
        quantity, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
        where = first_non_finite(network, x, loss_of)
        raise NonFiniteError(quantity, value, iteration=iteration, where=where)
    return loss, norm


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
