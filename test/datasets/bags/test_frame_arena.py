# SPDX-License-Identifier: Apache-2.0
"""Pictures that lie one after the other become an episode's array without a copy; any others are copied."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.contract import Camera
from vla_ros.datasets.bags import frame_arena
from vla_ros.datasets.bags.frame_arena import PictureRoom, stacked
from vla_ros.imaging import images

STATIC, WRIST = Camera("static", 4, 6), Camera("wrist", 2, 2)


def filled(room: PictureRoom, count: int, camera: Camera = STATIC) -> list[np.ndarray]:
    pictures = [room(camera) for _ in range(count)]
    for shade, picture in enumerate(pictures):
        picture[...] = shade
    return pictures


def test_consecutive_pictures_are_not_copied_and_those_of_another_camera_lie_elsewhere() -> None:
    room = PictureRoom()
    pictures = []
    for shade in range(5):
        pictures.append(room(STATIC))
        pictures[-1][...] = shade
        room(WRIST)[...] = 200
    together = stacked(pictures[1:4])
    assert np.shares_memory(together, pictures[1])
    np.testing.assert_array_equal(together, np.stack(pictures[1:4]))


@pytest.mark.parametrize("chosen", [[0, 2], [0, 1, 1, 3], [2, 1, 0], [1, 1], [0, 2, 1, 3], [3]])
def test_whatever_is_chosen_comes_in_that_order(chosen: list[int]) -> None:
    pictures = filled(PictureRoom(), 4)
    found = stacked([pictures[number] for number in chosen])
    assert found.shape == (len(chosen), 4, 6, 3) and found[:, 0, 0, 0].tolist() == chosen


def test_pictures_of_two_blocks_and_of_none_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_arena, "_BLOCK_BYTES", 3 * 4 * 6 * 3)
    pictures = filled(PictureRoom(), 7)
    assert stacked(pictures)[:, 0, 0, 0].tolist() == list(range(7))
    assert len({id(picture.base) for picture in pictures}) == 3
    alone = [np.full((4, 6, 3), 9, np.uint8), *pictures[:2]]
    assert stacked(alone)[:, 0, 0, 0].tolist() == [9, 0, 1]


@pytest.mark.parametrize("mode", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(48, 64), (36, 48), (24, 24), (96, 128), (10, 64)])
def test_a_picture_is_the_same_wherever_it_has_its_room(mode: str, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    camera = Camera("c", *size, resize=mode)
    room = PictureRoom()(camera)
    assert images.resize(rgb, camera, room) is room
    np.testing.assert_array_equal(room, images.resize(rgb, camera))
