# SPDX-License-Identifier: Apache-2.0
"""A private ROS domain, so that what a command starts never meets a real robot."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
from collections.abc import Mapping

from vla_ros.errors import UserError

# Domains whose UDP ports are below Linux's ephemeral range; everybody's default, 0, is left out.
DOMAIN_IDS = range(1, 102)
# For tests: the domain to use, reserved by the caller.
DOMAIN_VARIABLE = "VLA_ROS_DOMAIN_ID"


def isolate() -> None:
    """Move this process and its children into a private ROS domain on this machine only.

    The user's ROS_DOMAIN_ID is where the robots are; `vla demo --attach` and the like go there.
    """
    domain_id = os.environ.get(DOMAIN_VARIABLE) or str(_private_domain()[0])
    os.environ.update(ROS_DOMAIN_ID=domain_id, ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    os.environ.pop("ROS_STATIC_PEERS", None)
    if os.environ.get("ROS_DISTRO") == "humble":  # Humble does not know the discovery range yet
        os.environ["ROS_LOCALHOST_ONLY"] = "1"


@functools.cache
def _private_domain() -> tuple[int, socket.socket]:
    """Claim one domain for the life of this process."""
    return claim_domain_id()


def claim_domain_id(environ: Mapping[str, str] = os.environ) -> tuple[int, socket.socket]:
    """Return a ROS domain id that nobody on this machine uses, and the lock that reserves it until it is closed."""
    for domain_id in random.sample(DOMAIN_IDS, len(DOMAIN_IDS)):
        if str(domain_id) == environ.get("ROS_DOMAIN_ID"):
            continue
        lock = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            lock.bind(f"\0vla_ros_domain_{domain_id}")  # an abstract name: it disappears with its owner
            probe.bind(("", 7410 + 250 * domain_id))  # a participant would listen there (RTPS 2.2, 9.6.1.1)
            return domain_id, lock
        lock.close()
    raise UserError(
        f"all ROS domains from {DOMAIN_IDS[0]} to {DOMAIN_IDS[-1]} are in use on this machine; stop some ROS programs"
    )
