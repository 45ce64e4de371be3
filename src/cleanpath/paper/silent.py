"""Where the paper is silent: what the cells of a table do there, in a sentence made from their experiments."""

from collections.abc import Callable, Mapping, Sequence

from cleanpath.experiment import Experiment, Network

Key = tuple[str, str]
_Choice = Callable[[Experiment, Network], str | None]


def where_silent(cells: Mapping[Key, Experiment], named: Callable[[Sequence[Key]], str]) -> tuple[str, ...]:
    """One sentence for all that these cells, by row and column, have of it; none if they have nothing.

    What most cells do comes first; those that do otherwise are `named`.
    """
    choices = (_norm_of_1x1, _norm_of_projection, _stride, _shared, _dropout, _decay)
    parts = [part for choice in choices if (part := _said(cells, choice, named))]
    return (f"Where the paper is silent: {'; '.join(parts)}.",) if parts else ()


def _said(cells: Mapping[Key, Experiment], choice: _Choice, named: Callable[[Sequence[Key]], str]) -> str:
    ways: dict[str, list[Key]] = {}
    for key, one in cells.items():
        if isinstance(one.network, Network) and (way := choice(one, one.network)) is not None:
            ways.setdefault(way, []).append(key)
    usual, *others = sorted(ways, key=lambda way: -len(ways[way])) or [""]
    return "".join([usual, *(f" ({way}: {named(ways[way])})" for way in others)])


def _norm_of_1x1(_: Experiment, network: Network) -> str | None:
    if network.shortcut.kind != "conv_1x1":
        return None
    return f"{'a' if network.shortcut.norm else 'no'} BN follows the 1×1 convolution on the shortcut"


def _norm_of_projection(_: Experiment, network: Network) -> str | None:
    if network.widening == "A" or network.shortcut.kind in ("none", "conv_1x1"):
        return None
    return f"{'a' if network.widening_norm else 'no'} BN follows the projection where the width changes"


def _stride(_: Experiment, network: Network) -> str | None:
    if network.branch != "bottleneck":
        return None
    return f"bottlenecks have their stride on the {'first 1×1' if network.stride_on == 'first' else '3×3'}"


def _shared(_: Experiment, network: Network) -> str | None:
    if not network.placement.endswith("preactivation"):
        return None
    shared = network.widening_input == "activated"
    return f"pre-activation is {'shared' if shared else 'for F alone'} where the width changes"


def _dropout(_: Experiment, network: Network) -> str | None:
    if network.shortcut.kind != "dropout":
        return None
    return f"dropout is the form that is {'' if network.shortcut.inverted else 'not '}inverted"


def _decay(one: Experiment, _: Network) -> str | None:
    on = {
        "all": "all parameters",
        "weights": "the weights of layers only",
        "all_but_gate_bias": "all parameters but the gates' bias",
    }[one.training.decay_on]
    return f"weight decay acts on {on}"
