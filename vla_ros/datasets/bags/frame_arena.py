# SPDX-License-Identifier: Apache-2.0
"""Memory in which the pictures of consecutive ticks lie one after the other, so that an episode is a view of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ros.contract import Camera
from vla_ros.imaging.images import Image

_BLOCK_BYTES = 1 << 23


class PictureRoom:
    """Gives memory for one picture of a camera after the other, each once."""

    def __init__(self) -> None:
        self._free: dict[str, tuple[Image, int]] = {}  # of each camera a block (n, h, w, 3) and the first free place

    def __call__(self, camera: Camera) -> Image:
        """Return (h, w, 3) that nobody else has."""
        block, place = self._free.get(camera.name, (_NOTHING, 0))
        if place == len(block):
            count = max(1, _BLOCK_BYTES // (camera.height * camera.width * 3))
            block, place = np.empty((count, camera.height, camera.width, 3), np.uint8), 0
        self._free[camera.name] = block, place + 1
        room: Image = block[place]
        return room


_NOTHING = np.empty((0, 0, 0, 3), np.uint8)


def stacked(pictures: Sequence[Image]) -> Image:
    """Return pictures as one array (T, h, w, 3): a view where they lie one after the other, else a copy."""
    block, size = pictures[0].base, pictures[0].nbytes
    if isinstance(block, np.ndarray) and all(picture.base is block for picture in pictures):
        begins = [_begin(picture) for picture in pictures]
        if block.shape[1:] == pictures[0].shape and begins == list(range(begins[0], begins[-1] + size, size)):
            place = (begins[0] - _begin(block)) // size
            view: Image = block[place : place + len(pictures)]
            return view
    return np.stack(pictures)


def _begin(array: Image) -> int:
    return int(array.__array_interface__["data"][0])
