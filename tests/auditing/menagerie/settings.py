"""Ordinary networks in unusual settings: wrapped, checkpointed, frozen, detached, conditional, of many outputs."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from .case import Case, Inputs, names
from .parts import (
    WIDTH,
    Net,
    Unit,
    image,
    images,
    mlp,
    norm_mlp,
    post_branch,
    sequence,
    token_ids,
    vector,
    vectors,
)

MLP = names(2, "branch.0", "branch.2")
POST = ("branch.0", "branch.1", "branch.3", "branch.4")


class Wrapper(nn.Module):
    """What DistributedDataParallel looks like from outside: the network is `module`, arguments pass through."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.module(*args, **kwargs)


class Checkpointed(nn.Module):
    """y = x + F(x); F is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return x + checkpoint(self.branch, x, use_reentrant=False)


class CheckpointedWhole(nn.Module):
    """y = unit(x), the whole unit inside a re-entrant checkpoint: one opaque node."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit(mlp())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.unit, x, use_reentrant=True)


class WithoutGradients(nn.Module):
    """y = net(x) under no_grad: no graph is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.net = vectors(Unit(mlp()), Unit(mlp()))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Detached(nn.Module):
    """y = stop(x): identity forward, nothing backward."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Branching(nn.Module):
    """y = x + A(x) if Σ|x| ≥ 0, else x + B(x); then again while the count of calls, read off x, is below 2."""

    def __init__(self) -> None:
        super().__init__()
        self.usual, self.unusual = mlp(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        repeats = 0
        while repeats < 1 + int(x.abs().sum() >= 0):
            x = x + (self.usual(x) if bool(x.abs().sum() >= 0) else self.unusual(x))
            repeats += 1
        return x


class SpareParts(nn.Module):
    """y = units(x); `spare` is built and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.units = vectors(Unit(mlp()), Unit(mlp()))
        self.spare = Unit(mlp())

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x)


class Conditioned(nn.Module):
    """u = A x + E t, y = x + B relu(u): a second input enters inside the branch, as in diffusion models."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.embed, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x + self.last(torch.relu(self.first(x) + self.embed(time)))


class TwoInputs(nn.Module):
    """Two conditioned units on W x; keyword inputs `sample` and `time`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.clock = nn.Linear(6, WIDTH), nn.Linear(1, WIDTH)
        self.units = nn.ModuleList(Conditioned() for _ in range(2))

    def forward(self, *, sample: Tensor, time: Tensor) -> Tensor:
        x, clock = self.stem(sample), self.clock(time)
        for unit in self.units:
            x = unit(x, clock)
        return x


class SeveralOutputs(nn.Module):
    """Returns (loss, (logits, None), [x_1, x_2]) for integer inputs and labels; an auxiliary head after unit 1."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.units = nn.Embedding(11, WIDTH), nn.ModuleList(Unit(norm_mlp()) for _ in range(2))
        self.auxiliary, self.head = nn.Linear(WIDTH, 11), nn.Linear(WIDTH, 11)

    def forward(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, None], list[Tensor]]:
        states: list[Tensor] = []
        x = self.tokens(ids)
        for unit in self.units:
            x = unit(x)
            states.append(x)
        logits = self.head(x)
        both = torch.cat([logits, self.auxiliary(states[0])]).flatten(0, 1)
        loss = nn.functional.cross_entropy(both, labels.flatten().repeat(2))
        return loss, (logits, None), states


def hooked() -> nn.Module:
    """Three plain layers; a forward hook adds each one's input to its output: y = x + F(x)."""
    layers = [mlp() for _ in range(3)]
    for layer in layers:
        layer.register_forward_hook(lambda _module, inputs, output: output + inputs[0])
    return vectors(*layers)


def normalised_weights() -> nn.Module:
    """F = W2 relu(W1 x), each W = g v/|v|."""
    return vectors(
        *(
            Unit(
                nn.Sequential(
                    parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
                    nn.ReLU(),
                    parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
                )
            )
            for _ in range(2)
        )
    )


def frozen_tokens() -> nn.Module:
    """Embedding, two units, head; integer inputs, and no parameter requires a gradient."""
    units = (Unit(norm_mlp()), Unit(norm_mlp()))
    return Net(nn.Embedding(11, WIDTH), units, nn.Linear(WIDTH, 3)).requires_grad_(requires_grad=False)


def in_eval() -> nn.Module:
    """y = relu(dropout(x) + F(x)) in eval mode, where dropout is the identity."""
    return images(*(Unit(post_branch(4, 4), nn.Dropout(0.5), nn.ReLU()) for _ in range(2))).eval()


def _two(
    name: str,
    build: Callable[[], nn.Module],
    inputs: Callable[[], Inputs] = vector,
    *,
    kind: str = "identity",
    branch: tuple[tuple[str, ...], ...] = MLP,
    not_seen: tuple[str, ...] = (),
    or_not_seen: bool = False,
    note: str = "",
) -> Case:
    return Case(
        name=name,
        build=build,
        inputs=inputs,
        units=2,
        h=(kind, kind),
        f=("nothing", "nothing"),
        branch=branch,
        not_seen=not_seen,
        or_not_seen=or_not_seen,
        note=note,
    )


CASES = (
    _two(
        "wrapped",
        lambda: Wrapper(vectors(Unit(mlp()), Unit(mlp()))),
        branch=tuple(tuple(f"module.{layer}" for layer in layers) for layers in MLP),
    ),
    Case(
        name="eval_mode",
        build=in_eval,
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("relu", "relu"),
        branch=names(2, *POST),
        note="In eval mode the dropout shortcut is an identity; the audit does not change the mode.",
    ),
    _two("checkpointed_branch", lambda: vectors(Checkpointed(), Checkpointed())),
    _two(
        "checkpointed_unit_reentrant",
        lambda: vectors(CheckpointedWhole(), CheckpointedWhole()),
        branch=names(2, "unit.branch.0", "unit.branch.2"),
        not_seen=("checkpoint",),
        or_not_seen=True,
        note="The sum runs without gradients inside CheckpointFunction: opaque to the graph.",
    ),
    _two(
        "bfloat16",
        lambda: vectors(Unit(norm_mlp()), Unit(norm_mlp())).bfloat16(),
        lambda: (torch.ones(2, 5, 6, dtype=torch.bfloat16),),
        branch=names(2, "branch.0", "branch.1", "branch.3"),
    ),
    _two(
        "no_grad_inside",
        WithoutGradients,
        branch=tuple(tuple(f"net.{layer}" for layer in layers) for layers in MLP),
        not_seen=("grad",),
        or_not_seen=True,
    ),
    _two(
        "stream_detached_between_units",
        lambda: vectors(Unit(mlp(), after=Detached()), Unit(mlp())),
        not_seen=("detach",),
        or_not_seen=True,
        note="The output's graph does not reach the first unit. As `detach` stands after one sum of two, it is not f.",
    ),
    _two(
        "detached_shortcut",
        lambda: vectors(Unit(mlp(), Detached()), Unit(mlp(), Detached())),
        kind="other",
        not_seen=("detach",),
        or_not_seen=True,
        note="h passes the value and stops the gradient: no identity, which passes both.",
    ),
    _two(
        "frozen_parameters",
        frozen_tokens,
        lambda: (token_ids(),),
        branch=names(2, "branch.0", "branch.1", "branch.3"),
        note="Nothing requires a gradient and the input cannot: the embedding's output must be made live.",
    ),
    _two(
        "module_never_called",
        SpareParts,
        branch=tuple(tuple(f"units.{layer}" for layer in layers) for layers in MLP),
        not_seen=("spare",),
    ),
    _two(
        "data_dependent_control_flow",
        lambda: vectors(Branching()),
        branch=(("units.0.usual.0", "units.0.usual.2"),) * 2,
        not_seen=("unusual",),
        note="Two rounds of the loop, one way through the condition; the other way was not taken and is reported.",
    ),
    _two(
        "two_keyword_inputs",
        TwoInputs,
        lambda: {"sample": sequence()[0], "time": torch.full((2, 1, 1), 0.5)},
        branch=names(2, "first", "last"),
        note="A x + E t has two weighted operands: inside F, not a unit.",
    ),
    _two(
        "several_outputs",
        SeveralOutputs,
        lambda: {"ids": token_ids(), "labels": token_ids().flip(0)},
        branch=names(2, "branch.0", "branch.1", "branch.3"),
    ),
    Case(
        name="sum_in_forward_hook",
        build=hooked,
        inputs=vector,
        units=3,
        h=("identity",) * 3,
        f=("nothing",) * 3,
        branch=names(3, "0", "2"),
        note="The sum is computed by the user's hook, in no module's forward.",
    ),
    _two(
        "weight_normalised",
        normalised_weights,
        branch=(),
        note="The weights belong to parametrisations below the linear layers: no claim on their names.",
    ),
)
