# SPDX-License-Identifier: Apache-2.0
"""Every test run is an island: its own ROS domain on this machine only, no network, one thread, no litter left."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vla_ros import transport

SHARED_MEMORY = Path("/dev/shm")
# Domains whose UDP ports lie below the range that Linux gives to other programs. 0 is everybody's default.
DOMAIN_IDS = range(1, 102)

_domain_locks: list[socket.socket] = []


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything of ROS or torch is imported, so that child processes inherit it."""
    config.stash[_LOG_DIRECTORY] = Path(tempfile.mkdtemp(prefix="vla_ros_test_"))
    config.stash[_SHARED_MEMORY_BEFORE] = _shared_memory_files()
    for name in ("ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE", "CYCLONEDDS_URI"):
        os.environ.pop(name, None)
    os.environ.update(
        ROS_DOMAIN_ID=str(claim_domain_id()),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(config.stash[_LOG_DIRECTORY]),
        **transport.environment(),
        # More threads than that are slower here, not faster, as soon as another process wants a core.
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        MPLBACKEND="Agg",
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the logs, and what killed processes left in shared memory, which is RAM."""
    shutil.rmtree(config.stash[_LOG_DIRECTORY], ignore_errors=True)
    left = _shared_memory_files() - config.stash[_SHARED_MEMORY_BEFORE]
    in_use = _mapped_names()
    for file in left:
        if _segment(file) not in in_use:
            file.unlink(missing_ok=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``ros`` where there is no rclpy; the summary shows them as skipped."""
    if importlib.util.find_spec("rclpy") is not None:
        return
    for item in items:
        if item.get_closest_marker("ros"):
            item.add_marker(pytest.mark.skip(reason="rclpy is not installed: pip install -e '.[ros]'"))


@pytest.fixture
def ros_environment() -> Iterator[dict[str, str]]:
    """The environment for child processes of one test: a ROS domain that nobody else on this machine uses."""
    domain_id = claim_domain_id()
    lock = _domain_locks[-1]
    yield {**os.environ, "ROS_DOMAIN_ID": str(domain_id)}
    lock.close()


@pytest.fixture(scope="module")
def module_ros_environment() -> Iterator[dict[str, str]]:
    """The same, shared by the tests of a module."""
    domain_id = claim_domain_id()
    lock = _domain_locks[-1]
    yield {**os.environ, "ROS_DOMAIN_ID": str(domain_id)}
    lock.close()


def claim_domain_id() -> int:
    """Return a ROS domain id that no other test process on this machine holds, and hold it until this one ends."""
    for offset in range(len(DOMAIN_IDS)):
        domain_id = DOMAIN_IDS[(os.getpid() + offset) % len(DOMAIN_IDS)]
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0vla_ros_test_domain_{domain_id}")  # an abstract name: it vanishes with its holder
        except OSError:
            lock.close()
            continue
        _domain_locks.append(lock)
        return domain_id
    raise RuntimeError(f"all ROS domains {DOMAIN_IDS} are held by other test processes on this machine")


def _shared_memory_files() -> set[Path]:
    return {file for pattern in ("fastdds_*", "fastrtps_*", "sem.fast*") for file in SHARED_MEMORY.glob(pattern)}


def _segment(file: Path) -> str:
    """Return the name of the segment that a lock (``NAME_el``) or a semaphore (``sem.NAME_mutex``) belongs to."""
    return file.name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el")


def _mapped_names() -> set[str]:
    """Return the names of the segments that a running process still uses."""
    names = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # the process has ended, or belongs to somebody else, as its files then do
            continue
        names |= {Path(line.split(maxsplit=5)[5]).name for line in lines if f" {SHARED_MEMORY}/" in line}
    return names


_LOG_DIRECTORY = pytest.StashKey[Path]()
_SHARED_MEMORY_BEFORE = pytest.StashKey[set[Path]]()
