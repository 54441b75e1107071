# SPDX-License-Identifier: Apache-2.0
"""Camera images of rollouts as a video and a contact sheet, captioned with command and outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging import images

Image = NDArray[np.uint8]

IMAGE_SIZE = 256  # pixels
CAPTION_HEIGHT = 44
SHEET_IMAGE_SIZE = 128
SHEET_MOMENTS = 3  # start, middle, end
FRAMES_PER_S = 10
LAST_FRAME_S = 0.8
GREEN, RED, WHITE = (120, 220, 120), (230, 110, 110), (235, 235, 235)


class RolloutVideo:
    """`demo.mp4`, which grows rollout by rollout, and `contact_sheet.png` with a row for each."""

    def __init__(self, folder: Path) -> None:
        self.video = folder / "demo.mp4"
        self.sheet = folder / "contact_sheet.png"
        size = (2 * IMAGE_SIZE, IMAGE_SIZE + CAPTION_HEIGHT)
        self._writer = cv2.VideoWriter(str(self.video), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_S, size)
        self._rows: list[Image] = []

    def add(self, task: str, command: str, success: bool, time_s: float, frames: Sequence[Mapping[str, bytes]]) -> None:
        """Add a rollout. `frames`: JPEGs by camera name, at 10 Hz."""
        if not frames:
            return
        outcome = f"success after {time_s:.1f} s" if success else "failed"
        for index, frame in enumerate(frames):
            last = index == len(frames) - 1
            image = _captioned(side_by_side(frame, IMAGE_SIZE), task, command, outcome if last else "", success)
            for _ in range(int(LAST_FRAME_S * FRAMES_PER_S) if last else 1):
                self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        moments = np.linspace(0, len(frames) - 1, SHEET_MOMENTS).round().astype(int)
        row = np.hstack([side_by_side(frames[moment], SHEET_IMAGE_SIZE) for moment in moments])
        self._rows.append(_captioned(row, task, command, outcome, success))

    def close(self) -> None:
        """Finish both files."""
        self._writer.release()
        if self._rows:
            columns = 1 if len(self._rows) <= 14 else 2
            rows = self._rows + [np.zeros_like(self._rows[0])] * (-len(self._rows) % columns)
            sheet = np.vstack([np.hstack(rows[start : start + columns]) for start in range(0, len(rows), columns)])
            cv2.imwrite(str(self.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def side_by_side(frame: Mapping[str, bytes], size: int) -> Image:
    """Decode all cameras' JPEGs into one RGB row of squares (size, n * size, 3)."""
    decoded = (images.decode_image_file(data) for _, data in sorted(frame.items()))
    return np.hstack([cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in decoded])


def show(frame: Mapping[str, bytes], title: str) -> None:
    """Show the latest images in a window."""
    if frame:
        cv2.imshow(title, cv2.cvtColor(side_by_side(frame, IMAGE_SIZE), cv2.COLOR_RGB2BGR))
        cv2.waitKey(1)


def _captioned(image: Image, task: str, command: str, outcome: str, success: bool) -> Image:
    caption = np.zeros((CAPTION_HEIGHT, image.shape[1], 3), np.uint8)
    for text, bottom, color in ((f'"{command}"', 18, WHITE), (f"{task}  {outcome}", 36, GREEN if success else RED)):
        cv2.putText(caption, text, (6, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
    return np.vstack([caption, image])
