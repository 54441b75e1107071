# SPDX-License-Identifier: Apache-2.0
"""Corrections: where in a recording beside a running policy a person moved the arm instead (DAgger, arXiv:1011.0686).

The policy node says so on `intervention` (std_msgs/Bool, latched): true from the first twist of a takeover on, false
from the policy's next turn on. A recording without such a message is one of a demonstrator alone.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_ros import topics
from vla_ros.datasets.bags.episodes.markers import INTERVENTION_TYPE
from vla_ros.datasets.bags.episodes.segments import Segment
from vla_ros.datasets.bags.recording import Recording
from vla_ros.robot import match_topic

# What becomes of frames in which the policy moved the arm: they are left out, or imitated as a person's are.
PolicyFrames = Literal["drop", "imitate"]


@dataclasses.dataclass(frozen=True)
class Interventions:
    """Who moves the arm from each of `time_ns` (S,), receive times in rising order, on: `by_hand` (S,) a person."""

    time_ns: NDArray[np.int64]
    by_hand: NDArray[np.bool_]

    def frames(self, ticks: NDArray[np.int64], period_ns: int) -> NDArray[np.bool_]:
        """Say of which ticks (T,) of the control grid a person moved the arm for the whole period that begins there.

        Before the first message it is the policy: a correction can't begin without one.
        """
        start_ns = ticks * period_ns
        before = np.searchsorted(self.time_ns, start_ns, side="right") - 1
        at_start = np.append(self.by_hand, False)[before]
        handed_back_ns = self.time_ns[~self.by_hand]
        first, last = (np.searchsorted(handed_back_ns, time_ns) for time_ns in (start_ns + 1, start_ns + period_ns))
        result: NDArray[np.bool_] = at_start & (first == last)
        return result

    def share(self, segment: Segment, period_ns: int) -> float:
        """The part of an episode's ticks in which a person moved the arm; 0 for an episode without a whole tick."""
        ticks = np.array(segment.ticks(period_ns), np.int64)
        return float(self.frames(ticks, period_ns).mean()) if len(ticks) else 0.0


def find_interventions(recording: Recording) -> Interventions | None:
    """Read who moved the arm; None where no policy was running beside the recording.

    Raises:
        BagError: the topic has another type.
    """
    if match_topic(topics.INTERVENTION, recording.topics) is None:
        return None
    name = recording.find({"intervention": (topics.INTERVENTION, INTERVENTION_TYPE)})["intervention"]
    if not recording.topics[name].messages:
        return None
    said = sorted((receive_ns, bool(message.data)) for _, receive_ns, message in recording.messages([name]))
    return Interventions(np.array([time for time, _ in said], np.int64), np.array([hand for _, hand in said], bool))
