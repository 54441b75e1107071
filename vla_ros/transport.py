# SPDX-License-Identifier: Apache-2.0
"""Middleware settings, as environment variables, without which camera images get lost or arrive late.

Fast DDS's default shared-memory segment is smaller than one 640x480 image, and glibc returns an image's memory to the
system after each message, so that each new one is paged in again. Both are read when a process starts, so whoever
starts it must set them. Figures: benchmarks/image_transport.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from vla_ros import resources

# ROS has Fast DDS 3 since Kilted. It reads the path of the profiles from a new variable, and warns about the old one,
# which is all that Fast DDS 2 knows. ROS_DISTRO does not tell them apart: the wheels from PyPI do not set it.
RCLPY_WITH_FAST_DDS_3 = 9
SHARED_MEMORY_BYTES = 256 * 2**20  # a segment of config/fastdds.xml for each of eight processes
DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(256 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}


def profile_variable() -> str:
    """Return the variable for the profiles' path, for the Fast DDS below the installed rclpy (default: a new one)."""
    try:
        old = int(metadata.version("rclpy").partition(".")[0]) < RCLPY_WITH_FAST_DDS_3
    except metadata.PackageNotFoundError:
        old = False
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables for processes that send or receive images; those already set keep their values."""
    return {name: environ.get(name) or value for name, value in _settings().items()}


def guard_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables for a process that must not wait for another one; a profile of the user's own stays.

    In shared memory, a writer of Fast DDS waits up to a second for a reader whose process was killed. Where ROS is to
    stay on this machine it would add shared memory itself: a profile does both, unless there are static peers.
    """
    variable = profile_variable()
    given = Path(environ.get(variable, ""))
    if given.is_file() and given.read_bytes() != resources.path("config/fastdds.xml").read_bytes():
        return {}
    only_here = environ.get("ROS_LOCALHOST_ONLY") == "1" or environ.get(DISCOVERY_RANGE) == "LOCALHOST"
    if not only_here or environ.get("ROS_STATIC_PEERS"):
        return {variable: str(resources.path("config/fastdds_guard.xml"))}
    left_to_the_profile = {DISCOVERY_RANGE: "SYSTEM_DEFAULT"}
    if "ROS_LOCALHOST_ONLY" in environ:
        left_to_the_profile["ROS_LOCALHOST_ONLY"] = "0"
    return {variable: str(resources.path("config/fastdds_guard_localhost.xml")), **left_to_the_profile}


def missing(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the commands that set what this process was started without; empty for other middlewares.

    A profiles file that does not exist counts as missing: Fast DDS ignores it.
    """
    if environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") not in ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp"):
        return []
    profile, settings = profile_variable(), _settings()
    absent = {name for name in settings if not environ.get(name)}
    if profile not in absent and not Path(environ[profile]).is_file():
        absent.add(profile)
    return [f"export {name}={value}" for name, value in settings.items() if name in absent]


def small_shared_memory(total_bytes: int | None = None) -> list[str]:
    """Return what to do if shared memory, where images are handed over, is too small; empty if it is not.

    Args:
        total_bytes: of it; default: of /dev/shm.
    """
    if total_bytes is None:
        total_bytes = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else SHARED_MEMORY_BYTES
    if total_bytes >= SHARED_MEMORY_BYTES:
        return []
    return [f"docker run --shm-size=1g ... (/dev/shm has {total_bytes / 1e6:.0f} MB, each process takes 34)"]


def _settings() -> dict[str, str]:
    return {profile_variable(): str(resources.path("config/fastdds.xml")), **MALLOC}
