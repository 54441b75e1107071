# SPDX-License-Identifier: Apache-2.0
"""Processes started by commands never meet a real robot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from vla_ros.commands.ros import isolation

PROGRAM = """
import os
from vla_ros.commands.ros.isolation import isolate
isolate(); first = os.environ["ROS_DOMAIN_ID"]
isolate(); assert os.environ["ROS_DOMAIN_ID"] == first
print(first, os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"], os.environ.get("ROS_STATIC_PEERS"))
"""


def test_isolation_moves_to_a_private_domain_on_this_machine():
    environment = {**os.environ, "ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    environment |= {"ROS_STATIC_PEERS": "10.0.0.1"}
    environment.pop(isolation.DOMAIN_VARIABLE)
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    domain, discovery, peers = output.stdout.split()
    assert domain != "7" and int(domain) in isolation.DOMAIN_IDS
    assert (discovery, peers) == ("LOCALHOST", "None")


def test_claimed_domains_are_distinct_and_unused(monkeypatch):
    monkeypatch.setattr(isolation, "DOMAIN_IDS", range(90, 94))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("127.0.0.1", 7410 + 250 * 91))
        claimed, locks = [], []
        with pytest.raises(isolation.UserError, match="all ROS domains from 90 to 93 are in use"):
            while True:
                domain_id, lock = isolation.claim_domain_id({"ROS_DOMAIN_ID": "92"})
                claimed.append(domain_id)
                locks.append(lock)
        for lock in locks:
            lock.close()
    assert set(claimed) <= {90, 93} and len(set(claimed)) == len(claimed)
