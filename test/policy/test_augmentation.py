# SPDX-License-Identifier: Apache-2.0
"""Image augmentation: one draw per window, so that apparent motion stays true."""

from __future__ import annotations

import torch

from vla_ros.policy.augmentation import jitter_colour, random_shift


def test_a_shift_is_one_for_all_frames_of_a_trajectory_and_differs_between_trajectories():
    torch.manual_seed(0)
    base = torch.rand(1, 1, 3, 16, 16).expand(8, 4, 3, 16, 16)
    shifted = random_shift(base, 3)
    assert all(torch.equal(shifted[:, 0], shifted[:, frame]) for frame in range(4))
    assert len({tuple(row.flatten()[:50].tolist()) for row in shifted[:, 0]}) > 3


def test_a_shift_moves_pixels_and_repeats_the_edge():
    images_in = torch.zeros(64, 1, 1, 9, 9)
    images_in[..., 4, 4] = 1.0
    shifted = random_shift(images_in, 2)
    assert (shifted.sum(dim=(1, 2, 3, 4)) == 1).all()
    positions = shifted[:, 0, 0].flatten(1).argmax(dim=1)
    assert {int(p) // 9 for p in positions} == {2, 3, 4, 5, 6} == {int(p) % 9 for p in positions}


def test_no_shift_and_no_jitter_change_nothing():
    batch = torch.rand(2, 3, 3, 8, 8)
    assert torch.equal(random_shift(batch, 0), batch)
    assert torch.equal(jitter_colour(batch, 0.0, 0.0), batch)
