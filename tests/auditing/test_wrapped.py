"""Networks inside torch's distributed wrappers: one process, no network."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh

from cleanpath.auditing.examine import audit
from tests.auditing.menagerie.parts import Unit, mlp, normal, vectors

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="no gloo")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    store = FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def network() -> nn.Module:
    torch.manual_seed(0)
    return vectors(Unit(mlp()), Unit(mlp()))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("inside", [False, True])
def test_data_parallel_is_audited_like_the_bare_module_and_still_trains(inside: bool) -> None:  # noqa: FBT001
    bare, batch = network(), normal(4, 6)
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(copy.deepcopy(bare))
    wrapped = nn.Sequential(wrapped) if inside else wrapped
    wrapped(batch).sum().backward()
    before = [parameter.grad.clone() for parameter in wrapped.parameters() if parameter.grad is not None]
    expected, found = audit(bare, batch), audit(wrapped, batch)
    assert [(u.h, u.f, u.measurements) for u in found.units] == [(u.h, u.f, u.measurements) for u in expected.units]
    after = [parameter.grad for parameter in wrapped.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    wrapped.zero_grad()
    wrapped(batch).sum().backward()
    again = [parameter.grad for parameter in wrapped.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("part", ["", "units.0"])
def test_a_sharded_module_is_refused_by_name(part: str) -> None:
    module = network()
    fsdp.fully_shard(module.get_submodule(part), mesh=init_device_mesh("cpu", (1,)))
    (entry,) = audit(module, normal(4, 6)).not_seen
    assert (entry.what, entry.where) == ("sharded module", part or "(root)")
