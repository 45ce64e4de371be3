"""What is free: the machine's memory within the limits that were set from outside."""

import resource
from pathlib import Path

import pytest

from cleanpath import machine

GB = 1 << 30
Files = dict[str, str | int]
WHOLE = "MemTotal: 99 kB\nMemAvailable: 33554432 kB\n"  # 32 GiB


def system(root: Path, groups: str, **files: str | int) -> Path:
    """A root with these files below the control groups; their names have __ for /."""
    for name, text in {"proc/meminfo": WHOLE, "proc/self/cgroup": groups}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    for name, value in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="ascii")
    return root


def test_without_limits_it_is_what_is_available(tmp_path: Path) -> None:
    none: Files = {
        "memory_dot_max": "max",
        "memory_dot_current": 5 * GB,
        "memory_dot_stat": "inactive_file 0",
    }
    assert machine.free_memory(system(tmp_path, "0::/\n", **none)) == 32 * GB


def test_files_that_are_cached_are_given_up(tmp_path: Path) -> None:
    found: Files = {
        "memory_dot_max": 6 * GB,
        "memory_dot_current": 5 * GB,
        "memory_dot_stat": f"anon 1\ninactive_file {4 * GB}",
    }
    assert machine.free_memory(system(tmp_path, "0::/\n", **found)) == 5 * GB


@pytest.mark.parametrize(("outer", "inner", "left"), [(9, 6, 4), (5, 6, 1), ("max", 6, 4)])
def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path, outer: int | str, inner: int, left: int) -> None:
    files: Files = {}
    for place, limit, used in (("job__", outer, 4), ("job__step__", inner, 2)):
        files[f"{place}memory_dot_max"] = limit if isinstance(limit, str) else limit * GB
        files[f"{place}memory_dot_current"] = used * GB
        files[f"{place}memory_dot_stat"] = "inactive_file 0"
    assert machine.free_memory(system(tmp_path, "0::/job/step\n", **files)) == left * GB


def test_the_first_version_of_control_groups_is_read_as_well(tmp_path: Path) -> None:
    files: Files = {
        "memory__job__memory_dot_limit_in_bytes": 6 * GB,
        "memory__job__memory_dot_usage_in_bytes": 3 * GB,
        "memory__job__memory_dot_stat": f"cache 7\ntotal_inactive_file {GB}",
    }
    groups = "12:cpu,cpuacct:/job\n9:memory:/job\n0::/\n"
    assert machine.free_memory(system(tmp_path, groups, **files)) == 4 * GB


def test_a_limit_of_addresses_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = system(tmp_path, "0::/\n")
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + GB, resource.RLIM_INFINITY))
    assert machine.free_memory(root) == pytest.approx(GB, rel=0.1)
