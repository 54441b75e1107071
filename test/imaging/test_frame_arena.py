# SPDX-License-Identifier: Apache-2.0
"""Images that lie side by side are stacked without a copy; all others are copied."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.contract import Camera
from vla_ros.imaging import images
from vla_ros.imaging.images import FrameArena, stack_frames

STATIC, WRIST = Camera("static", 4, 6), Camera("wrist", 2, 2)


def filled(arena: FrameArena, count: int, camera: Camera = STATIC) -> list[np.ndarray]:
    pictures = [arena(camera) for _ in range(count)]
    for shade, picture in enumerate(pictures):
        picture[...] = shade
    return pictures


def test_consecutive_images_are_not_copied_and_other_cameras_use_other_blocks() -> None:
    arena = FrameArena()
    pictures = []
    for shade in range(5):
        pictures.append(arena(STATIC))
        pictures[-1][...] = shade
        arena(WRIST)[...] = 200
    together = stack_frames(pictures[1:4])
    assert np.shares_memory(together, pictures[1])
    np.testing.assert_array_equal(together, np.stack(pictures[1:4]))


@pytest.mark.parametrize("chosen", [[0, 2], [0, 1, 1, 3], [2, 1, 0], [1, 1], [0, 2, 1, 3], [3]])
def test_frames_are_stacked_in_the_order_given(chosen: list[int]) -> None:
    pictures = filled(FrameArena(), 4)
    found = stack_frames([pictures[number] for number in chosen])
    assert found.shape == (len(chosen), 4, 6, 3) and found[:, 0, 0, 0].tolist() == chosen


def test_images_from_two_blocks_or_none_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_ARENA_BYTES", 3 * 4 * 6 * 3)
    pictures = filled(FrameArena(), 7)
    assert stack_frames(pictures)[:, 0, 0, 0].tolist() == list(range(7))
    assert len({id(picture.base) for picture in pictures}) == 3
    alone = [np.full((4, 6, 3), 9, np.uint8), *pictures[:2]]
    assert stack_frames(alone)[:, 0, 0, 0].tolist() == [9, 0, 1]


@pytest.mark.parametrize("mode", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(48, 64), (36, 48), (24, 24), (96, 128), (10, 64)])
def test_an_image_resized_into_an_arena_is_the_same(mode: str, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    camera = Camera("c", *size, resize=mode)
    out = FrameArena()(camera)
    assert images.resize(rgb, camera, out) is out
    np.testing.assert_array_equal(out, images.resize(rgb, camera))
