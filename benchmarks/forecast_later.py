"""The forecast's second campaign: cells of other kinds that came after the terms of the rule had been chosen.

Each kind has rates and depths at which some fail and some train. Networks of others, small: timm's, transformers' and
layers of torch. Every cell of one seed comes before those of the next; within a seed kinds alternate.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SEEDS = 3
SOME = ("original", "full_preactivation", "constant_half_1", "shortcut_only_gating_0", "bn_after_addition", "conv_1x1")
WAYS = (("sgd", 0.03), ("sgd", 0.1), ("sgd", 0.3), ("adamw", 0.001), ("adamw", 0.01))


def later() -> Iterator[dict[str, Any]]:
    """The fields of all cells, so that every beginning has all kinds."""
    for seed in range(SEEDS):
        kinds = [_shuffled(list(kind(seed)), seed) for kind in KINDS]
        for row in zip_longest(*kinds):
            yield from ({**cell, "seed": seed} for cell in row if cell is not None)


def _shuffled(found: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [found[at] for at in np.random.default_rng(200 + seed).permutation(len(found))]


def _transformers(_: int) -> Iterator[dict[str, Any]]:
    for row, depth, (optimizer, rate) in product(("norm_last", "norm_first"), (2, 6), (*WAYS, ("sgd", 1.0))):
        yield {"kind": "transformer", "row": row, "depth": depth, "rate": rate, "optimizer": optimizer, "width": 32}


def _mlps(_: int) -> Iterator[dict[str, Any]]:
    ways = (("sgd", 0.1), ("sgd", 1.0), ("adamw", 0.003))
    for row, depth, (optimizer, rate) in product(("mlp", "mlp_norm", "mlp_residual", "mlp_last"), (4, 18), ways):
        yield {"kind": "mlp", "row": row, "depth": depth, "rate": rate, "optimizer": optimizer, "width": 48}


def _norms(_: int) -> Iterator[dict[str, Any]]:
    rows, norms = ("original", "full_preactivation", "constant_half_1"), ("layer", "group", "none")
    for row, depth, norm, rate in product(rows, (26,), norms, (0.03, 0.3)):
        yield {"kind": "normalisation", "row": row, "depth": depth, "rate": rate, "normalisation": norm}


def _widths(_: int) -> Iterator[dict[str, Any]]:
    for row, depth, rate in product(SOME, (44,), (0.1, 0.3)):
        yield {"kind": "width", "row": row, "depth": depth, "rate": rate, "width": 8}


def _data(_: int) -> Iterator[dict[str, Any]]:
    for row, depth, rate in product(SOME, (32,), (0.03, 0.3)):
        yield {"kind": "data", "row": row, "depth": depth, "rate": rate, "data": "cifar8"}


def _optimizers(_: int) -> Iterator[dict[str, Any]]:
    for row, depth, rate in product(SOME, (32,), (0.003, 0.1)):
        yield {"kind": "optimizer", "row": row, "depth": depth, "rate": rate, "optimizer": "adamw"}


def _warmups(_: int) -> Iterator[dict[str, Any]]:
    for row, depth, rate in product(("original", *SOME[2:4], "relu_before_addition"), (44,), (0.1, 0.5)):
        yield {"kind": "warm-up", "row": row, "depth": depth, "rate": rate, "warmup": 50}


def _bottlenecks(_: int) -> Iterator[dict[str, Any]]:
    for row, depth, rate in product(SOME, (47,), (0.1, 0.5)):
        yield {"kind": "bottleneck", "row": row, "depth": depth, "rate": rate, "branch": "bottleneck", "width": 8}


def _foreign(_: int) -> Iterator[dict[str, Any]]:
    for row, (optimizer, rate) in product(BUILDS, (WAYS[0], *WAYS[2:])):
        yield {"kind": "foreign", "row": row, "depth": 0, "rate": rate, "optimizer": optimizer, "data": "digits16"}


KINDS = (_transformers, _foreign, _norms, _mlps, _widths, _data, _optimizers, _warmups, _bottlenecks)


class Bert(nn.Module):
    """transformers' BERT, drawn anew, on a picture as sixteen rows of pixels."""

    def __init__(self, layers: int) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        sizes: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
        quiet: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = BertConfig(vocab_size=2, num_hidden_layers=layers, max_position_embeddings=16, **sizes, **quiet)
        self.embed, self.body = nn.Linear(16, 48), BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (N, 3, 16, 16)."""
        states = self.body(inputs_embeds=self.embed(images[:, 0])).last_hidden_state
        logits: Tensor = self.head(states.mean(1))
        return logits


class Recurrent(nn.Module):
    """An LSTM over sixteen rows of pixels."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(16, 48, layers, batch_first=True), nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (N, 3, 16, 16)."""
        logits: Tensor = self.head(self.body(images[:, 0])[0][:, -1])
        return logits


def _of_timm(name: str, settings: dict[str, Any]) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(name, num_classes=10, **settings)
    return made


_TOKENS = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "num_heads": 4}
_SWIN = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
_PREACTIVE = {"layers": (2, 2, 2, 2), "channels": (32, 64, 96, 128), "stem_chs": 16}
BUILDS: dict[str, Callable[[], nn.Module]] = {
    "timm:vit_4": partial(_of_timm, "vit_tiny_patch16_224", {**_TOKENS, "depth": 4}),
    "timm:beit_6": partial(_of_timm, "beit_base_patch16_224", {**_TOKENS, "depth": 6}),
    "timm:swinv2_cr_4": partial(_of_timm, "swinv2_cr_tiny_ns_224", _SWIN),
    "timm:resnetv2_26": partial(_of_timm, "resnetv2_50", _PREACTIVE),
    "transformers:bert_4": partial(Bert, 4),
    "transformers:bert_8": partial(Bert, 8),
    "torch:lstm_2": partial(Recurrent, 2),
}


class Last(nn.Module):
    """A unit with its norm behind the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """f(x + F(x)), f the norm."""
        out: Tensor = self.norm(x + self.branch(x))
        return out


def mlp_last(depth: int, width: int) -> nn.Module:
    """Post-norm, without attention."""
    units = [Last(width) for _ in range(depth // 2)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *units, nn.Linear(width, 10))


def cifar8(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the pictures, at 8×8: what a healthy network learns in 200 iterations at a quarter of the cost."""
    images = torch.nn.functional.avg_pool2d(images[:640], 2)
    return (images - images.mean(0)) / images.std(), labels[:640]
