# SPDX-License-Identifier: Apache-2.0
"""Every test run is an island: its own ROS domain on this machine only, no network, one thread, no litter left."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import vla_ros.sim  # noqa: F401  says how to render, before anybody imports MuJoCo
from vla_ros import transport
from vla_ros.commands.ros.isolation import DOMAIN_VARIABLE, claim_domain_id
from vla_ros.commands.ros.process_group import remove_segments, shared_segments


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything of ROS or torch is imported, so that child processes inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, processes of a test would ignore it
    config.stash[_LOG_DIRECTORY] = Path(tempfile.mkdtemp(prefix="vla_ros_test_"))
    config.stash[_SEGMENTS] = set()
    domain_id, config.stash[_DOMAIN_LOCK] = claim_domain_id()
    for name in ("ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE", "CYCLONEDDS_URI"):
        os.environ.pop(name, None)
    os.environ.update(
        **_in_domain(domain_id),
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
    remove_segments(config.stash[_SEGMENTS])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Note this run's shared memory while the processes of a test are running."""
    if item.get_closest_marker("ros"):
        own = psutil.Process()
        item.config.stash[_SEGMENTS] |= shared_segments(own.pid, *(child.pid for child in own.children()))


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
    yield from _environment()


@pytest.fixture(scope="module")
def module_ros_environment() -> Iterator[dict[str, str]]:
    """The same, shared by the tests of a module."""
    yield from _environment()


def _environment() -> Iterator[dict[str, str]]:
    domain_id, lock = claim_domain_id()
    yield {**os.environ, **_in_domain(domain_id)}
    lock.close()


def _in_domain(domain_id: int) -> dict[str, str]:
    return {"ROS_DOMAIN_ID": str(domain_id), DOMAIN_VARIABLE: str(domain_id)}


_LOG_DIRECTORY = pytest.StashKey[Path]()
_DOMAIN_LOCK = pytest.StashKey[socket.socket]()
_SEGMENTS = pytest.StashKey[set[str]]()
