"""The monitor: the loop's own numbers, training as without it bit for bit, and nothing left behind."""

# mypy: disable-error-code="no-any-return, operator, no-untyped-call"
# torch types the call of a module as Any, and backward not at all.

import copy
import gc
import io
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import FileStore
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import cleanpath
from cleanpath.auditing import underway
from cleanpath.auditing.backward import Backward
from cleanpath.auditing.forward import ForwardPlan
from cleanpath.auditing.monitoring import Monitor
from cleanpath.auditing.record import Recorder
from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.experiment import Shortcut
from tests.auditing.menagerie.parts import Unit, conv, images, mlp, normal, post_branch, vectors

Loss = Callable[[Tensor, Tensor], Tensor]
PROJECTED = ("direct_gain", "shortcut_defect", "after_defect", "shortcut_gain", "after_gain")
"""Taken from a random gradient of the output, whatever the loss is."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs")


def resnet() -> nn.Module:
    return cleanpath.build("resnet20")


def dropout_shortcuts() -> nn.Module:
    return cleanpath.build("resnet20", shortcut=Shortcut(kind="dropout", rate=0.5))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), encoder, nn.Flatten(1), nn.Linear(24, 10))


def in_place() -> nn.Module:
    return torchvision.models.resnet18(num_classes=10)


class Checkpointed(nn.Module):
    """Two residual units with batch normalisation and dropout, their branches recomputed on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 10)
        self.units = nn.ModuleList(nn.Sequential(post_branch(4, 4), nn.Dropout(0.2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.units:
            x = checkpoint(lambda x, branch=branch: torch.relu(x + branch(x)), x, use_reentrant=False)
        return self.head(x.mean((2, 3)))


NETS: tuple[Callable[[], nn.Module], ...] = (resnet, dropout_shortcuts, transformer, in_place, Checkpointed)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 3, 8, 8, generator=generator), torch.randint(3, (4,), generator=generator))
        for _ in range(count)
    ]


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        n: t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()
    }


def train(model: nn.Module, steps: int) -> list[float]:
    """A plain loop; the losses."""
    torch.manual_seed(2)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), []
    for inputs, labels in batches(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def hooks(model: nn.Module) -> list[Any]:
    own = [list(getattr(module, name)) for module in model.modules() for name in HOOKS]
    on_parameters = [dict(parameter._backward_hooks or {}) for parameter in model.parameters()]
    return [own, on_parameters, len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)]


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[nn.Module, list[float], nn.Module, list[float], Monitor]]:
    """Each net trained twice from one start, without and with a monitor."""
    found = {}
    for build in NETS:
        torch.manual_seed(0)
        plain = build().train()
        watched = copy.deepcopy(plain)
        losses = train(plain, 6)
        with cleanpath.monitor(watched, every=2) as monitor:
            found[build.__name__] = (plain, losses, watched, train(watched, 6), monitor)
    return found


@pytest.mark.parametrize("name", [build.__name__ for build in NETS])
def test_training_is_bit_for_bit_as_without_the_monitor(name: str, trained: dict[str, Any]) -> None:
    plain, losses, watched, watched_losses, monitor = trained[name]
    assert watched_losses == losses
    assert bits(watched) == bits(plain)
    assert sorted(monitor.profiles) == [0, 2, 4]
    assert hooks(watched) == hooks(plain)


@pytest.mark.parametrize("name", [build.__name__ for build in NETS])
def test_every_recorded_step_has_all_numbers(name: str, trained: dict[str, Any]) -> None:
    monitor = trained[name][-1]
    for step, profile in monitor.profiles.items():
        assert profile.units
        assert profile.network.gradient_norm > 0
        for unit in profile.units:
            found = unit.measurements
            assert None not in (found.gradient_rms, found.backward_gain, found.direct_gain, found.branch_gradient)
            assert (found.forward_gain is None) == (name == "in_place" and step == 0)
        missing = [entry.what for entry in profile.not_seen]
        assert missing == (["forward numbers"] if name == "in_place" and step == 0 else [])


def same_numbers(model: nn.Module, step: int) -> None:
    """The monitor at a step beside an audit of a copy in the same state on the same batch."""

    def loss(scores: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, labels)

    train(model, step)
    (inputs, labels), *_ = batches(1)
    with cleanpath.monitor(model, every=1) as monitor:
        for _ in range(2):
            before = copy.deepcopy(model)
            model.zero_grad()
            loss(model(inputs)).backward()
    audit = cleanpath.audit(before, inputs, loss=loss)
    projected = cleanpath.audit(before, inputs)
    profile = monitor.profiles[1]
    assert [unit.name for unit in profile.units] == [unit.name for unit in audit.units]
    assert profile.network.gradient_norm == pytest.approx(audit.network.gradient_norm, rel=1e-5)
    for mine, theirs, other in zip(profile.units, audit.units, projected.units, strict=True):
        assert (mine.h, mine.f, mine.branch, mine.shape) == (theirs.h, theirs.f, theirs.branch, theirs.shape)
        for quantity, value in asdict(mine.measurements).items():
            expected = (other if quantity in PROJECTED else theirs).measurements
            assert value == close(getattr(expected, quantity)), quantity


def close(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("build", [resnet, in_place])
def test_the_numbers_are_those_of_an_audit_in_the_same_state(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    same_numbers(build().train(), 2)


def test_a_profile_is_complete_once_the_backward_pass_has_ended() -> None:
    model = resnet().train()
    (inputs, _), *_ = batches(1)
    with cleanpath.monitor(model, every=1) as monitor:
        output = model(inputs)
        assert monitor.profiles == {}
        output.sum().backward()
        assert monitor.latest is monitor.profiles[0]
        assert monitor.profiles[0].units[0].measurements.gradient_rms


def test_without_a_backward_pass_the_gradients_are_missing_and_it_says_so() -> None:
    model = resnet().train()
    (inputs, _), *_ = batches(1)
    with cleanpath.monitor(model, every=1) as monitor:
        model(inputs)
        model(inputs)
        assert sorted(monitor.profiles) == [0]
    assert sorted(monitor.profiles) == [0, 1]
    for profile in monitor.profiles.values():
        found = profile.units[1].measurements
        assert (found.gradient_rms, found.backward_gain, profile.network.gradient_norm) == (None, None, None)
        assert found.forward_gain is not None
        assert found.direct_gain == pytest.approx(1.0, abs=1.0)
        assert [entry.what for entry in profile.not_seen] == ["gradients"]


def test_only_forward_passes_that_train_are_counted() -> None:
    model = resnet()
    (inputs, _), *_ = batches(1)
    with cleanpath.monitor(model, every=2) as monitor:
        model.eval()
        model(inputs).sum().backward()
        model.train()
        with torch.no_grad():
            model(inputs)
        for _ in range(3):
            checkpoint(model, inputs, use_reentrant=False).sum().backward()
    assert sorted(monitor.profiles) == [0, 2]
    assert monitor._calls == 3


def test_a_monitor_that_saw_nothing_warns() -> None:
    with pytest.warns(UserWarning, match="saw no forward pass of ResNet"), cleanpath.monitor(resnet().eval()):
        pass


def test_accumulation_clipping_and_a_scaled_loss_leave_the_gains() -> None:
    torch.manual_seed(0)
    model = resnet().train()
    other = copy.deepcopy(model)
    (inputs, labels), *_ = batches(1)
    with cleanpath.monitor(model, every=1) as plain:
        nn.functional.cross_entropy(model(inputs), labels).backward()
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    with cleanpath.monitor(other, every=1) as scaled:
        (1024 * nn.functional.cross_entropy(other(inputs), labels)).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1e-3)
    (one,), (two,) = plain.profiles.values(), scaled.profiles.values()
    assert two.network.gradient_norm == pytest.approx(1024 * (one.network.gradient_norm or 0.0), rel=1e-5)
    for mine, theirs in zip(one.units, two.units, strict=True):
        assert mine.measurements.backward_gain == pytest.approx(theirs.measurements.backward_gain, rel=1e-5)


def test_a_gradient_scaler_and_autocast_train_as_without_the_monitor() -> None:
    def run(model: nn.Module) -> list[float]:
        scaler, losses = torch.amp.GradScaler("cpu", init_scale=256.0), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for inputs, labels in batches(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(inputs), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return losses

    plain = resnet().train()
    watched = copy.deepcopy(plain)
    losses = run(plain)
    with cleanpath.monitor(watched, every=2) as monitor:
        assert run(watched) == losses
    assert bits(watched) == bits(plain)
    assert all(unit.measurements.direct_gain for profile in monitor.profiles.values() for unit in profile.units)


class Failing(nn.Module):
    """Raises when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.fault = vectors(Unit(mlp())), False

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        if self.fault:
            raise RuntimeError("the model's own")
        return y


def test_an_exception_of_the_model_passes_and_leaves_nothing() -> None:
    model = Failing().train()
    before = hooks(model)
    monitor = cleanpath.monitor(model, every=1)

    def loop() -> None:
        with monitor:
            for model.fault in (False, True):
                model(normal(4, 6)).sum().backward()

    with monitor:
        model.fault = True
        with pytest.raises(RuntimeError, match="the model's own"):
            model(normal(4, 6))
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    with pytest.raises(RuntimeError, match="the model's own"):
        loop()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert hooks(model) == before
    assert sorted(monitor.profiles) == [1]


def test_an_interrupt_inside_a_recorded_pass_leaves_no_mode() -> None:
    class Interrupted(nn.Linear):
        def forward(self, _x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model = nn.Sequential(nn.Linear(6, 6), Interrupted(6, 6))
    with pytest.raises(KeyboardInterrupt), cleanpath.monitor(model):
        model(normal(4, 6))
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert hooks(model) == hooks(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))


FAULTS = (
    (Recorder, "_follow"),
    (ForwardPlan, "__call__"),
    (Backward, "direct"),
    (Backward, "_gaussian"),
    (Backward, "listen"),
    (underway, "norm"),
)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("error", [ValueError("ours"), torch.OutOfMemoryError("ours")], ids=["error", "memory"])
@pytest.mark.parametrize(("kind", "method"), FAULTS, ids=[method for _, method in FAULTS])
def test_a_failure_of_our_own_does_not_reach_the_loop(
    kind: Any, method: str, error: Exception, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    plain = images(Unit(post_branch(4, 4), after=nn.ReLU()), Unit(post_branch(4, 4))).train()
    watched = copy.deepcopy(plain)
    losses = train(plain, 4)
    original, before = getattr(kind, method), hooks(watched)
    with cleanpath.monitor(watched, every=1) as monitor:

        def fail(*given: Any, **named: Any) -> Any:
            if monitor._calls > start:
                raise error
            return original(*given, **named)

        monkeypatch.setattr(kind, method, fail)
        assert train(watched, 4) == losses
    assert bits(watched) == bits(plain)
    assert hooks(watched) == before
    assert sorted(monitor.profiles) == [0, 1, 2, 3]
    for step, profile in monitor.profiles.items():
        said = [entry.reason for entry in profile.not_seen if "ours" in entry.reason]
        assert bool(said) == (step >= start), profile.not_seen


class Turning(nn.Module):
    """Takes one unit or two, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.both = vectors(Unit(mlp()), Unit(mlp())), True

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.units[0](self.net.stem(x))
        return self.net.head(self.net.units[1](x) if self.both else x)


def test_another_way_through_the_model_is_found_anew_at_the_next_pass() -> None:
    model = Turning().train()
    with cleanpath.monitor(model, every=3) as monitor:
        for step in range(8):
            model.both = step < 3
            model(normal(4, 6)).sum().backward()
    assert {step: len(profile.units) for step, profile in monitor.profiles.items()} == {0: 2, 4: 1, 6: 1}


def test_a_model_that_turns_at_every_pass_is_still_seen() -> None:
    model = Turning().train()
    with cleanpath.monitor(model, every=2) as monitor:
        for step in range(12):
            model.both = step % 3 == 0
            model(normal(4, 6)).sum().backward()
    late = {step: profile for step, profile in monitor.profiles.items() if step >= 6}
    assert sorted(late) == [6, 8, 10]
    assert {step: len(profile.units) for step, profile in late.items()} == {6: 2, 8: 1, 10: 1}
    assert all(unit.measurements.forward_gain for profile in late.values() for unit in profile.units)


def test_frozen_parts_have_no_graph_and_it_says_so() -> None:
    torch.manual_seed(0)
    model = vectors(Unit(mlp()), Unit(mlp()), Unit(mlp())).train()
    for module in (model.stem, model.units[0]):
        module.requires_grad_(requires_grad=False)
    with cleanpath.monitor(model) as monitor:
        model(normal(4, 6)).sum().backward()
    (profile,) = monitor.profiles.values()
    assert [unit.name for unit in profile.units] == ["units.2"]
    assert [(entry.what, entry.count) for entry in profile.not_seen] == [("frozen parameters", 6)]


def test_what_lies_before_the_module_is_not_its_own() -> None:
    """A discriminator that is fed by a generator: the graph ends at its input."""
    torch.manual_seed(0)
    generator, model = vectors(Unit(mlp())), vectors(Unit(mlp()), Unit(mlp())).train()
    stretch = nn.Linear(3, 6)
    with cleanpath.monitor(model) as monitor:
        model(stretch(generator(normal(4, 6)))).sum().backward()
    (profile,) = monitor.profiles.values()
    assert [unit.name for unit in profile.units] == ["units.0", "units.1"]
    assert profile.not_seen == ()


def test_a_recorded_pass_keeps_no_tensor_beyond_the_loop_s_own() -> None:
    model = images(Unit(post_branch(4, 4)), Unit(post_branch(4, 4))).train()
    (inputs, _), *_ = batches(1)
    kept: list[Any] = []
    relu = model.get_submodule("units.1.branch.2")
    handle = relu.register_forward_hook(lambda _module, _inputs, output: kept.append(weakref.ref(output)))
    gc.disable()
    try:
        with cleanpath.monitor(model, every=1) as monitor:
            for step in range(6):
                output = model(inputs)
                assert kept[-1]() is not None  # the graph holds it
                if step % 2:
                    output.sum().backward()
                del output  # a graph may never see a backward pass
                assert kept.pop()() is None, step
    finally:
        gc.enable()
        handle.remove()
    assert sorted(monitor.profiles) == [0, 1, 2, 3, 4, 5]


def test_hooks_of_others_on_the_model_may_compute_something() -> None:
    model = vectors(Unit(mlp()), Unit(mlp())).train()
    with cleanpath.monitor(model) as monitor:
        handle = model.register_forward_hook(lambda _module, _inputs, output: 2 * output, prepend=True)
        model(normal(4, 6)).sum().backward()
        handle.remove()
    assert monitor.profiles[0].not_seen == ()
    assert len(monitor.profiles[0].units) == 2


def test_what_is_measured_is_not_counted_by_a_mode_of_the_loop() -> None:
    model = resnet().train()
    (inputs, _), *_ = batches(1)

    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            model(inputs).sum().backward()
        return counter.get_total_flops()

    plain = flops()
    with cleanpath.monitor(model, every=1):
        assert [flops(), flops()] == [plain, plain]


def test_copies_and_files_of_a_monitored_model_do_not_count() -> None:
    model = vectors(Unit(mlp())).train()
    with cleanpath.monitor(model, every=1) as monitor:
        double = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for each in (double, loaded, model):
            each(normal(4, 6)).sum().backward()
    assert sorted(monitor.profiles) == [0]


def test_two_monitors_on_one_model_record_both() -> None:
    """The outer one also meets the operations of the inner one's measuring, so it finds the units anew."""
    model = resnet().train()
    with cleanpath.monitor(model, every=1) as outer, cleanpath.monitor(model, every=2) as inner:
        train(model, 4)
    assert (sorted(outer.profiles), sorted(inner.profiles)) == ([0, 1, 3], [0, 2])
    assert outer.profiles[0].units[1].measurements == inner.profiles[0].units[1].measurements


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("given", ["the compiled module", "the module itself"])
def test_compiled_models_run_a_recorded_pass_as_they_are_written(given: str) -> None:
    torch.manual_seed(0)
    plain = vectors(Unit(mlp()), Unit(mlp())).train()
    model, inputs = copy.deepcopy(plain), [normal(4, 6)] * 5
    ran = list[int]()

    def backend(graph: Any, _example: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            ran.append(monitor._calls - 1)
            return graph.forward(*args)

        return run

    torch._dynamo.reset()
    compiled = cast("nn.Module", torch.compile(model, backend=backend))
    with cleanpath.monitor(compiled if given == "the compiled module" else model, every=2) as monitor:
        losses = train_on(compiled, model, inputs)
    assert losses == train_on(plain, plain, inputs)
    assert bits(model) == bits(plain)
    assert ran == [1, 3]
    assert sorted(monitor.profiles) == [0, 2, 4]
    for profile in monitor.profiles.values():
        assert [unit.name for unit in profile.units] == ["units.0", "units.1"]
        assert all(unit.measurements.gradient_rms for unit in profile.units)


def train_on(call: Callable[[Tensor], Tensor], model: nn.Module, inputs: list[Tensor]) -> list[float]:
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for each in inputs:
        optimizer.zero_grad()
        loss = call(each).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    store = FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="no gloo")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("given", ["the wrapper", "the module itself"])
def test_a_data_parallel_model_trains_as_without_the_monitor(given: str) -> None:
    torch.manual_seed(0)
    plain, watched = (
        nn.parallel.DistributedDataParallel(net) for net in [resnet().train()] for net in (net, copy.deepcopy(net))
    )
    losses = train(plain, 4)
    with cleanpath.monitor(watched if given == "the wrapper" else watched.module, every=2) as monitor:
        assert train(watched, 4) == losses
    assert bits(watched) == bits(plain)
    assert sorted(monitor.profiles) == [0, 2]
    assert monitor.profiles[2].units[0].name == "stages.stage1.unit1"


def test_history_is_one_list_per_unit_and_knows_its_quantities() -> None:
    model = resnet().train()
    with cleanpath.monitor(model, every=2) as monitor:
        train(model, 3)
    history = monitor.history("backward_gain")
    assert list(history) == [unit.name for unit in monitor.profiles[0].units]
    assert history["stages.stage1.unit2"] == [
        (step, monitor.profiles[step].units[1].measurements.backward_gain) for step in (0, 2)
    ]
    assert monitor.history("saturated_gate_share")["stages.stage1.unit1"] == []
    with pytest.raises(UnknownNameError, match="no measurement 'backward_gains'"):
        monitor.history("backward_gains")


def test_each_profile_is_written_as_one_line_when_it_comes(tmp_path: Path) -> None:
    model, path = resnet().train(), tmp_path / "profiles.jsonl"
    with cleanpath.monitor(model, every=2, out=path) as monitor:
        train(model, 3)
        model(batches(1)[0][0])
        assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [0, 2]
    for line in lines:
        assert cleanpath.Profile.from_data(line["profile"]).units[1] == monitor.profiles[line["step"]].units[1]


def test_a_file_that_exists_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(UserError, match="there exists already and is not overwritten; name another file"):
        cleanpath.monitor(resnet(), out=tmp_path / "there").__enter__()
    with pytest.raises(UserError, match=r"cannot write profiles to .*: No such file"):
        cleanpath.monitor(resnet(), out=tmp_path / "no" / "folder").__enter__()


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_every_must_be_a_whole_number_of_passes(every: Any) -> None:
    with pytest.raises(SettingError, match=f"every={every}"):
        cleanpath.monitor(resnet(), every=every)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"monitor needs a torch\.nn\.Module, this is a function"):
        cleanpath.monitor(resnet)  # type: ignore[arg-type]


def test_a_forward_pass_that_is_not_finite_is_named() -> None:
    model = vectors(Unit(mlp()), Unit(mlp())).train()
    with torch.no_grad():
        dict(model.named_parameters())["units.1.branch.0.weight"].fill_(float("inf"))
    with cleanpath.monitor(model) as monitor:
        model(normal(4, 6)).sum().backward()
    (profile,) = monitor.profiles.values()
    assert profile.network.first_non_finite == "the output of units.1, or before it"
