"""Norm, ReLU and convolution as one operation of autograd, which keeps one tensor where torch's three keep three.

What is kept is the norm's input; what the ReLU gives is computed again on the way back, in pieces that stay in the
processor's cache.
"""

import ctypes
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from cleanpath.fast.library import library

_BLOCK = 64 << 10
"""Bytes of input that a thread takes at a time, if an image is not larger: they stay in the second cache."""
_BAND = 128
"""Pixels of output that stay in the first cache while all taps pass over them."""
_MOST_WEIGHTS, _MOST_IMAGE = 1 << 16, 1 << 20
"""A convolution with more weights, or an image with more bytes, is torch's, which is faster there
(`benchmarks/one_layer.py`)."""

_MOST_PAIRS = 1 << 17
"""Pixels of an image times taps: the lists of who meets whom are made by Python, 128·128·49 of them in some seconds."""

_SHAPES = 256
"""For how many shapes of layers what they ask for is kept: photographs may come in any size."""


class _Shape(ctypes.Structure):
    """`shape` of `layers.c`."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("images", "block", "in_pixels", "out_pixels", "in_channels", "out_channels", "taps"),
            *("norm", "relu", "threads", "scratch"),
        )
    )


@dataclass(frozen=True)
class Window:
    """How a convolution looks at its input; none at all is a window of one pixel."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0

    def side(self, side: int) -> int:
        """Of the output."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


def can_convolve(conv: nn.Conv2d) -> bool:
    """Whether our kernel has this convolution."""
    square = all(len({*pair}) == 1 for pair in (conv.kernel_size, conv.stride, conv.dilation))
    usual = conv.groups == 1 and conv.dilation[0] == 1 and conv.bias is None and conv.padding_mode == "zeros"
    padded = not isinstance(conv.padding, str) and len({*conv.padding}) == 1
    lanes = library().lanes
    fits = conv.in_channels % lanes == 0 and conv.out_channels % lanes == 0
    return square and usual and padded and fits and conv.weight.numel() <= _MOST_WEIGHTS


def window_of(conv: nn.Conv2d) -> Window:
    """Of a convolution that `can_convolve`."""
    return Window(conv.kernel_size[0], conv.stride[0], int(conv.padding[0]))


def can_take(x: Tensor, window: Window | None, *, channels: int) -> bool:
    """Whether a batch is one for our kernels: single precision, laid out pixel by pixel, an image not too large."""
    if x.dim() != 4 or not is_open(x) or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    images, given, height, width = x.shape
    if given != channels:
        return False  # torch says what is wrong
    if window is None:
        return images * height * width > 1
    small = 4 * channels * height * width <= _MOST_IMAGE and height * width * window.kernel**2 <= _MOST_PAIRS
    return small and images * height * width > 1 and min(window.side(height), window.side(width)) > 0


def is_open(value: Tensor) -> bool:
    """Whether the numbers of a tensor are single precision and lie in memory as they are."""
    return (
        (type(value) is Tensor or type(value) is nn.Parameter)
        and value.dtype == torch.float32
        and value.is_cpu
        and not value.is_neg()
    )


def joined(
    x: Tensor, norm: nn.BatchNorm2d | None, conv: nn.Conv2d | None, window: Window | None, *, relu: bool
) -> Tensor:
    """What norm, ReLU and convolution give one after another in training mode; the norm's statistics move.

    One of norm and convolution may be missing.
    """
    gamma, beta = (None, None) if norm is None else (norm.weight, norm.bias)
    found: Tensor = _Joined.apply(x, gamma, beta, None if conv is None else conv.weight, norm, window, relu)
    return found


class Applied:
    """Norm, ReLU and convolution in eval mode, for as long as weights and running statistics stay as they are."""

    def __init__(
        self, norm: nn.BatchNorm2d | None, conv: nn.Conv2d | None, window: Window | None, *, relu: bool
    ) -> None:
        self._window, self._norm, self._relu = window, norm is not None, relu
        channels = norm.num_features if norm is not None else 0
        gamma, beta = (None, None) if norm is None else (norm.weight, norm.bias)
        mean, var = (None, None) if norm is None else (norm.running_mean, norm.running_var)
        weight = None if conv is None else conv.weight.detach().contiguous(memory_format=torch.channels_last)
        outputs, taps = channels, 1
        if weight is not None:
            outputs, channels, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
        self._outputs = outputs
        self._factors = _floats(3 * channels)
        self._panels = None if weight is None else _floats(weight.numel())
        shape = _Shape(1, 1, 1, 1, channels, outputs, taps, self._norm, relu, 1)
        library().calls.prepare(
            *(ctypes.addressof(shape), _at(weight), _at(gamma), _at(beta), _at(mean), _at(var)),
            *(_at(self._factors), _at(self._panels), 0.0 if norm is None else norm.eps),
        )

    def __call__(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        if (window := self._window) is None:
            y = torch.empty_like(x)
        else:
            y = _signal(images, self._outputs, window.side(height), window.side(width))
        asked = images, channels, height, width, self._outputs, window, self._norm, self._relu
        work = _work(*asked, torch.get_num_threads())
        scratch = _floats(work.scratch_there)
        library().calls.applied(
            *(work.there_at, x.data_ptr(), y.data_ptr(), _at(self._panels), _at(work.there)),
            *(self._factors.data_ptr(), scratch.data_ptr()),
        )
        return y


class _Joined(Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 (as autograd calls it)
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        weight: Tensor | None,
        norm: nn.BatchNorm2d | None,
        window: Window | None,
        relu: bool,  # noqa: FBT001
    ) -> Tensor:
        images, channels, height, width = x.shape
        if weight is None or window is None:
            given, outputs, y = None, channels, torch.empty_like(x)
        else:
            given, outputs = weight.contiguous(memory_format=torch.channels_last), len(weight)
            y = _signal(images, outputs, window.side(height), window.side(width))
        asked = images, channels, height, width, outputs, window, norm is not None, relu
        work = ctx.work = _work(*asked, torch.get_num_threads())
        kept, scratch = _floats(4 * channels), _floats(work.scratch_there)
        moving: tuple[Tensor | None, ...] = (None,) * 3
        if norm is not None and norm.track_running_stats:
            moving = norm.running_mean, norm.running_var, norm.num_batches_tracked
        eps, momentum = (0.0, 0.0) if norm is None else (norm.eps, norm.momentum)
        library().calls.forward(
            *(work.there_at, x.data_ptr(), y.data_ptr(), _at(given), _at(work.there), _at(gamma), _at(beta)),
            *(*map(_at, moving), kept.data_ptr(), scratch.data_ptr(), eps, momentum),
        )
        ctx.save_for_backward(x, weight, kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("fused kernels have no second derivative; train with kernels=plain")
        x, weight, kept = ctx.saved_tensors
        work, wanted = ctx.work, ctx.needs_input_grad
        dy = dy.resolve_neg().contiguous(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)  # a hook on what is saved may lay it out otherwise
        dx, scratch = torch.empty_like(x), _floats(work.scratch_back)
        dgamma, dbeta = (_floats(x.shape[1]) if each else None for each in wanted[1:3])
        given = dw = None
        if weight is not None:
            given = weight.contiguous(memory_format=torch.channels_last)
            dw = torch.empty_like(given) if wanted[3] else None
        library().calls.backward(
            *(work.back_at, x.data_ptr(), dy.data_ptr(), _at(given), _at(work.back), _at(work.pairs)),
            *(kept.data_ptr(), dx.data_ptr(), _at(dw), _at(dgamma), _at(dbeta), scratch.data_ptr()),
        )
        return dx if wanted[0] else None, dgamma, dbeta, dw, None, None, None


def _floats(count: int) -> Tensor:
    """Whatever device or precision new tensors usually have."""
    return torch.empty(count, dtype=torch.float32, device="cpu")


def _signal(*size: int) -> Tensor:
    return torch.empty(size, memory_format=torch.channels_last, dtype=torch.float32, device="cpu")


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _Work:
    """What one shape of input asks for in both directions: `shape`s of `layers.c`, its lists, floats of scratch."""

    def __init__(self, of: _Shape, lists: "_Lists | None", weights: int) -> None:
        block, channels = of.block * of.in_pixels * of.in_channels if lists else 0, of.in_channels
        self.there = None if lists is None else lists.there
        self.back = None if lists is None else lists.back
        self.pairs = None if lists is None else lists.pairs
        self._there, self._back = _Shape.from_buffer_copy(of), _Shape.from_buffer_copy(of)
        self._there.scratch = _padded(max(block, 4 * channels))
        self._back.scratch = _padded(4 * channels + max(weights + 2 * block, 2 * channels))
        self.there_at, self.back_at = ctypes.addressof(self._there), ctypes.addressof(self._back)
        self.scratch_there = weights + of.threads * self._there.scratch
        self.scratch_back = weights + of.threads * self._back.scratch


def _padded(floats: int) -> int:
    """Threads do not write into each other's cache lines, and sums in double precision are aligned."""
    return (floats + 63) // 32 * 32


@lru_cache(maxsize=_SHAPES)
def _work(  # noqa: PLR0913, PLR0917 (what it is kept by)
    images: int,
    channels: int,
    height: int,
    width: int,
    outputs: int,
    window: Window | None,
    norm: bool,  # noqa: FBT001
    relu: bool,  # noqa: FBT001
    threads: int,
) -> _Work:
    if window == Window():  # each row of pixels is as good as an image
        images, height = images * height, 1
    block, pixels = _block(images, 4 * channels * height * width, threads), height * width
    if window is None:
        return _Work(_Shape(images, block, pixels, pixels, channels, channels, 1, norm, relu, threads), None, 0)
    taps, found = window.kernel**2, window.side(height) * window.side(width)
    shape = _Shape(images, block, pixels, found, channels, outputs, taps, norm, relu, threads)
    return _Work(shape, _lists(block, height, width, window), taps * channels * outputs)


def _block(images: int, size: int, threads: int) -> int:
    """Images of a block: as many as `_BLOCK` holds, all blocks alike, and each thread with one at least."""
    most = max(1, min(_BLOCK // size, images // threads))
    return next(count for count in range(most, 0, -1) if images % count == 0)


class _Lists(NamedTuple):
    """Which pixel of a block meets which by each tap, as `layers.c` says: forward, backward, and for the weights."""

    there: Tensor
    back: Tensor
    pairs: Tensor


@lru_cache(maxsize=_SHAPES)
def _lists(block: int, height: int, width: int, window: Window) -> _Lists:
    met = [_met(height, width, window, tap) for tap in range(window.kernel**2)]
    pixels, found = height * width, window.side(height) * window.side(width)
    back = [[(output, at) for at, output in pairs] for pairs in met]
    return _Lists(
        _classes(met, found, pixels, block), _classes(back, pixels, found, block), _pairs(met, block, pixels, found)
    )


def _met(height: int, width: int, window: Window, tap: int) -> list[tuple[int, int]]:
    """The pixels of an image that a tap sees, and those of the output for which it does."""
    down, right = (place - window.padding for place in divmod(tap, window.kernel))
    high, wide, step = window.side(height), window.side(width), window.stride
    places = [(row, column, row * step + down, column * step + right) for row in range(high) for column in range(wide)]
    return [(y * width + x, row * wide + column) for row, column, y, x in places if 0 <= y < height and 0 <= x < width]


def _classes(met: list[list[tuple[int, int]]], outputs: int, inputs: int, block: int) -> Tensor:
    """By the taps that see something, and how far that is from what the first one sees."""
    seen: list[list[tuple[int, int]]] = [[] for _ in range(outputs)]
    for tap, pairs in enumerate(met):
        for at, output in pairs:
            seen[output].append((tap, at))
    classes = defaultdict[tuple[tuple[int, int], ...], list[tuple[int, int]]](list)
    for output, found in enumerate(seen):
        first = found[0][1] if found else 0
        classes[tuple((tap, at - first) for tap, at in found)].append((first, output))
    numbers = [len(classes)]
    for taps, pixels in classes.items():
        every = [(first + b * inputs, output + b * outputs) for b in range(block) for first, output in pixels]
        numbers += [len(taps), len(every), *(number for pair in taps for number in pair)]
        numbers += [first for first, _ in every] + [output for _, output in every]
    return torch.tensor(numbers, dtype=torch.int32, device="cpu")


def _pairs(met: list[list[tuple[int, int]]], block: int, inputs: int, outputs: int) -> Tensor:
    """Tap by tap, in bands of the output."""
    segments, ins, outs = list[int](), list[int](), list[int]()
    every = [[(at + b * inputs, output + b * outputs) for b in range(block) for at, output in pairs] for pairs in met]
    begun = [0] * len(every)  # by tap: outputs come in their order
    for start in range(0, block * outputs, _BAND):
        for tap, pairs in enumerate(every):
            first = begun[tap]
            begun[tap] = bisect_left(pairs, start + _BAND, lo=first, key=itemgetter(1))
            band = pairs[first : begun[tap]]
            segments += [tap, len(ins), len(band)]
            ins += [at for at, _ in band]
            outs += [output for _, output in band]
    return torch.tensor([len(segments) // 3, *segments, *ins, *outs], dtype=torch.int32, device="cpu")
