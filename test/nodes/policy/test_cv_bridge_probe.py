# SPDX-License-Identifier: Apache-2.0
"""A cv_bridge that does not work ends the process that tries it, never the one that asks."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from fake_cv_bridge import CRASH

from vla_ros.nodes.policy import cv_bridge_probe
from vla_ros.nodes.policy.cv_bridge_probe import Verdict, probe


def test_a_cv_bridge_that_decodes_as_in_training_is_used(install_cv_bridge):
    install_cv_bridge()
    assert probe() == Verdict(True, False, f"decodes as in training, with NumPy {np.__version__}")


def test_without_cv_bridge_no_process_is_started(install_cv_bridge, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started a process"))
    assert str(probe()) == "built-in: cv_bridge is not installed"
    assert not probe().broken


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"on_import": CRASH}, r"crashed \(SIGSEGV\) with NumPy"),
        ({"on_decode": CRASH}, r"crashed \(SIGSEGV\) with NumPy"),
        (
            {"on_import": "raise ImportError('no libboost_python310.so')"},
            r"failed \(ImportError: no libboost_python310",
        ),
        ({"on_decode": "import cv_bridge.boost"}, r"failed \(ModuleNotFoundError: .*cv_bridge\.boost"),
        ({"on_decode": "raise SystemError('a\\nb')"}, r"failed \(SystemError: a b\)"),
        ({"on_decode": "return raw.decode_raw(message)[..., ::-1]"}, r"decodes 'rgb8' differently from training"),
        ({"on_import": "os._exit(0)"}, "ended without an answer"),
    ],
)
def test_a_cv_bridge_that_does_not_work_is_not_used_and_the_reason_is_told(install_cv_bridge, given, reason):
    install_cv_bridge(**given)
    verdict = probe()
    assert verdict.broken and not verdict.use
    assert re.match(f"built-in: cv_bridge {reason}", str(verdict)), str(verdict)


def test_one_that_hangs_is_given_up(install_cv_bridge, monkeypatch):
    monkeypatch.setattr(cv_bridge_probe, "TIMEOUT_S", 3.0)
    install_cv_bridge(on_decode="time.sleep(60)")
    assert str(probe()).startswith("built-in: cv_bridge did not answer within 3 s")


@pytest.mark.parametrize(
    ("numpy", "printed", "remedy"),
    [
        ("2.2.1", "", "it may have been built for NumPy 1.x; install a cv_bridge for NumPy 2, or numpy<2"),
        ("2.2.1", "A module that was compiled using NumPy 1.x cannot be run in", "with NumPy 2.2.1: it was built for"),
        ("1.26.4", "", "with NumPy 1.26.4: reinstall cv_bridge"),
    ],
)
def test_the_remedy_depends_on_numpy(install_cv_bridge, monkeypatch, numpy, printed, remedy):
    monkeypatch.setattr(np, "__version__", numpy)
    install_cv_bridge(on_import=f"print({printed!r}, file=sys.stderr, flush=True)", on_decode=CRASH)
    assert remedy in str(probe())


def test_the_outcome_is_remembered(install_cv_bridge, monkeypatch):
    install_cv_bridge(on_decode=CRASH)
    first = probe()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    assert probe() is first
