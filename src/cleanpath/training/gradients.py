"""Loss and gradients of a batch, and the refusal to go on from values that are not finite."""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.utils import get_total_norm

from cleanpath import devices
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Training
from cleanpath.training.graph import Graph
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.nonfinite import first_non_finite
from cleanpath.training.passes import Passes

OfLogits = Callable[[Tensor], Tensor]


class Gradients:
    """The passes of each micro-batch of a batch; gradients are left in the parameters."""

    def __init__(self, passes: Passes, loss_of: Loss, training: Training) -> None:
        self._passes, self._loss_of = passes, loss_of
        self._graph = Graph(passes, training, loss_of)
        self.clip = training.clip

    def __call__(self, drawn: Batch, iteration: int) -> tuple[float, float]:
        """The loss, and the norm of the gradient of all weights.

        Raises `NonFiniteError` if one of them is not finite, with the place where that began.
        """
        if self._graph.replays():
            return self._replayed(drawn, iteration)
        with self._passes():
            return self._made(drawn, iteration)

    def _made(self, drawn: Batch, iteration: int) -> tuple[float, float]:
        passes = self._passes
        loss, norm, ranks, parts = 0.0, math.nan, passes.ranks, passes.parts
        pieces = zip(*(t.chunk(parts) for t in (drawn.images, drawn.labels, drawn.mixed_in)), strict=True)
        for number, (images, labels, mixed_in) in enumerate(pieces, start=1):
            random_state = devices.random_state(passes.device)
            of_logits = partial(self._loss_of, labels=labels, mixed_in=mixed_in, share=drawn.share)
            tensor = of_logits(passes.forward(images, last=number == parts))
            loss += ranks.mean(tensor.item())
            if math.isfinite(loss):
                passes.backward(tensor)
                norm = float(get_total_norm([p.grad for p in passes.network.parameters() if p.grad is not None]))
            # Before the last micro-batch each rank has a norm of its own.
            if ranks.any(not (math.isfinite(loss) and math.isfinite(norm))):
                devices.set_random_state(random_state, passes.device)
                raise self._refusal(loss, norm, images, of_logits, iteration)
        return loss, norm

    def _replayed(self, drawn: Batch, iteration: int) -> tuple[float, float]:
        random_state = devices.random_state(self._passes.device)
        loss, norm = self._graph(drawn)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            devices.set_random_state(random_state, self._passes.device)
            of_logits = partial(self._loss_of, labels=drawn.labels, mixed_in=drawn.mixed_in, share=drawn.share)
            with self._passes():
                raise self._refusal(loss, norm, drawn.images, of_logits, iteration)
        return loss, norm

    def _refusal(self, loss: float, norm: float, images: Tensor, of_logits: OfLogits, iteration: int) -> NonFiniteError:
        ranks, quantity, value = self._passes.ranks, "loss", loss
        if math.isfinite(loss):
            quantity, value = "gradient norm", next(one for one in ranks.gathered(norm) if not math.isfinite(one))
        with self._passes.plain():
            where = first_non_finite(self._passes.network, images, of_logits, ranks)
        return NonFiniteError(quantity, value, iteration=iteration, where=where)
