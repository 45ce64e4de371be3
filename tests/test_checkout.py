"""Which commit the code is of."""

import subprocess
from pathlib import Path

import pytest

from cleanpath import assemble
from cleanpath.checkout import commit


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    done = subprocess.run(["git", "-C", str(folder), *name, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository of its own, committed."""
    package = tmp_path / "src" / "cleanpath"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return package


@pytest.fixture(autouse=True)
def fresh() -> None:
    commit.cache_clear()


def test_checkout_has_its_commit(package: Path) -> None:
    assert commit(package) == git(package, "rev-parse", "HEAD")
    assert len(commit(package)) == 40


@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_changes_of_the_package_are_said(package: Path, name: str) -> None:
    (package / name).write_text("changed = True\n")
    assert commit(package) == f"{git(package, 'rev-parse', 'HEAD')} with changes"


def test_changes_elsewhere_in_the_repository_are_none_of_the_package(package: Path) -> None:
    (package.parent.parent / "README.md").write_text("changed")
    assert "changes" not in commit(package)


def test_wheel_has_no_commit_also_inside_somebody_else_s_repository(package: Path) -> None:
    installed = package.parent.parent / "site-packages" / "cleanpath"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit(installed) == ""


def test_without_git_there_is_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit(package) == ""


@pytest.mark.parametrize("of", ["a" * 40, ""])
def test_environment_of_a_run_has_the_commit_where_there_is_one(
    of: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assemble, "commit", lambda: of)
    assert assemble.environment(1).get("commit") == (of or None)
    assert assemble.environment(1)["cleanpath"]
