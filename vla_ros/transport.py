# SPDX-License-Identifier: Apache-2.0
"""The middleware settings without which camera images get lost or late, as environment variables.

Fast DDS hands messages between processes through a shared-memory segment whose default is smaller than one 640x480
image; and glibc returns an image's memory to the system after each message, so that each new one is paged in again.
Both are read once, at a process's start, so whoever starts it sets them. Figures: benchmarks/image_transport.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vla_ros import resources

# Fast DDS 2 reads the profiles' path from another variable than Fast DDS 3, which warns when it sees the old one.
FAST_DDS_2 = ("humble", "iron", "jazzy")
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(256 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}


def profile_variable(environ: Mapping[str, str] = os.environ) -> str:
    """The variable from which the Fast DDS of the sourced distribution (none: a new one) reads its profiles' path."""
    old = environ.get("ROS_DISTRO") in FAST_DDS_2
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to start every process with that sends or receives images. What is set already stays."""
    return {name: environ.get(name) or value for name, value in _settings(environ).items()}


def missing(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The settings that this process was started without, each as the command that sets it.

    A file of profiles that does not exist is none: Fast DDS passes over it.

    None with another middleware than Fast DDS, which has settings of its own.
    """
    if environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") not in ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp"):
        return []
    profile = profile_variable(environ)
    absent = {name for name in _settings(environ) if not environ.get(name)}
    if profile not in absent and not Path(environ[profile]).is_file():
        absent.add(profile)
    return [f"export {name}={value}" for name, value in _settings(environ).items() if name in absent]


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {profile_variable(environ): str(resources.path("config/fastdds.xml")), **MALLOC}
