# SPDX-License-Identifier: Apache-2.0
"""The part of a report that is about episodes, whatever they were recorded in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.inspection.metrics import action_metrics, image_metrics, motion_metrics
from vla_ros.robot import Robot

THUMBNAIL_EPISODES = 12


class EpisodeMetrics:
    """Sums up episodes one by one, without keeping their images.

    Attributes:
        thumbnails: (name and command, camera -> first, middle and last image) of the first episodes.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self.thumbnails: list[tuple[str, dict[str, list[NDArray[np.uint8]]]]] = []
        self._actions: list[NDArray[np.float64]] = []
        self._commands: Counter[str] = Counter()
        self._images: dict[str, Counter[str]] = {name: Counter() for name in cameras}

    def add(self, episode: Episode) -> None:
        """Take in an episode."""
        self._actions.append(episode.actions)
        self._commands[episode.command] += len(episode)
        for camera, images in episode.images.items():
            self._images[camera].update(image_metrics(images))
        if len(self.thumbnails) < THUMBNAIL_EPISODES:
            shown = dict.fromkeys((0, len(episode) // 2, len(episode) - 1))
            thumbnails = {name: [images[index] for index in shown] for name, images in episode.images.items()}
            self.thumbnails.append((f"{episode.source}: {episode.command}", thumbnails))

    @property
    def actions(self) -> NDArray[np.float64]:
        """All actions (T, 7)."""
        return np.concatenate([np.zeros((0, 7)), *self._actions])

    def report(self, robot: Robot | None, period_s: float) -> dict[str, Any]:
        """Return what was summed up, as plain data; without a robot, nothing is compared with limits."""
        actions = self.actions
        return {
            "frames": len(actions),
            "actions": action_metrics(actions),
            "motion": motion_metrics(self._actions, robot, period_s),
            "cameras": {name: dict(counts) for name, counts in self._images.items()},
            "language": dict(self._commands.most_common()),
        }
