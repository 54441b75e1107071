# SPDX-License-Identifier: Apache-2.0
"""Check that this machine has what vla_ros needs, and say how to get what is missing.

Looks for the Python packages of each extra, a working rclpy, the middleware's shared memory, off-screen rendering for
the simulated cameras, a GPU and the shipped checkpoint. Changes nothing. Exit status 1 when something needed is
missing; lines marked "note" are choices or losses of speed, not errors.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla_ros import bringup, resources
from vla_ros.errors import UserError

PACKAGES = {
    "": ("numpy", "scipy", "cv2", "yaml", "rosbags", "torch", "transformers", "safetensors", "pytorch_lightning"),
    "ros": ("rclpy", "sensor_msgs", "geometry_msgs", "std_srvs", "diagnostic_msgs", "lifecycle_msgs"),
    "sim": ("mujoco", "gymnasium"),
    "train": ("tensorboard",),
}
OPTIONAL = {
    "launch_ros": "without it `vla demo` starts the processes that the launch files describe",
    "rosbag2_py": "without it the recorder node writes the same bags itself",
    "simplejpeg": "without it JPEGs take 1.6 times as long to decode, to the same pixels: pip install 'vla_ros[jpeg]'",
    "tf2_msgs": "needed where a robot's file takes ee_pose from /tf (config/robots/ur_servo.yaml)",
}
# Two cameras of 640x480 with the segment size of config/fastdds.xml, for the processes of one demonstration.
SHARED_MEMORY_BYTES = 256 * 2**20

_RENDER = "from vla_ros.sim.env import TabletopEnv; env = TabletopEnv(); env.reset(seed=0); env.close()"
_START_ROS = "import rclpy; rclpy.init(); rclpy.create_node('vla_check').destroy_node(); rclpy.shutdown()"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked for, how it is, and what to do about it."""

    status: Literal["ok", "missing", "note"]
    subject: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``vla check`` (none)."""


def run(args: argparse.Namespace) -> int:
    """Print a line a finding; return 1 when something needed is missing."""
    missing = 0
    for finding in findings():
        print(f"{finding.status:8}{finding.subject:22}{finding.detail}", flush=True)
        missing += finding.status == "missing"
    if missing:
        print(f"\n{missing} missing")
    return 1 if missing else 0


def findings() -> Iterator[Finding]:
    """Look for everything, the quick things first."""
    yield Finding("ok", "python", f"{sys.version.split()[0]} in {sys.prefix}")
    for extra, modules in PACKAGES.items():
        yield packages(extra, modules)
    for module, otherwise in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        yield Finding("ok" if found else "note", module, "installed" if found else f"not installed: {otherwise}")
    yield shared_memory(Path("/dev/shm"))
    yield gpu()
    yield checkpoint()
    yield attempt("start of a ROS node", _START_ROS, "see the error; a ROS distribution and the PyPI wheels do not mix")
    yield attempt(
        "off-screen rendering", _RENDER, "on Debian and Ubuntu: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"
    )


def packages(extra: str, modules: tuple[str, ...]) -> Finding:
    """Look for the packages of one extra of setup.py, without importing them."""
    subject = f"packages{f' [{extra}]' if extra else ''}"
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if not absent:
        return Finding("ok", subject, ", ".join(modules))
    source = "source a ROS 2 distribution's setup.bash, or " if extra == "ros" else ""
    option = f"'.[{extra}]'" if extra else "."
    return Finding("missing", subject, f"{', '.join(absent)}: {source}pip install -e {option} in a checkout")


def shared_memory(directory: Path) -> Finding:
    """Look at the shared memory through which large images travel between processes."""
    subject = "shared memory"
    if not directory.is_dir():
        return Finding("missing", subject, f"no {directory}: images above 500 kB are lost between processes")
    free = shutil.disk_usage(directory).free
    detail = f"{free / 2**20:.0f} MiB free in {directory}"
    if free < SHARED_MEMORY_BYTES:
        needed = f"{SHARED_MEMORY_BYTES >> 20} are needed (docker run --shm-size=1g)"
        return Finding("missing", subject, f"{detail}; {needed}")
    return Finding("ok", subject, detail)


def gpu() -> Finding:
    """Say on what the policy would run."""
    if importlib.util.find_spec("torch") is None:
        return Finding("note", "gpu", "unknown without torch")
    import torch

    version = f"torch {importlib.metadata.version('torch')}"
    if torch.cuda.is_available():
        return Finding("ok", "gpu", f"{torch.cuda.get_device_name()}, {version}")
    return Finding("note", "gpu", f"none that torch can use ({version}, {os.cpu_count()} CPU cores)")


def checkpoint() -> Finding:
    """Look for the checkpoint that `vla demo` runs."""
    try:
        folder = resources.path(bringup.CHECKPOINT)
    except UserError as error:
        return Finding("missing", "shipped checkpoint", str(error))
    return Finding("ok", "shipped checkpoint", str(folder))


def attempt(subject: str, code: str, remedy: str) -> Finding:
    """Try something in a process of its own: a broken driver or middleware may end the process that touches it."""
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return Finding("missing", subject, f"hangs; {remedy}")
    if result.returncode == 0:
        return Finding("ok", subject, "works")
    last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    return Finding("missing", subject, f"{last}; {remedy}")
