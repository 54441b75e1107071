# SPDX-License-Identifier: Apache-2.0
"""Processes that start and stop together."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

from vla_ros import bringup  # noqa: E402
from vla_ros.commands.ros.process_group import ENCLAVE_VARIABLE, ProcessError, ProcessGroup  # noqa: E402


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_end(group: ProcessGroup) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        group.check()
        time.sleep(0.05)


def test_a_dead_process_is_an_error_with_the_end_of_its_log(tmp_path):
    with ProcessGroup(tmp_path) as group:
        group.start(bringup.simulator(real_time_factor=3.0))
        with pytest.raises(ProcessError, match=r"(?s)simulator exited with status 2.*publish_clock:=true"):
            wait_for_end(group)


def test_leaving_the_group_stops_every_process_cleanly(tmp_path):
    with ProcessGroup(tmp_path) as group:
        group.start(bringup.recorder(str(tmp_path / "bag")), bringup.simulator())
        deadline = time.monotonic() + 30
        while not all("ready" in group.log(name).read_text() for name in ("recorder", "simulator")):
            group.check()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = [popen for _, popen in group._running.values()]
    assert [popen.returncode for popen in started] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_do_not_outlive_their_parent(tmp_path, number):
    program = f"""
import time
from vla_ros import bringup
from vla_ros.commands.ros.process_group import ProcessGroup
with ProcessGroup(__import__("pathlib").Path({str(tmp_path)!r})) as group:
    group.start(bringup.simulator())
    print(group._running["simulator"][1].pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.send_signal(number)
        parent.wait(30)
    deadline = time.monotonic() + 30
    while _alive(child):
        assert time.monotonic() < deadline, "the simulator is still there"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_each_process_starts_in_its_own_enclave_not_in_that_of_its_parent(tmp_path, monkeypatch):
    (tmp_path / "shown.py").write_text(f"import os, sys; print(os.environ.get({ENCLAVE_VARIABLE!r}), *sys.argv[1:])")
    monkeypatch.setitem(bringup.NODES, "guard_node", "shown")
    monkeypatch.setenv(ENCLAVE_VARIABLE, "/vla_ros/replay")
    guard = dataclasses.replace(bringup.guard(), namespace="left", ends=True, environment={"PYTHONPATH": str(tmp_path)})
    with ProcessGroup(tmp_path) as group:
        group.start(guard)
        wait_for(lambda: group.ended("guard"))
    override, *arguments = group.log("guard").read_text().split()
    assert override == "None"
    assert arguments[arguments.index("--enclave") + 1] == guard.enclave("left") == "/vla_ros/left/guard"


def test_an_expected_exit_is_no_error(tmp_path):
    class Ending(bringup.Process):
        def ros_arguments(self) -> list[str]:
            return ["--help"]

    with ProcessGroup(tmp_path) as group:
        group.start(Ending("recorder_node", "recorder", {}, ends=True))
        wait_for(lambda: group.ended("recorder"))
    assert "~/discard" in group.log("recorder").read_text()
