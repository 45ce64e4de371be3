"""What `cleanpath doctor` looks at, and what it says where something is wrong."""

import builtins
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cleanpath
from cleanpath import health
from tests.helpers import here, nothing_written


def by_name(folder: Path) -> dict[str, health.Check]:
    """The checks of a folder by their name."""
    return {check["name"]: check for check in health.checks(folder)}


def test_checks_cover_versions_threads_devices_memory_disk_and_writing(tmp_path: Path) -> None:
    with nothing_written(tmp_path):
        found = by_name(tmp_path)
    assert list(found) == ["versions", "torch", "devices", "memory", "disk", "open files", "this folder"]
    assert cleanpath.__version__ in found["versions"]["found"]
    assert torch.__version__ in found["torch"]["found"]
    assert "threads on" in found["torch"]["found"]
    assert found["devices"]["found"].startswith("cpu")
    for check in found.values():
        assert set(check) == {"name", "status", "found", "remedy"}
        assert check["status"] in ("ok", "warn", "fail")
        assert bool(check["remedy"]) == (check["status"] != "ok")


def test_small_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=10, used=9, free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert by_name(tmp_path)["disk"]["status"] == "warn"


def test_little_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 1)
    assert by_name(tmp_path)["memory"]["status"] == "warn"


def test_system_that_tells_no_memory_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert by_name(tmp_path)["memory"]["found"] == "not told by this system"


def test_few_open_files_are_a_warning_with_the_command_that_raises_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 4096))
    check = by_name(tmp_path)["open files"]
    assert check["status"] == "warn"
    assert "ulimit -n 1024" in check["remedy"]


def test_folder_that_cannot_be_written_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check = by_name(tmp_path)["this folder"]
    assert (check["status"], check["found"]) == ("fail", "cannot be written: Permission denied")


def test_old_torch_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    check = by_name(tmp_path)["torch"]
    assert check["status"] == "fail"
    assert "2.11 or newer" in check["remedy"]


def test_torch_that_cannot_be_imported_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without_torch(name: str, *rest: Any, **options: Any) -> Any:
        if name == "torch":
            raise ImportError("libtorch.so: cannot open shared object file")
        return plain(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    found = by_name(tmp_path)
    assert found["torch"]["status"] == found["devices"]["status"] == "fail"
    assert "libtorch.so" in found["torch"]["found"]
    assert found["torch"]["remedy"] == "pip install torch"


def test_more_threads_than_cores_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: (os.cpu_count() or 1) + 1)
    check = by_name(tmp_path)["torch"]
    assert check["status"] == "warn"
    assert "OMP_NUM_THREADS" in check["remedy"]


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_ends_with_1_if_something_is_wrong_and_prints_the_remedy(
    monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    check = {"name": "disk", "status": status, "found": "0.1 GB free", "remedy": "make room"}
    monkeypatch.setattr(health, "checks", lambda _: [check])
    outcome = here("doctor")
    assert outcome.code == code
    assert outcome.out == f"{status}  disk: 0.1 GB free; make room\n"
    data = here("doctor", "--json")
    assert data.code == code
    assert data.json() == {"schema": "cleanpath.doctor", "version": 1, "checks": [check]}
