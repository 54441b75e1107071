# SPDX-License-Identifier: Apache-2.0
"""What the cameras saw in a rollout, as a small animated WebP that plays inside a web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros import files

SIDE_PX = 128  # of each camera's image
LAST_FRAME_MS = 1500
_QUALITY = 60


class RolloutVideo:
    """Collects the images of `cameras` side by side."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = cameras
        self._frames: list[NDArray[np.uint8]] = []

    def on_frame(self, _tick: int, observation: Mapping[str, Any]) -> None:
        """Add the images of an observation: (H, W, 3) uint8 RGB under each camera's name."""
        images = [
            cv2.resize(np.asarray(observation[name]), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
            for name in self._cameras
        ]
        self._frames.append(np.hstack(images).astype(np.uint8))

    def save(self, path: Path, frames_per_s: float) -> None:
        """Write the video, which lingers on its last frame; without frames, write nothing."""
        from PIL import Image

        if not self._frames:
            return
        first, *others = [Image.fromarray(frame) for frame in self._frames]
        durations_ms = [round(1000 / frames_per_s)] * len(others) + [LAST_FRAME_MS]
        with files.atomic_write(path) as partial:
            first.save(
                partial, "WEBP", save_all=True, append_images=others, duration=durations_ms, loop=0, quality=_QUALITY
            )
