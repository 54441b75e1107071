# SPDX-License-Identifier: Apache-2.0
"""What the cameras saw in a rollout, as a small animation that every browser plays from inside a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 128  # pixels of each camera's picture
LAST_FRAME_MS = 1500
_QUALITY = 60


class Film:
    """Collects a rollout's pictures of `cameras` side by side; `save` writes them as animated WebP."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = cameras
        self._frames: list[NDArray[np.uint8]] = []

    def on_frame(self, _tick: int, observation: Mapping[str, Any]) -> None:
        """Take the pictures of an observation: (h, w, 3) uint8 RGB under each camera's name."""
        pictures = [
            cv2.resize(np.asarray(observation[name]), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            for name in self._cameras
        ]
        self._frames.append(np.hstack(pictures).astype(np.uint8))

    def save(self, path: Path, frames_per_s: float) -> None:
        """Write the film; its last picture stays a while. Nothing is written of no pictures."""
        from PIL import Image

        if not self._frames:
            return
        first, *others = [Image.fromarray(frame) for frame in self._frames]
        each_ms = round(1000 / frames_per_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        first.save(
            partial,
            format="WEBP",
            save_all=True,
            append_images=others,
            duration=[each_ms] * len(others) + [LAST_FRAME_MS],
            loop=0,
            quality=_QUALITY,
        )
        partial.replace(path)
