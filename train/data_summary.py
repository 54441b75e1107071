# SPDX-License-Identifier: Apache-2.0
"""What a policy was trained on, in a file of its run folder, for people and for `vla report`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.datasets.episode import Episode

DATA_SUMMARY = "data.json"


def write_data_summary(folder: Path, parts: Mapping[str, Sequence[Episode]]) -> None:
    """Write ``folder``/data.json: episodes, frames and tasks of each part (training, validation, rehearsed)."""
    summary = {name: summarise(episodes) for name, episodes in parts.items() if episodes}
    (folder / DATA_SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def summarise(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return counts of episodes: in all, by task, and by outcome; and of frames."""
    return {
        "episodes": len(episodes),
        "frames": sum(map(len, episodes)),
        "tasks": dict(sorted(Counter(episode.task for episode in episodes).items())),
        "commands": len({command for episode in episodes for command in episode.commands}),
        "outcomes": dict(Counter(episode.outcome for episode in episodes)),
    }
