# SPDX-License-Identifier: Apache-2.0
"""The run folder records the code of the run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from vla_ros.train.run_record import write_code_state


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of one module, committed."""
    source = tmp_path / "code" / "package"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("one = 1\n")
    git(source.parent, "init", "-q")
    git(source.parent, "add", ".")
    git(source.parent, "commit", "-q", "-m", "first")
    return source


def written(run: Path, package: Path) -> dict:
    run.mkdir(exist_ok=True)
    write_code_state(run, package)
    return json.loads((run / "code.json").read_text())


def test_a_clean_checkout_is_its_commit(package: Path, tmp_path: Path) -> None:
    state = written(tmp_path / "run", package)
    assert state["commit"] == git(package, "rev-parse", "HEAD")
    assert not state["changed"] and state["new_files"] == []
    assert {"vla_ros", "python", "torch", "pytorch-lightning"} <= state["versions"].keys()
    assert not (tmp_path / "run" / "code.diff").exists()


def test_a_library_unknown_to_pip_does_not_stop_training(package: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.train.run_record.LIBRARIES", ("numpy", "of-a-vendor"))
    versions = written(tmp_path / "run", package)["versions"]
    assert versions["of-a-vendor"] == "unknown" and versions["numpy"][0].isdigit()


def test_uncommitted_changes_are_kept_with_the_run(package: Path, tmp_path: Path) -> None:
    (package / "__init__.py").write_text("one = 2\n")
    (package.parent / "new.py").write_text("")
    state = written(tmp_path / "run", package)
    assert state["changed"] and state["new_files"] == ["new.py"]
    git(package, "checkout", "-q", ".")
    git(package.parent, "apply", str(tmp_path / "run" / "code.diff"))
    assert (package / "__init__.py").read_text() == "one = 2\n"
    git(package, "checkout", "-q", ".")
    written(tmp_path / "run", package)
    assert not (tmp_path / "run" / "code.diff").exists()  # of the same folder's earlier start


def test_a_package_inside_an_unrelated_repository_has_no_commit(package: Path, tmp_path: Path) -> None:
    installed = package.parent / "environment" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert written(tmp_path / "run", installed)["commit"] is None
    assert written(tmp_path / "run", tmp_path / "run")["commit"] is None  # and where there is no repository at all
