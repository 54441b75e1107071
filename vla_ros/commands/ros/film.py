# SPDX-License-Identifier: Apache-2.0
"""What the cameras saw in rollouts, as a video and as one picture, with command and outcome written on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging import images

SIDE = 256  # pixels of each camera's picture
HEADER = 44
SHEET_SIDE = 128
SHEET_MOMENTS = 3  # start, middle, end
FRAMES_PER_S = 10
LAST_FRAME_S = 0.8

Frames = Sequence[dict[str, bytes]]
GREEN, RED, WHITE = (120, 220, 120), (230, 110, 110), (235, 235, 235)


class Film:
    """A video that grows by a rollout at a time, and a contact sheet with a row for each."""

    def __init__(self, folder: Path) -> None:
        self.video = folder / "demo.mp4"
        self.sheet = folder / "contact_sheet.png"
        size = (2 * SIDE, SIDE + HEADER)
        self._writer = cv2.VideoWriter(str(self.video), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_S, size)
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, task: str, command: str, success: bool, time_s: float, frames: Frames) -> None:
        """Add a rollout. frames: JPEGs by camera name, at 10 Hz."""
        if not frames:
            return
        outcome = f"success after {time_s:.1f} s" if success else "failed"
        pictures = [side_by_side(frame, SIDE) for frame in frames]
        for index, picture in enumerate(pictures):
            last = index == len(pictures) - 1
            titled = _titled(picture, task, command, outcome if last else "", success)
            for _ in range(int(LAST_FRAME_S * FRAMES_PER_S) if last else 1):
                self._writer.write(cv2.cvtColor(titled, cv2.COLOR_RGB2BGR))
        moments = np.linspace(0, len(frames) - 1, SHEET_MOMENTS).round().astype(int)
        row = np.hstack([side_by_side(frames[moment], SHEET_SIDE) for moment in moments])
        self._rows.append(_titled(row, task, command, outcome, success))

    def close(self) -> None:
        """Complete both files."""
        self._writer.release()
        if self._rows:
            columns = 1 if len(self._rows) <= 14 else 2
            rows = self._rows + [np.zeros_like(self._rows[0])] * (-len(self._rows) % columns)
            sheet = np.vstack([np.hstack(rows[start : start + columns]) for start in range(0, len(rows), columns)])
            cv2.imwrite(str(self.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def side_by_side(frame: dict[str, bytes], side: int) -> NDArray[np.uint8]:
    """All cameras' JPEGs in one row of squares (side, n * side, 3), RGB."""
    decoded = (images.decode_image_file(data) for _, data in sorted(frame.items()))
    return np.hstack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR) for picture in decoded])


def show(frame: dict[str, bytes], title: str) -> None:
    """Show the newest pictures in a window."""
    if frame:
        cv2.imshow(title, cv2.cvtColor(side_by_side(frame, SIDE), cv2.COLOR_RGB2BGR))
        cv2.waitKey(1)


def _titled(picture: NDArray[np.uint8], task: str, command: str, outcome: str, success: bool) -> NDArray[np.uint8]:
    header = np.zeros((HEADER, picture.shape[1], 3), np.uint8)
    _write(header, [(f'"{command}"', 18, WHITE), (f"{task}  {outcome}", 36, GREEN if success else RED)])
    return np.vstack([header, picture])


def _write(picture: NDArray[np.uint8], lines: Iterable[tuple[str, int, tuple[int, int, int]]]) -> None:
    for text, bottom, colour in lines:
        cv2.putText(picture, text, (6, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
