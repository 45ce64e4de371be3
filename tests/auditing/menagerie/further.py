"""Constructs met in families outside the fixture: parts, parallel pieces, queries, cells, lists, transforms, hooks."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .case import Case, names
from .parts import WIDTH, Attention, Unit, conv, image, images, mlp, normal, sequence, vector, vectors

MLP = names(2, "branch.0", "branch.2")


class Written(nn.Module):
    """y = formula(x, F), F = MLP; further parts by name."""

    def __init__(self, formula: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.branch, self.formula = mlp(), formula
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


def two(formula: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> nn.Module:
    """Two equal units with parts of their own."""
    return vectors(*(Written(formula, **copy.deepcopy(parts)) for _ in range(2)))


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


class Ensemble(nn.Module):
    """Three members of two units each, under vmap."""

    def __init__(self) -> None:
        super().__init__()
        members = [two(lambda s, x: x + s.branch(x)) for _ in range(3)]
        stacked, _ = torch.func.stack_module_state(members)
        self.keys = tuple(stacked)
        self.stacked = nn.ParameterList(nn.Parameter(value.detach()) for value in stacked.values())
        self.member = (copy.deepcopy(members[0]),)

    def forward(self, x: Tensor) -> Tensor:
        def one(values: dict[str, Tensor]) -> Tensor:
            out: Tensor = torch.func.functional_call(self.member[0], values, (x,))
            return out

        return torch.func.vmap(one)(dict(zip(self.keys, self.stacked, strict=True)))


class Functional(nn.Module):
    """The network called with parameters that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.scale = two(lambda s, x: x + s.branch(x)), number(1.0)

    def forward(self, x: Tensor) -> Tensor:
        values = {name: value * self.scale for name, value in self.network.named_parameters()}
        out: Tensor = torch.func.functional_call(self.network, values, (x,))
        return out


class Tied(nn.Module):
    """One unit called six times."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit(mlp())

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(6):
            x = self.unit(x)
        return x


class Cell(nn.Module):
    """h_t = GRUCell(x_t, h_{t-1}), h_0 = 0, t = 1 to 5."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], WIDTH)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class Split(nn.Module):
    """y = relu(x + C cat(a, A b, B (c + A b))) with [a, b, c] = split(W x)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second, self.leave = conv(4, 6), conv(2, 2), conv(2, 2), conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.enter(x).split(2, dim=1)
        b = torch.relu(self.first(b))
        c = torch.relu(self.second(c + b))
        return torch.relu(x + self.leave(torch.cat([a, b, c], dim=1)))


class Pieces(nn.Module):
    """y = x + C relu(A x' + N x'), x' = B x, N a batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.layer, self.norm, self.leave = conv(4, 4), conv(4, 4), nn.BatchNorm2d(4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.enter(x))
        return x + self.leave(torch.relu(self.layer(inner) + self.norm(inner)))


class Many(nn.Module):
    """y = relu(A x + B x + C x + D x + N x)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(4, 4) for _ in range(4))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers[0](x)
        for layer in self.layers[1:]:
            out = out + layer(x)
        return torch.relu(out + self.norm(x))


class LowRank(nn.Module):
    """y = x + C relu(A x + U V x): an adapter beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.down, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.relu(self.layer(x) + self.up(self.down(x))))


class Queries(nn.Module):
    """q = learned; q += attention(q, x); q += attention(q, x); y = q."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.first, self.second = nn.Parameter(normal(1, 3, WIDTH)), Attention(), Attention()

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        queries = queries + self.first(queries, x)
        return queries + self.second(queries, x)


class Idle(nn.Module):
    """Two units, and a layer that runs for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.idle = two(lambda s, x: x + s.branch(x)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        self.idle(out)
        return out


class Recurrent(nn.Module):
    """y = x + GRU x, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(WIDTH, WIDTH, batch_first=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)[0]
        return x


class Passed(nn.Module):
    """A value in an object that torch does not know."""

    class Answer:
        """The answer."""

        def __init__(self, value: Tensor) -> None:
            self.value = value

    def __init__(self) -> None:
        super().__init__()
        self.network = two(lambda s, x: x + s.branch(x))

    def forward(self, x: Tensor) -> Answer:
        return self.Answer(self.network(x))


def hooked() -> nn.Module:
    """Two units, the first with a backward hook."""
    module = two(lambda s, x: x + s.branch(x))
    module.get_submodule("units.0").register_full_backward_hook(lambda *_: None)
    return module


def rows(s: Written, x: Tensor) -> Tensor:
    return x.scatter_add(0, torch.arange(len(x))[:, None].expand_as(x), s.branch(x))


def nested() -> tuple[object, ...]:
    """Two sequences of 3 and 2 steps; strided nested tensors exist with a warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (torch.nested.nested_tensor([normal(3, 6), normal(2, 6)]),)


def _case(
    name: str,
    build: Callable[[], nn.Module],
    *h: str,
    inputs: Callable[[], tuple[object, ...]] = vector,
    f: str = "nothing",
    not_seen: tuple[str, ...] = (),
    scale: tuple[float, ...] = (),
    note: str = "",
) -> Case:
    """As many units as kinds of h are given, with the same f, not nested."""
    units = len(h)
    return Case(
        name=name,
        build=build,
        inputs=inputs,
        units=units,
        h=h,
        f=(f,) * units,
        scale=scale,
        not_seen=not_seen,
        note=note,
    )


ONE, SAME = ("identity",), ("identity", "identity")
CASES = (
    _case(
        "checkpointed_reentrantly",
        lambda: two(lambda s, x: x + checkpoint(s.branch, x, use_reentrant=True)),
        not_seen=("CheckpointFunction", "opaque"),
        note="The branch runs without gradients inside a custom function; its backward pass refuses to be asked.",
    ),
    _case("vmapped_ensemble", Ensemble, *SAME),
    _case("functional_call", Functional, *SAME),
    _case("tied_unit_six_times", lambda: vectors(Tied()), *ONE * 6),
    _case("stack_of_gru_layers", lambda: vectors(Recurrent()), *ONE * 3, inputs=sequence),
    _case(
        "gru_cell", Cell, *("gate",) * 4, inputs=sequence, note="The first step starts from zeros: one operand only."
    ),
    _case(
        "fixup_scalars",
        lambda: two(
            lambda s, x: x + s.gain * s.branch(x + s.shift) + s.lift,
            gain=number(1.0),
            shift=number(0.0),
            lift=number(0.0),
        ),
        *SAME,
        note="A learned number added to the trunk leaves the Jacobian an identity: it is no f.",
    ),
    _case(
        "learned_vector_of_ones_on_shortcut",
        lambda: two(lambda s, x: s.gain * x + s.branch(x), gain=nn.Parameter(torch.ones(WIDTH))),
        "scaling",
        "scaling",
        scale=(1.0, 1.0),
        note="Learned: a scaling, though its present value is 1.",
    ),
    _case("sum_of_lists", lambda: two(lambda s, x: torch._foreach_add([x], [s.branch(x)])[0]), *SAME),
    _case("cat_then_sum", lambda: two(lambda s, x: torch.cat([x[None], s.branch(x)[None]]).sum(0)), *SAME),
    _case("scatter_add", lambda: two(rows), *SAME),
    _case("bilinear_branch", lambda: two(lambda s, x: x + s.pair(x, x), pair=nn.Bilinear(WIDTH, WIDTH, WIDTH)), *SAME),
    _case(
        "fourier_branch",
        lambda: two(lambda s, x: s.norm(x + torch.fft.fft2(x).real), norm=nn.LayerNorm(WIDTH)),
        *SAME,
        inputs=sequence,
        f="normalisation",
        note="A Fourier transform is a layer with a fixed matrix.",
    ),
    _case(
        "contracted_stack",
        lambda: two(lambda s, x: torch.einsum("kbd,k->bd", torch.stack([x, s.branch(x)]), x.new_ones(2))),
        not_seen=("units.0", "units.1", "joined"),
        note="A sum, but by a product with ones, which the graph does not show.",
    ),
    _case(
        "maximum",
        lambda: two(lambda s, x: torch.maximum(x, s.branch(x))),
        not_seen=("joined",),
        note="No sum: reported, not counted.",
    ),
    _case("backward_hook", hooked, *SAME),
    _case(
        "parts_inside_a_branch",
        lambda: images(Split()),
        *ONE,
        inputs=image,
        f="relu",
        not_seen=("units.0", "other parts"),
    ),
    _case(
        "pieces_of_a_layer_inside_a_branch",
        lambda: images(Pieces(), Pieces()),
        *SAME,
        inputs=image,
        not_seen=("units.0", "normalised copy"),
    ),
    _case(
        "many_parallel_layers",
        lambda: images(Many(), Many()),
        "other",
        "other",
        inputs=image,
        f="relu",
        note="Four layers in parallel are one layer: no unit stands among them.",
    ),
    _case("adapter_inside_a_branch", lambda: vectors(LowRank(), LowRank()), *SAME),
    _case(
        "learned_queries",
        lambda: vectors(Queries()),
        *ONE,
        inputs=sequence,
        not_seen=("starts from parameters",),
        note="The input does not reach the first sum's shortcut.",
    ),
    _case("layer_for_nothing", Idle, *SAME, not_seen=("idle", "no gradient")),
    _case("output_in_an_object", Passed, *SAME),
    _case(
        "strided_nested_input",
        lambda: two(lambda s, x: x + s.branch(x)),
        inputs=nested,
        not_seen=("nested",),
    ),
)
