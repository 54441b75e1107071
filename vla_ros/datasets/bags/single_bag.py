# SPDX-License-Identifier: Apache-2.0
"""One recorded bag to episodes, without a store; many bags are for `bag_source` and `sources`."""

from __future__ import annotations

import logging
from pathlib import Path

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.interventions import PolicyFrames
from vla_ros.datasets.bags.finding import absolute
from vla_ros.datasets.bags.source import bag_shard
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import BagError
from vla_ros.datasets.shards import DecodeReport
from vla_ros.robot import Robot

logger = logging.getLogger(__name__)


def read_bag(
    path: str | Path,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool = False,
    policy_frames: PolicyFrames = "drop",
) -> tuple[list[Episode], DecodeReport]:
    """Read the episodes of one bag, sampled on the control grid as the live node samples.

    Frames before an episode's first twist and frames whose observation is refused are not in it; a gap cuts the
    episode into pieces, and so does a change of the command. Discarded and unfinished episodes are left out, failures
    too unless asked for. Of a bag that was recorded beside a policy only a person's corrections are taken, unless
    `policy_frames` says otherwise. Of a bag that is damaged or cut off, what can be read is used; the report and a
    warning tell.

    Raises:
        BagError: the bag is missing or empty, nothing of it can be read, it lacks a topic, or no episode is left of it.
    """
    episodes: list[Episode] = []
    decoded = bag_shard(absolute(path), robot, spec, timing, include_failures, policy_frames).decode(episodes.append)
    for text in decoded.damage:
        logger.warning("%s", text)
    if not episodes:
        raise BagError(f"no episode is left of the bag {path}; {decoded.explain_empty()}")
    return episodes, decoded
