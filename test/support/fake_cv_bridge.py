# SPDX-License-Identifier: Apache-2.0
"""Installs a cv_bridge in pure Python that works, or misbehaves, for this process and those that it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros.nodes.policy.cv_bridge_probe import probe

BRIDGE = """
import os, signal, sys, time
from vla_ros.imaging import raw
{on_import}
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        assert encoding == "rgb8"
        {on_decode}
        return raw.decode_raw(message)
"""
CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def install_cv_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that installs a cv_bridge which runs statements when imported, or given an image."""

    def install(on_import: str = "", on_decode: str = "") -> None:
        (tmp_path / "cv_bridge").mkdir()
        text = BRIDGE.format(on_import=on_import, on_decode=on_decode)
        (tmp_path / "cv_bridge/__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    probe.cache_clear()
    yield install
    probe.cache_clear()
