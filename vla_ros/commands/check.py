# SPDX-License-Identifier: Apache-2.0
"""Check that this machine has what vla_ros needs, and how to install what is missing.

Checks the Python packages of each extra, rclpy, cv_bridge, the middleware's shared memory, off-screen rendering for the
simulated cameras, the GPU, and that the policy node would accept the checkpoint on the robot. Changes nothing. Exit
status 1 if something required is missing; lines marked "note" are optional.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla_ros import bringup, resources
from vla_ros.errors import UserError, how_to_install
from vla_ros.robot import load_robot

PACKAGES = {
    "": ("numpy", "scipy", "yaml", "rosbags", "torch", "transformers", "safetensors", "pytorch_lightning"),
    "opencv": ("cv2",),
    "ros": ("rclpy", "sensor_msgs", "geometry_msgs", "std_srvs", "diagnostic_msgs", "lifecycle_msgs"),
    "sim": ("mujoco", "gymnasium"),
    "train": ("tensorboard",),
}
OPTIONAL = {
    "launch_ros": "`vla demo` starts the processes of the launch files itself",
    "rosbag2_py": "the recorder node writes the same bags itself",
    "simplejpeg": "decoding JPEGs takes 1.6 times as long, with the same pixels: pip install 'vla_ros[jpeg]'",
    "tf2_msgs": "only needed if the robot file takes ee_pose from /tf (config/robots/ur_servo.yaml)",
}
# For the processes of one demonstration: two 640x480 cameras with the segment size in config/fastdds.xml.
SHARED_MEMORY_BYTES = 256 * 2**20

_RENDER = "from vla_ros.sim.env import TabletopEnv; env = TabletopEnv(); env.reset(seed=0); env.close()"
_START_ROS = "import rclpy; rclpy.init(); rclpy.create_node('vla_check').destroy_node(); rclpy.shutdown()"


@dataclass(frozen=True)
class CheckResult:
    """One line of output: what was checked, its status, and details or the remedy."""

    status: Literal["ok", "missing", "note"]
    subject: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", default="", metavar="FOLDER", help="check this one (default: the shipped one)")
    add("--robot", default="tabletop", help="robot file that it must fit (default: %(default)s)")
    add("--any-robot", action="store_true", help="accept a checkpoint of a robot of another name")


def run(args: argparse.Namespace) -> int:
    """Print one line per check; return 1 if something required is missing."""
    missing = 0
    for result in itertools.chain(checks(), [checkpoint(args.checkpoint, args.robot, args.any_robot)]):
        print(f"{result.status:8}{result.subject:22}{result.detail}", flush=True)
        missing += result.status == "missing"
    if missing:
        print(f"\n{missing} missing")
    return 1 if missing else 0


def checks() -> Iterator[CheckResult]:
    """Run all checks, quick ones first."""
    yield CheckResult("ok", "python", f"{sys.version.split()[0]} in {sys.prefix}")
    for extra, modules in PACKAGES.items():
        yield packages(extra, modules)
    for module, consequence in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        yield CheckResult("ok" if found else "note", module, "installed" if found else f"not installed: {consequence}")
    yield raw_images()
    yield shared_memory(Path("/dev/shm"))
    yield gpu()
    yield attempt("ROS node", _START_ROS, "a ROS distribution and the PyPI wheels of rclpy do not mix")
    remedy = "on Debian and Ubuntu: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"
    yield attempt("off-screen rendering", _RENDER, remedy)


def checkpoint(folder: str, robot_file: str, any_robot: bool) -> CheckResult:
    """Check that the policy node would accept a checkpoint (empty: the shipped one) on this robot."""
    from vla_ros.nodes.policy import loading  # needs numpy

    try:
        folder, robot = folder or str(resources.path(bringup.CHECKPOINT)), load_robot(robot_file)
        contract = loading.load_contract(folder, robot)
        note = contract.check_robot(robot.name, folder, any_robot=any_robot, override="--any-robot")
    except UserError as error:
        return CheckResult("missing", "checkpoint", str(error))
    return CheckResult("note" if note else "ok", "checkpoint", note or f"{folder} fits robot {robot.name!r}")


def packages(extra: str, modules: tuple[str, ...]) -> CheckResult:
    """Check the packages of an extra of setup.py, without importing them."""
    subject = f"packages{f' [{extra}]' if extra else ''}"
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if not absent:
        return CheckResult("ok", subject, ", ".join(modules))
    return CheckResult("missing", subject, f"{', '.join(absent)}: {how_to_install(extra)}")


def shared_memory(directory: Path) -> CheckResult:
    """Check the shared memory that carries large images between processes."""
    subject = "shared memory"
    if not directory.is_dir():
        return CheckResult("missing", subject, f"no {directory}; images above 500 kB cannot be sent between processes")
    free = shutil.disk_usage(directory).free
    detail = f"{free / 2**20:.0f} MiB free in {directory}"
    if free >= SHARED_MEMORY_BYTES:
        return CheckResult("ok", subject, detail)
    required = f"{SHARED_MEMORY_BYTES >> 20} MiB are required (docker run --shm-size=1g)"
    return CheckResult("missing", subject, f"{detail}; {required}")


def raw_images() -> CheckResult:
    """Show what would decode sensor_msgs/Image; compressed images need neither."""
    from vla_ros.nodes.policy import cv_bridge_probe

    verdict = cv_bridge_probe.probe()
    return CheckResult("note" if verdict.broken else "ok", "raw images", str(verdict))


def gpu() -> CheckResult:
    """Show the device that a policy would run on."""
    if importlib.util.find_spec("torch") is None:
        return CheckResult("note", "gpu", "cannot be determined without torch")
    import torch

    version = f"torch {importlib.metadata.version('torch')}"
    if torch.cuda.is_available():
        return CheckResult("ok", "gpu", f"{torch.cuda.get_device_name()}, {version}")
    return CheckResult("note", "gpu", f"none usable by torch ({version}, {os.cpu_count()} CPU cores)")


def attempt(subject: str, code: str, remedy: str) -> CheckResult:
    """Run code in a separate process, since a broken driver or middleware may crash it."""
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return CheckResult("missing", subject, f"timed out; {remedy}")
    if result.returncode == 0:
        return CheckResult("ok", subject, "works")
    last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    return CheckResult("missing", subject, f"{last}; {remedy}")
