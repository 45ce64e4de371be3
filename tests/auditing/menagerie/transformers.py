"""Attention networks and what surrounds them: tokens, masks, positions, experts, decoders, outputs of many forms."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .case import Case, Inputs, names
from .parts import WIDTH, Attention, mlp, norm_mlp, normal, sequence, token_ids, vectors

QKV = ("attention.q", "attention.k", "attention.v", "attention.out")
VOCABULARY = 11


class PreBlock(nn.Module):
    """x += attention(LN x); x += MLP(LN x)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(WIDTH), Attention(), norm_mlp()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.mlp(x)


class PostBlock(nn.Module):
    """x = LN(x + attention(x)); x = LN(x + MLP(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(), mlp()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x))
        return self.norm_2(x + self.mlp(x))


class ParallelBlock(nn.Module):
    """u = LN x; y = x + attention(u) + MLP(u)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(WIDTH), Attention(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        u = self.norm(x)
        return x + self.attention(u) + self.mlp(u)


class HandGelu(nn.Module):
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))): its sum shares a fork, but holds no weights."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


class RotaryAttention(Attention):
    """q and k turn with their position: q cos + rotate(q) sin; again sums without weights."""

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001]).repeat(2)
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        scores = self.turn(self.q(x)) @ self.turn(self.k(source)).transpose(-2, -1)
        if mask is not None:
            scores = scores + mask
        return self.out(scores.softmax(-1) @ self.v(source))


class RotaryBlock(nn.Module):
    """x += rotary attention(LN x); x += W2 gelu(W1 LN x), gelu by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), RotaryAttention()
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), HandGelu(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class Experts(nn.Module):
    """Top-1 routing: out[s] += p(s) E_e(x[s]) for the tokens s of every expert e, gathered into zeros."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, count), nn.ModuleList(mlp() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        share, chosen = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == index)
            out.index_add_(0, rows, expert(flat[rows]) * share[rows, None])
        return out.view_as(x)


class ExpertUnit(nn.Module):
    """y = x + experts(LN x)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(WIDTH), Experts()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


class ExpertsOnStream(Experts):
    """y = x; y[s] += p(s) E_e(x[s]) for every expert e: the experts add to the stream itself."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        share, chosen = self.router(flat).softmax(-1).max(-1)
        out = flat
        for index, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == index)
            out = out.index_add(0, rows, expert(flat[rows]) * share[rows, None])
        return out.view_as(x)


class LanguageModel(nn.Module):
    """E[ids] + E'[kinds] + P -> LN -> two pre-LN blocks -> LN -> E': the head is tied; keyword inputs, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.kinds = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(2, WIDTH)
        self.positions, self.norm = nn.Parameter(normal(5, WIDTH)), nn.LayerNorm(WIDTH)
        self.units, self.final = nn.ModuleList(PreBlock() for _ in range(2)), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: Tensor, kind_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = torch.where(attention_mask[:, None, :] > 0, 0.0, -1e4)
        x = self.norm(self.tokens(input_ids) + self.kinds(kind_ids) + self.positions)
        for unit in self.units:
            x = unit(x, mask)
        x = self.final(x)
        return {"logits": self.head(x), "hidden": x}


class DecoderBlock(nn.Module):
    """x += self-attention(x); x += cross-attention(x, memory); x += MLP(x), each of LN x."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.attention, self.norm_2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.cross, self.mlp = Attention(), norm_mlp()

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        x = x + self.cross(self.norm_2(x), context=memory)
        return x + self.mlp(x)


@dataclass
class Translation:
    """What the encoder-decoder returns; integers and None among floating tensors."""

    logits: Tensor
    memory: Tensor
    best: Tensor
    loss: Tensor | None = None


class Translator(nn.Module):
    """memory = encoder(E[source]); logits = head(decoder(E[target], memory)); a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.encoder = nn.Embedding(VOCABULARY, WIDTH), PreBlock()
        self.decoder = nn.ModuleList(DecoderBlock() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Translation:
        memory, x = self.encoder(self.tokens(source)), self.tokens(target)
        for block in self.decoder:
            x = block(x, memory)
        logits = self.head(x)
        return Translation(logits, memory, logits.argmax(-1))


class WeightTied(nn.Module):
    """One pre-LN block called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = PreBlock()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.block(x)
        return x


class ScaledStream(nn.Module):
    """x0 = LN x; in block i: x = λ_i x + μ_i x0; x += attention(LN x); x += MLP(LN x). λ and μ are learned numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.blocks = nn.LayerNorm(WIDTH), nn.ModuleList(PreBlock() for _ in range(2))
        self.stream, self.start = nn.Parameter(torch.tensor([1.15, 1.05])), nn.Parameter(torch.tensor([0.2, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.norm(x)
        for block, stream, share in zip(self.blocks, self.stream, self.start, strict=True):
            x = block(stream * x + share * start)
        return x


def torch_encoder() -> nn.Module:
    """Two of torch's own encoder layers (post-LN) in eval mode, parameters frozen: the fast path lies in wait."""
    layers = (nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True) for _ in range(2))
    return vectors(*layers).eval().requires_grad_(requires_grad=False)


def _blocks(
    name: str,
    build: Callable[[], nn.Module],
    units: int,
    after: str,
    branch: tuple[tuple[str, ...], ...],
    *,
    inputs: Callable[[], Inputs] = sequence,
    note: str = "",
) -> Case:
    return Case(
        name=name,
        build=build,
        inputs=inputs,
        units=units,
        h=("identity",) * units,
        f=(after,) * units,
        branch=branch,
        note=note,
    )


def _alternating(prefixes: tuple[str, ...], *sublayers: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Each sublayer's modules below each prefix, in order."""
    return tuple(tuple(f"{prefix}.{part}" for part in parts) for prefix in prefixes for parts in sublayers)


UNITS = ("units.0", "units.1")
NORM_MLP = ("mlp.0", "mlp.1", "mlp.3")

CASES = (
    _blocks(
        "pre_ln_transformer",
        lambda: vectors(PreBlock(), PreBlock()),
        4,
        "nothing",
        _alternating(UNITS, ("norm", *QKV), NORM_MLP),
    ),
    _blocks(
        "post_ln_transformer",
        lambda: vectors(PostBlock(), PostBlock()),
        4,
        "normalisation",
        _alternating(UNITS, QKV, ("mlp.0", "mlp.2")),
    ),
    _blocks(
        "parallel_attention_and_mlp",
        lambda: vectors(ParallelBlock(), ParallelBlock()),
        2,
        "nothing",
        names(2, "norm", *QKV, "mlp.0", "mlp.2"),
        note="A three-way sum: attention and MLP are both F; one unit per block.",
    ),
    _blocks(
        "rotary_and_hand_written_gelu",
        lambda: vectors(RotaryBlock(), RotaryBlock()),
        4,
        "nothing",
        _alternating(UNITS, ("norm", *QKV), NORM_MLP),
        note="x + 0.044715 x³ and q cos + rotate(q) sin have no weights between fork and sum: not units.",
    ),
    _blocks(
        "language_model",
        LanguageModel,
        4,
        "nothing",
        _alternating(UNITS, ("norm", *QKV), NORM_MLP),
        inputs=lambda: {
            "input_ids": token_ids(),
            "kind_ids": token_ids() % 2,
            "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        },
        note="Token, kind and position embeddings, and the mask on the scores, have no common fork: not units. "
        "The last LayerNorm is the head.",
    ),
    _blocks(
        "encoder_decoder",
        Translator,
        8,
        "nothing",
        (
            *_alternating(("encoder",), ("norm", *QKV), NORM_MLP),
            *_alternating(
                ("decoder.0", "decoder.1"),
                ("norm_1", *QKV),
                ("norm_2", "cross.q", "cross.k", "cross.v", "cross.out"),
                NORM_MLP,
            ),
        ),
        inputs=lambda: {"source": token_ids(), "target": token_ids().flip(1)},
        note="Cross-attention's branch has a second root, the memory; the unit's fork is the decoder's stream. The "
        "encoder's layers are no part of the branch; the branch of a unit runs from its own stream.",
    ),
    _blocks(
        "mixture_of_experts",
        lambda: vectors(ExpertUnit(), ExpertUnit()),
        2,
        "nothing",
        names(2, "norm", "branch.router", *(f"branch.experts.{i}.{j}" for i in range(3) for j in (0, 2))),
        note="The experts gather into zeros: a sum of parallel weighted branches, inside F.",
    ),
    _blocks(
        "experts_add_to_stream",
        lambda: vectors(ExpertsOnStream(), ExpertsOnStream()),
        2,
        "nothing",
        names(2, "router", *(f"experts.{i}.{j}" for i in range(3) for j in (0, 2))),
        note="Three index_add in a row, all of branches of the same x: one unit whose F has three experts.",
    ),
    _blocks(
        "weight_tied_calls",
        lambda: vectors(WeightTied()),
        6,
        "nothing",
        _alternating(("units.0.block",) * 3, ("norm", *QKV), NORM_MLP),
        note="Six sums are six units, though they share two sets of weights.",
    ),
    Case(
        name="scaled_stream",
        build=lambda: vectors(ScaledStream()),
        inputs=sequence,
        units=5,
        h=("identity", "identity", "scaling", "identity", "identity"),
        f=("nothing",) * 5,
        scale=(None, None, 0.1, None, None),
        parents=(2, 2, None, None, None),
        or_not_seen=True,
        not_seen=("units.0",),
        note="nanochat's stream. In block 0, λ x0 + μ x0 has no weights: not a unit. In block 1, λ x + μ x0 is a "
        "long unit from x0: the simpler operand μ x0 is h, block 0 and λ are F.",
    ),
    Case(
        name="torch_encoder_layers_in_eval",
        build=torch_encoder,
        inputs=sequence,
        units=4,
        h=("identity",) * 4,
        f=("normalisation",) * 4,
        branch=_alternating(UNITS, ("self_attn",), ("linear1", "linear2")),
        note="Without gradients the layer runs one fused operation with no addition; with a live input it does not.",
    ),
)
