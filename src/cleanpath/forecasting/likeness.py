"""How rows lie to each other: cosines, alignments of inner products, and how far outputs are apart."""

import math
from typing import Any

import torch
from torch import Tensor

from cleanpath.forecasting.values import FEWEST

_SMALL = 1e-30
_MOST_PLACES = 512
"""Of a text, at its beginning."""
_MOST_ENTRIES = 1 << 14
"""Of an output, at equal distances."""


def real(values: Tensor) -> Tensor:
    """Real and imaginary parts beside each other."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def rows_of(values: Tensor) -> Tensor:
    """A row for each image; of whole numbers, which are names of tokens, one entry for each token at each place."""
    values = real(values)
    values = values.reshape(len(values), -1)
    if values.is_floating_point():
        return values.double()
    return torch.cat([(one[:, None] == one.unique()).double() for one in values[:, :_MOST_PLACES].T], dim=1)


def cosine(rows: Tensor) -> float:
    """The mean over all pairs of rows."""
    count = len(rows)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=_SMALL)
    return (float(unit.sum(0).pow(2).sum()) - count) / (count * (count - 1))


def alignment(inputs: Tensor, features: Tensor) -> float:
    """⟨K, K₀⟩ / (‖K‖ ‖K₀‖) of the centred inner products of rows."""
    one, other = (rows - rows.mean(0) for rows in (inputs, features))
    one, other = one @ one.T, other @ other.T
    return float((one * other).sum() / (one.norm() * other.norm()).clamp(min=_SMALL))


def agreement(outputs: Tensor, targets: Tensor) -> float:
    """The same without the share that small batches have by chance: about 0 for rows that have nothing in common.

    Each product ⟨K, L⟩ is the unbiased estimate of Song and others (2012), which leaves out an image beside itself.
    """
    one, other = (rows - rows.mean(0) for rows in (outputs, targets))
    one, other = (rows @ rows.T for rows in (one, other))
    one, other = (products - products.diagonal().diag() for products in (one, other))
    size = _unbiased(one, one) * _unbiased(other, other)
    return _unbiased(one, other) / math.sqrt(size) if size > 0 else 0.0


def _unbiased(one: Tensor, other: Tensor) -> float:
    n = len(one)
    of_all = one.sum() * other.sum() / ((n - 1) * (n - 2))
    return float((one * other).sum() + of_all - 2 / (n - 2) * (one.sum(0) @ other.sum(0)))


def apart(outputs: Tensor) -> float:
    """The rms of what the rows differ by / the rms of the rows: 0 where all say the same."""
    return rms(outputs - outputs.mean(0)) / max(rms(outputs), _SMALL)


def repeated(one: Tensor, other: Tensor) -> float:
    """ρ: the share of what tells images apart that comes again in a second pass; 1 without random numbers."""
    one, other = real(one).double(), real(other).double()
    spread = rms(one - one.mean(0))
    difference = rms(one - other)
    return max(1.0 - (difference / max(spread, _SMALL)) ** 2 / 2, 0.0) if difference else 1.0


def rms(values: Tensor) -> float:
    """The root of the mean square."""
    return float(values.pow(2).mean().sqrt())


def of_outputs(outputs: Tensor | None, target: Any) -> tuple[float | None, float | None]:
    """How far outputs are apart, and their agreement with the targets; None where it cannot be said."""
    if outputs is None or outputs.dim() == 0 or len(outputs) < FEWEST:
        return None, None
    rows = rows_of(outputs.detach())
    rows = rows[:, :: max(rows.shape[1] // _MOST_ENTRIES, 1)]
    if not rows.isfinite().all():
        return None, None
    if not isinstance(target, Tensor) or target.dim() == 0 or len(target) != len(rows):
        return apart(rows), None
    return apart(rows), agreement(rows, rows_of(target.detach().to(rows.device)))
