"""Networks that torch has changed: compiled, scripted, traced, quantised, on the meta device."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

import warnings
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, Unit, images, mlp, norm_mlp, post_branch, vector, vectors

PAIR = (("first",), ("second",))
POST = ("branch.0", "branch.1", "branch.3", "branch.4")


class Written(nn.Module):
    """u = W x; v = u + A relu u; y = v + B relu v."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        u = self.stem(x)
        v = u + self.first(torch.relu(u))
        return v + self.second(torch.relu(v))


def scripted() -> nn.Module:
    """Two units through torch.jit.script, which exists with a deprecation warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = torch.jit.script(Written())
    return module


def traced() -> nn.Module:
    """Two units through torch.jit.trace, which exists with a deprecation warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast("nn.Module", torch.jit.trace(Written(), vector()))  # type: ignore[no-untyped-call]


def compiled(backend: str) -> Callable[[], nn.Module]:
    """Two units through torch.compile."""

    def build() -> nn.Module:
        return cast("nn.Module", torch.compile(Written(), backend=backend))

    return build


def quantised() -> nn.Module:
    """Two units whose linear layers hold 8-bit weights, which are no parameters; it exists with warnings only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        branches = [
            torch.ao.quantization.quantize_dynamic(branch, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
            for branch in (norm_mlp(), mlp())
        ]
    return vectors(*(Unit(branch) for branch in branches))


def on_meta() -> nn.Module:
    """Three original units without storage."""
    with torch.device("meta"):
        return images(*(Unit(post_branch(4, 4), after=nn.ReLU()) for _ in range(3)))


def _either(
    name: str, build: Callable[[], nn.Module], branch: tuple[tuple[str, ...], ...], reported: str, note: str
) -> Case:
    return Case(
        name=name,
        build=build,
        inputs=vector,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        branch=branch,
        not_seen=(reported,),
        or_not_seen=True,
        note=note,
    )


CASES = (
    _either(
        "compiled",
        compiled("eager"),
        (("_orig_mod.first",), ("_orig_mod.second",)),
        "compil",
        "Names as `named_modules` of the given module has them. The first build imports the compiler: seconds.",
    ),
    _either(
        "compiled_to_one_node",
        compiled("aot_eager"),
        (("_orig_mod.first",), ("_orig_mod.second",)),
        "compil",
        "The whole network is one CompiledFunctionBackward, unless the original is run instead.",
    ),
    _either(
        "scripted", scripted, PAIR, "script", "After a few calls the graph is one opaque node (DifferentiableGraph)."
    ),
    _either("traced", traced, PAIR, "script", "A traced module is a ScriptModule, too."),
    _either(
        "quantised_branch",
        quantised,
        (("units.0.branch.0",), ()),
        "quanti",
        "Packed 8-bit weights are weights, though no nn.Parameter; the second branch has no others. The forward graph "
        "is whole; a backward pass through it gives a UserWarning, which the audit must not let out.",
    ),
    Case(
        name="meta_device",
        build=on_meta,
        inputs=lambda: (torch.empty(2, 3, 8, 8, device="meta"),),
        units=3,
        h=("identity",) * 3,
        f=("relu",) * 3,
        branch=names(3, *POST),
        note="The graph is there; only the measurements have no values.",
    ),
)
