# SPDX-License-Identifier: Apache-2.0
"""The messages on the `episode` topic: where a demonstration starts and ends, and how it went.

A marker is JSON in a std_msgs/String, so that people can read it with `ros2 topic echo` and bags need no custom message
type: {"event": "start", "episode": 3, "task": "open_drawer", "command": "open the drawer"}.
"""

from __future__ import annotations

import dataclasses
import json

from vla_ros.datasets.errors import BagError

EPISODE_TYPE = "std_msgs/msg/String"
INTERVENTION_TYPE = "std_msgs/msg/Bool"  # true while a person moves the arm instead of the policy
EVENTS = ("start", "success", "failure", "discard")

_TYPES: dict[str, type] = {"event": str, "episode": int, "task": str, "command": str}
_EXAMPLE = json.dumps({"event": "|".join(EVENTS), "episode": 0, "task": "...", "command": "..."})
_EXPECTED = f"expected {_EXAMPLE}. If another tool uses this topic, exclude it from the recording"


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
    """Parse the text of an `episode` message.

    Raises:
        BagError: It is not JSON, a key is unknown or missing, or a value is invalid.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BagError(f"episode marker {text!r} is not JSON ({error}); {_EXPECTED}") from None
    if not isinstance(data, dict):
        raise BagError(f"episode marker {text!r} is not a JSON object; {_EXPECTED}")
    for key in data.keys() ^ _TYPES.keys():
        state = "unknown" if key in data else "missing"
        raise BagError(f"episode marker {text!r}: the key {key!r} is {state}; {_EXPECTED}")
    for key, kind in _TYPES.items():
        if type(data[key]) is not kind:
            raise BagError(f"episode marker {text!r}: {key} is {data[key]!r}, not {kind.__name__}; {_EXPECTED}")
    return EpisodeMarker(**data)
