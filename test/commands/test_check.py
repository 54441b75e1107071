# SPDX-License-Identifier: Apache-2.0
"""``vla check`` says what is missing and how to get it."""

from __future__ import annotations

import argparse
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from vla_ros.commands import check
from vla_ros.nodes.policy import cv_bridge_probe

Usage = namedtuple("Usage", "total used free")


def test_installed_packages_are_ok() -> None:
    assert check.packages("", ("json", "argparse")).status == "ok"


def test_missing_packages_are_named_with_their_extra() -> None:
    result = check.packages("sim", ("json", "no_such_simulator"))
    assert result.status == "missing"
    assert "no_such_simulator" in result.detail and "'.[sim]'" in result.detail and "json" not in result.detail


@pytest.mark.parametrize(("free_mib", "status"), [(1024, "ok"), (64, "missing")])
def test_docker_default_shared_memory_is_too_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_mib: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda directory: Usage(0, 0, free_mib * 2**20))
    assert check.shared_memory(tmp_path).status == status


@pytest.mark.parametrize(("broken", "status"), [(False, "ok"), (True, "note")])
def test_a_broken_cv_bridge_is_shown_and_a_missing_one_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, broken: bool, status: str
) -> None:
    monkeypatch.setattr(cv_bridge_probe, "probe", lambda: cv_bridge_probe.Verdict(False, broken, "why"))
    assert check.raw_images() == check.CheckResult(status, "raw images", "built-in: why")


def test_attempt_reports_the_last_line_of_the_error() -> None:
    result = check.attempt("driver", "raise OSError('no EGL display')", "install it")
    assert result == check.CheckResult("missing", "driver", "OSError: no EGL display; install it")


def test_attempt_survives_a_process_that_is_killed() -> None:
    assert "exit status -6" in check.attempt("driver", "import os; os.abort()", "install it").detail


def test_exit_status_says_whether_something_needed_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [check.CheckResult("ok", "a", "here"), check.CheckResult("note", "b", "slow")]
    monkeypatch.setattr(check, "checks", lambda: iter(found))
    args = argparse.Namespace(checkpoint="", robot="tabletop", any_robot=False)
    assert check.run(args) == 0
    found.append(check.CheckResult("missing", "c", "install c"))
    assert check.run(args) == 1
    assert "install c" in capsys.readouterr().out


def test_a_checkpoint_that_the_policy_node_would_refuse_is_missing() -> None:
    fits = check.checkpoint("", "tabletop", False)
    assert fits.status == "ok" and fits.detail.endswith("fits robot 'tabletop'")
    refused = check.checkpoint("", "franka_servo", False)
    assert refused.status == "missing" and refused.detail.endswith("or pass --any-robot")
    assert check.checkpoint("", "franka_servo", True).status == "note"
    assert check.checkpoint("nowhere", "tabletop", True).status == "missing"
