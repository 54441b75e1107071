# SPDX-License-Identifier: Apache-2.0
"""A replayed episode frame by frame: what was seen and done, and what the policy planned there, to be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.evaluation.replay.open_loop import Replayed
from vla_ros.geometry.rigid import rotation_from_6d
from vla_ros.runtime.execution.timeline import predicted_path

Array = NDArray[np.float64]
POSE = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)))


@dataclasses.dataclass(frozen=True)
class OverlayFrame:
    """One control tick.

    time_ns: of the tick; images: camera -> (h, w, 3) uint8 RGB as the policy saw them; pose: (7,) of the tool in the
    base frame [m, quaternion xyzw], or None: it was not recorded; demonstrated, planned: (7,) what was done and the
    first action of the chunk [m/s, rad/s, opening]; path: (N + 1, 7) poses to which the chunk leads, or None.
    """

    time_ns: int
    images: Mapping[str, NDArray[np.uint8]]
    pose: Array | None
    demonstrated: Array
    planned: Array
    path: Array | None


def overlay(replayed: Replayed, names: Sequence[str], period_ns: int) -> Iterator[OverlayFrame]:
    """Yield the frames of an episode.

    Args:
        names: of the episode's proprioceptive values; with the tool's pose among them there is a path.
        period_ns: of the control grid.
    """
    episode = replayed.episode
    columns = [list(names).index(name) for name in POSE] if set(POSE) <= set(names) else None
    for index, tick in enumerate(episode.ticks.tolist()):
        chunk, pose, path = replayed.chunks[index], None, None
        if columns is not None:
            values = episode.proprioception[index, columns].astype(np.float64)
            pose = np.concatenate([values[:3], rotation_from_6d(values[3:]).as_quat()])
            path = predicted_path(pose, chunk, period_ns / 1e9)
        images = {camera: np.asarray(pictures[index]) for camera, pictures in episode.images.items()}
        yield OverlayFrame(tick * period_ns, images, pose, episode.actions[index], chunk[0], path)
