"""`audit`: find the residual units of a module, measure the signal both ways, and leave the module as it was.

    profile = audit(model, images)
    profile = audit(model, {"input_ids": ids, "attention_mask": mask}, draws=4)
    profile = audit(model, (sample, time), loss=lambda output: output.square().mean())

The units come from one pass under observation. What it left in memory is measured; where it overwrote something that is
needed, and for further batches and draws, an equal pass is measured while it runs.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cleanpath.auditing.backward import Backward, Ends
from cleanpath.auditing.classifier import classes_of
from cleanpath.auditing.describe import Around, branch_parameters, surroundings, unit_names
from cleanpath.auditing.forward import ForwardPlan, Numbers, norm, plan_forward
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.nonfinite import first_non_finite
from cleanpath.auditing.operations import Words, words
from cleanpath.auditing.passes import Observer, Pass
from cleanpath.auditing.patient import Parts, Patient
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.record import tensors_in
from cleanpath.auditing.rows import Drawn, network_row, unit_rows
from cleanpath.auditing.standing import check_optimizer, optimizer_row, standing
from cleanpath.auditing.trace import Traced, trace
from cleanpath.auditing.unseen import unreached, unseen
from cleanpath.auditing.values import NotSeen, UnitRow
from cleanpath.auditing.verdict import verdict
from cleanpath.devices import exact, of
from cleanpath.errors import SettingError, UserError
from cleanpath.garbage import uncollected
from cleanpath.kernels import sound

Loss = Callable[[Any], Tensor]


@dataclass
class Structure:
    """What one observed pass shows, without the memory it took."""

    graph: Graph
    traced: Traced
    around: list[Around]
    words: Words
    not_seen: list[NotSeen]
    unreached: list[str]

    def plan(self) -> ForwardPlan:
        """What is to be measured on the way forward."""
        return plan_forward(self.graph, self.traced.units, self.around)


@dataclass
class Measured:
    """A pass whose forward numbers were taken; the structure's graph is ready for the way back."""

    structure: Structure
    seen: Pass
    plan: ForwardPlan


def audit(  # noqa: PLR0913 (keyword options of the one public function)
    model: nn.Module,
    batch: object,
    *,
    loss: Loss | None = None,
    further_batches: Sequence[object] = (),
    optimizer: Optimizer | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Profile:
    """Audit any module on a batch: a tensor, a tuple of several inputs, or a dictionary of keyword inputs.

    `loss` maps the model's output to a scalar; by default it is a fixed random projection of every floating output.
    With several batches, or several draws of the dropout masks for each, measurements are means, with their spread.
    With the `optimizer` that will train the model, its weight decay on gates and scales is judged too.
    The module is audited in the mode it is in, and is afterwards as before, bit for bit, also after an exception.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"audit needs a torch.nn.Module, this is a {type(model).__name__}")
    if draws < 1:
        raise SettingError(f"draws={draws}: at least one is needed")
    if not isinstance(further_batches, list | tuple):
        raise UserError(f"further_batches must be a list of batches, this is a {type(further_batches).__name__}")
    if optimizer is not None:
        check_optimizer(optimizer, model)
    parts = Parts.of(model)
    refusal = refusal_of(parts, batch)
    if refusal is not None:
        return unread(parts, refusal)
    with Patient(parts) as patient, warnings.catch_warnings(), uncollected(), sound(model), exact(of(model)):
        warnings.simplefilter("ignore")
        seeds = [
            (each, seed + draw + 1000 * at)
            for at, each in enumerate((batch, *further_batches))
            for draw in range(draws)
        ]
        structure, drawn = _drawn(Observer(patient), seeds, loss)
        decay = optimizer_row(parts, structure.graph, structure.traced.units, optimizer) if optimizer else None
    door = {**standing(parts, patient.was_trainable()), "optimizer": decay, "loss_given": loss is not None}
    return profile_of(parts, structure, drawn, door)


def profile_of(parts: Parts, structure: Structure, drawn: Sequence[Drawn], door: Mapping[str, Any]) -> Profile:
    """What was measured as a profile; `door` holds the network's fields that were read before the first pass."""
    units = unit_rows(parts, structure.graph, structure.traced.units, structure.around, structure.words, drawn)
    network = network_row(parts, structure.graph, drawn, structure.traced, structure.words)
    network = replace(network, unreached=tuple(structure.unreached), **door)
    told = [*structure.not_seen, *(entry for one in drawn for entry in one.not_seen), *_without_signal(units)]
    seen = tuple(dict.fromkeys(told))
    return Profile(verdict=verdict(units, network, seen), units=units, network=network, not_seen=seen)


def _without_signal(units: Sequence[UnitRow]) -> Iterator[NotSeen]:
    """Zero has no gains: the way back is not measured where the loss does not depend on what the units do."""
    if units and all(unit.measurements.gradient_rms == 0.0 for unit in units):
        reason = "no gradient reaches any unit, as behind a head whose weights start at zero"
        yield NotSeen(what="the way back", where="(root)", reason=reason)


def unread(parts: Parts, *reasons: NotSeen) -> Profile:
    """The profile of a network in which nothing was seen."""
    network = network_row(parts, None, [])
    return Profile(verdict=verdict((), network, reasons), network=network, not_seen=reasons)


def refusal_of(parts: Parts, batch: object) -> NotSeen | None:
    """Modules and inputs that cannot be run as they are."""
    if any(tensor.is_nested and tensor.layout == torch.strided for tensor in tensors_in(batch)):
        reason = "torch does not show the shapes inside a strided nested tensor; give a padded or a jagged one"
        return NotSeen(what="nested input", where="(root)", reason=reason)
    if any(is_lazy(tensor) for tensor in (*parts.parameters.values(), *parts.buffers)):
        return NotSeen(
            what="lazy modules", where="(root)", reason="their parameters have no shape yet; run one batch first"
        )
    sharded = sys.modules.get("torch.distributed.fsdp")
    kinds = tuple(
        getattr(sharded, name) for name in ("FullyShardedDataParallel", "FSDPModule") if hasattr(sharded, name)
    )
    for name, module in parts.modules.items() if kinds else ():
        if isinstance(module, kinds):
            reason = "sharded parameters live on several machines; audit the module before it is sharded (FSDP)"
            return NotSeen(what="sharded module", where=name or "(root)", reason=reason)
    return None


def _drawn(observer: Observer, seeds: Sequence[tuple[object, int]], loss: Loss | None) -> tuple[Structure, list[Drawn]]:
    """The structure that the first batch shows, and the numbers of every batch and draw; none on the meta device."""
    drawn = list[Drawn]()
    structure, measured = _observe(observer, *seeds[0])
    for batch, seed in () if observer.on_meta else seeds:
        measured = measured or _measured(observer, structure, batch, seed)
        if measured is not None:
            one, finite = _taken(observer, measured, loss)
            measured = None
            if not finite:
                one = replace(one, non_finite=first_non_finite(observer, batch, seed, one.gradient_norm))
            drawn.append(one)
        elif not drawn:
            reason = "two passes with the same random numbers took different ways; nothing was measured"
            drawn.append(Drawn(not_seen=(NotSeen(what="control flow", where="(root)", reason=reason),)))
    return structure, drawn


def _observe(observer: Observer, batch: object, seed: int) -> tuple[Structure, Measured | None]:
    """The structure of one pass, and its numbers if nothing that is needed was overwritten."""
    seen = observer.run(batch, seed)
    structure = structure_of(observer.parts, seen, observer.patient.was_trainable())
    plan = structure.plan()
    whole = not observer.on_meta and plan.afterwards(seen.record.written)
    seen.graph.release(edges=not whole)
    return structure, Measured(structure, seen, plan) if whole else None


def structure_of(parts: Parts, seen: Pass, trainable: Sequence[bool]) -> Structure:
    """What a pass shows whose operations kept their tensors; `trainable` are the parameters' flags at the door."""
    recurrent = {name for name, module in parts.modules.items() if isinstance(module, nn.RNNBase)}
    traced = trace(seen.graph, recurrent)
    around = surroundings(seen.graph, traced.units)
    names = unit_names(seen.graph, traced.units)
    return Structure(
        seen.graph,
        traced,
        around,
        words(seen.graph, traced.units, around, names, parts.modules),
        unseen(parts, seen, traced, trainable),
        unreached(parts, seen, trainable),
    )


def _measured(observer: Observer, structure: Structure, batch: object, seed: int) -> Measured | None:
    """One more pass; if the model takes another way than when it was observed, its units are found anew."""
    measured = _again(observer, structure, batch, seed)
    if measured is None:
        structure, measured = _observe(observer, batch, seed)
    return measured or _again(observer, structure, batch, seed)


def _again(observer: Observer, structure: Structure, batch: object, seed: int) -> Measured | None:
    """A pass measured while it runs; None if it went another way."""
    plans = list[ForwardPlan]()

    def watcher() -> ForwardPlan:
        plans.append(structure.plan())
        return plans[-1]

    seen = observer.run(batch, seed, watcher)
    if seen.graph.kinds != structure.graph.kinds or seen.graph.parents != structure.graph.parents:
        return None
    structure.graph.edges[:] = seen.graph.edges
    return Measured(structure, seen, plans[-1])


def _taken(observer: Observer, measured: Measured, loss: Loss | None) -> tuple[Drawn, bool]:
    """All measurements of one pass, and whether they and its outputs are finite; its graph is let go."""
    try:
        drawn = _way_back(observer, measured, loss)
    finally:
        measured.structure.graph.edges.clear()
    finite = all(map(math.isfinite, drawn.values.values()))
    return drawn, finite and all(bool(output.isfinite().all()) for output in measured.seen.outputs)


def _way_back(observer: Observer, measured: Measured, loss: Loss | None) -> Drawn:
    """The numbers of the way forward together with those of the backward passes."""
    here, seen = measured.structure, measured.seen
    wanted = [parameter for parameter in observer.parts.parameters.values() if parameter.requires_grad]
    ends = _ends(seen, loss, [*wanted, *seen.leaves])
    trouble = [untaken("measurements", "a number of the forward pass", error) for error in measured.plan.troubles]
    if ends is None:
        return Drawn(values_of(here.words.names, measured.plan.numbers), not_seen=tuple(trouble))
    backward = Backward(here.graph, here.traced.units, here.around, ends)
    gradient_norm, classes, uniform_loss = None, None, None
    try:
        classes, uniform_loss = classes_of(seen, ends.outputs[0] if loss is not None else None)
        sizes = _gradient_sizes(observer, ends, backward.full())
        gradient_norm = float(torch.stack(list(sizes.values())).double().norm()) if sizes else None
        backward.numbers.update(of_branches(here, sizes))
        backward.direct()
        backward.defects()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (a custom function's backward may raise anything)
        trouble.append(untaken("gradients", "the backward pass", error))
    values = values_of(here.words.names, {**measured.plan.numbers, **backward.numbers})
    return Drawn(
        values,
        _loss(ends),
        gradient_norm,
        classes=classes,
        uniform_loss=uniform_loss,
        not_seen=tuple(trouble),
    )


def untaken(what: str, where: str, error: Exception) -> NotSeen:
    """The entry for something that could not be measured because of an exception."""
    reason = f"{where} raised {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return NotSeen(what=what, where="(root)", reason=reason)


def values_of(names: Sequence[str], numbers: Numbers) -> dict[tuple[str, str], float]:
    """The measured numbers by unit and quantity; fetched from the device at once."""
    if not numbers:
        return {}
    # Some are on the processor already; a model may be spread over several devices.
    devices = {number.device for number in numbers.values()}
    there = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
    fetched = torch.stack([number.detach().to(there, torch.float64) for number in numbers.values()]).tolist()
    return {(names[index], what): value for (index, what), value in zip(numbers, fetched, strict=True)}


def _loss(ends: Ends) -> float:
    parts = (torch.sum(o.detach() * c).real.double().cpu() for o, c in zip(ends.outputs, ends.cotangents, strict=True))
    return float(sum(parts, torch.zeros((), dtype=torch.float64)))


def _gradient_sizes(observer: Observer, ends: Ends, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """The norms of the gradients of all parameters that were to be trained, by name; if none was, of all."""
    trainable = observer.patient.was_trainable()
    every = not any(trainable)
    names = {
        id(parameter): name
        for (name, parameter), wanted in zip(observer.parts.parameters.items(), trainable, strict=True)
        if wanted or every
    }
    pairs = zip(ends.inputs, gradients, strict=True)
    return {names[id(one)]: norm(grad).cpu() for one, grad in pairs if grad is not None and id(one) in names}


def of_branches(structure: Structure, sizes: dict[str, Tensor]) -> Numbers:
    """The norm of the gradient over the parameters of each F."""
    found: Numbers = {}
    for index, unit in enumerate(structure.traced.units):
        own = [sizes[name] for name in branch_parameters(structure.graph, unit) if name in sizes]
        if own:
            found[index, "branch_gradient"] = torch.stack(own).norm()
    return found


def _ends(seen: Pass, loss: Loss | None, inputs: Sequence[Tensor]) -> Ends | None:
    """Where the backward pass starts: the user's loss, or the fixed random projection."""
    if not seen.outputs or not inputs:
        return None
    if loss is not None:
        value = loss(seen.output)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.grad_fn is None:
            raise UserError("loss must return a tensor of one number that depends on the model's output")
        return Ends([value], [torch.ones_like(value)], inputs)
    return Ends(seen.outputs, projection(seen.outputs), inputs)


def projection(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Fixed random gradients of the outputs, as of a loss that projects them."""
    generator = torch.Generator().manual_seed(0)
    cotangents = []
    for output in outputs:
        draw = torch.randn(output.shape, generator=generator, dtype=torch.float32) / max(output.numel(), 1) ** 0.5
        cotangents.append(draw.to(device=output.device, dtype=output.dtype))
    return cotangents
