# SPDX-License-Identifier: Apache-2.0
"""The messages on the `episode` topic that say where a demonstration starts, ends and how it went.

A marker is JSON in a std_msgs/String, so that a person reads it with `ros2 topic echo` and any bag keeps it without a
message package of ours: {"event": "start", "episode": 3, "task": "open_drawer", "command": "open the drawer"}.
"""

from __future__ import annotations

import dataclasses
import json

from vla_ros.datasets.errors import BagError

EPISODE_TYPE = "std_msgs/msg/String"
# A Bool: true while a person moves the arm instead of the policy that runs beside the recording.
INTERVENTION_TYPE = "std_msgs/msg/Bool"
EVENTS = ("start", "success", "failure", "discard")


@dataclasses.dataclass(frozen=True)
class EpisodeMarker:
    """`event` (one of EVENTS) of episode number `episode`; `task` and `command` as they were at its start."""

    event: str
    episode: int
    task: str
    command: str

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise BagError(f"episode marker: event is {self.event!r}; allowed: {', '.join(EVENTS)}")

    def to_text(self) -> str:
        """Return the text of the message; `parse_marker` is its inverse."""
        return json.dumps(dataclasses.asdict(self))


def parse_marker(text: str) -> EpisodeMarker:
    """Read the text of an `episode` message.

    Raises:
        BagError: it is not JSON, a key is unknown or missing, or a value has the wrong type.
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


_TYPES: dict[str, type] = {"event": str, "episode": int, "task": str, "command": str}
_EXPECTED = (
    "expected " + json.dumps({"event": "|".join(EVENTS), "episode": 0, "task": "...", "command": "..."})
    + ". If the topic belongs to another tool, leave it out of the recording"
)  # fmt: skip
