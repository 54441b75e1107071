# SPDX-License-Identifier: Apache-2.0
"""The messages on the `episode` topic: where a demonstration starts and ends, and how it went.

A marker is JSON in a std_msgs/String, so that people can read it with `ros2 topic echo` and bags need no custom message
type: {"event": "start", "episode": 3, "task": "open_drawer", "command": "open the drawer"}.
"""

from __future__ import annotations

import dataclasses
import json

from vla_ros import schema
from vla_ros.datasets.errors import BagError

EPISODE_TYPE = "std_msgs/msg/String"
INTERVENTION_TYPE = "std_msgs/msg/Bool"  # true while a person moves the arm instead of the policy
EVENTS = ("start", "success", "failure", "discard")

_EXAMPLE = json.dumps({"event": "|".join(EVENTS), "episode": 0, "task": "...", "command": "..."})


@dataclasses.dataclass(frozen=True)
class EpisodeMarker:
    """One of EVENTS in an episode, with the `task` and `command` from its start."""

    event: str
    episode: int
    task: str
    command: str

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise BagError(f"episode marker: event must be one of {', '.join(EVENTS)}; got {self.event!r}")

    def to_text(self) -> str:
        """Return the text of the message."""
        return json.dumps(dataclasses.asdict(self))


def parse_marker(text: str) -> EpisodeMarker:
    """Parse the text of an `episode` message; raise BagError if it is not a marker as JSON."""

    def malformed(why: str) -> BagError:
        return BagError(f"{why}; expected {_EXAMPLE}. If another tool uses this topic, exclude it from the recording")

    try:
        return schema.parse(EpisodeMarker, json.loads(text), f"episode marker {text!r}", malformed)
    except json.JSONDecodeError as error:
        raise malformed(f"episode marker {text!r} is not JSON ({error})") from None
