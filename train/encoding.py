# SPDX-License-Identifier: Apache-2.0
"""What a frozen backbone makes of every frame, once: training what comes after it then costs no more than that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vla_ros.datasets.episode import Frames
from vla_ros.imaging import images
from vla_ros.policy.policy import Policy

FRAMES_AT_ONCE = 32


@torch.no_grad()
def encode_episodes(
    policy: Policy, pictures: Mapping[str, Frames], states: Sequence[Tensor], said: Iterable[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the features (frames, ...) of all episodes, one after the other, as the policy computes them on a robot.

    Args:
        policy: computes where it is.
        pictures: camera -> the frames of all episodes.
        states: (T, P) of each episode, in physical units.
        said: the tokens (L,) of each episode and their mask.
    """
    was_training = policy.training
    policy.eval()
    parts = []
    for episode, (state, (tokens, mask)) in enumerate(zip(states, said, strict=True)):
        text = policy.encode_text(tokens[None].to(policy.device), mask[None].to(policy.device))
        for frames in np.split(np.arange(len(state)), range(FRAMES_AT_ONCE, len(state), FRAMES_AT_ONCE)):
            seen = {}
            for camera in policy.contract.cameras:
                pixels = torch.from_numpy(pictures[camera.name].gather(np.array([episode]), frames[None]))
                seen[camera.name] = images.to_network(pixels.to(policy.device), camera)[0]
            measured = state[torch.from_numpy(frames)].to(policy.device)
            features = policy.encode(seen, measured, text.expand(len(frames), *text.shape[1:]))
            parts.append(features.float().cpu())
    policy.train(was_training)
    return torch.cat(parts)
