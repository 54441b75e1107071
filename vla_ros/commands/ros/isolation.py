# SPDX-License-Identifier: Apache-2.0
"""A ROS domain that nobody else is on, so that what a command starts never meets a real robot."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping

from vla_ros.errors import UserError

# Domains whose UDP ports lie below the range that Linux gives to other programs; 0 is everybody's default.
DOMAIN_IDS = range(1, 102)
# For tests: the domain to be in, which the caller holds.
DOMAIN_VARIABLE = "VLA_ROS_DOMAIN_ID"

_own: list[tuple[int, socket.socket]] = []


def isolate() -> None:
    """Put this process and its children into a ROS domain of their own, on this machine alone.

    The user's ROS_DOMAIN_ID is where the robots are; whoever wants to meet those attaches to what runs there.
    """
    if not _own and DOMAIN_VARIABLE not in os.environ:
        _own.append(claim_domain_id())
    domain_id = os.environ.get(DOMAIN_VARIABLE) or str(_own[0][0])
    os.environ.update(ROS_DOMAIN_ID=domain_id, ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    os.environ.pop("ROS_STATIC_PEERS", None)
    if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the range yet
        os.environ["ROS_LOCALHOST_ONLY"] = "1"


def claim_domain_id(environ: Mapping[str, str] = os.environ) -> tuple[int, socket.socket]:
    """A ROS domain id that nobody on this machine uses, and the lock that holds it until it is closed.

    Raises:
        UserError: all are in use.
    """
    for domain_id in random.sample(DOMAIN_IDS, len(DOMAIN_IDS)):
        if str(domain_id) == environ.get("ROS_DOMAIN_ID"):
            continue
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0vla_ros_domain_{domain_id}")  # an abstract name: it vanishes with its holder
            if _is_free(domain_id):
                return domain_id, lock
        except OSError:
            pass
        lock.close()
    raise UserError(
        f"all ROS domains from {DOMAIN_IDS[0]} to {DOMAIN_IDS[-1]} are in use on this machine; end some of the programs"
    )


def _is_free(domain_id: int) -> bool:
    """Whether no participant listens on the port at which the first one of a domain does (RTPS 2.2, 9.6.1.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain_id))
        except OSError:
            return False
    return True
