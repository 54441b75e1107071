# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot: observations in, physical action chunks out."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros import actions, images
from vla_ros.contract import PolicyContract
from vla_ros.observation import Observation
from vla_ros.policy.policy import Policy


class PolicyRunner:
    """Step a policy through time; belongs to one thread, as CUDA graphs and compiled models do.

    Only the newest frame is encoded. What was encoded of the last W frames is kept, and the head runs over it from its
    zero state at each step: exactly what it saw in training, where carrying a recurrent state on forever is not.
    """

    def __init__(self, policy: Policy, device: str | torch.device = "cpu") -> None:
        self._policy = policy.to(device).eval()
        self._device = torch.device(device)
        self._history: Tensor | None = None
        self._text: Tensor | None = None

    @property
    def contract(self) -> PolicyContract:
        """What the policy assumes."""
        return self._policy.contract

    @torch.inference_mode()
    def reset(self, command: str) -> None:
        """Follow ``command`` from now on, with an empty history."""
        tokens, mask = self._policy.tokenize([command])
        self._text = self._policy.encode_text(tokens.to(self._device), mask.to(self._device))
        self.clear_history()

    def clear_history(self) -> None:
        """Forget the frames, for instance after a gap: training never saw frames further apart than a period."""
        self._history = None

    @property
    def max_delay_steps(self) -> int:
        """How many committed actions ``step`` can be told of; 0 for a policy that was trained without delays."""
        return self._policy.config.max_delay_steps

    @torch.inference_mode()
    def step(self, observation: Observation, committed: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return the chunk (N, 7) for the ticks from the observation's on: m/s, rad/s, gripper opening in [0, 1].

        Args:
            committed: (D, 7), in the same units: what will be done at the first D of these ticks whatever this step
                says, because it takes that long. The chunk has them in its first D rows.

        Raises:
            RuntimeError: ``reset`` was never called.
            ValueError: D is more than ``max_delay_steps``.
        """
        if self._text is None:
            raise RuntimeError("PolicyRunner.step before reset(command); there is no command to follow")
        space, prefix = self.contract.action, None
        if committed is not None and len(committed):
            targets = actions.network_targets(committed, space.low, space.high)
            prefix = torch.from_numpy(targets).to(self._device, torch.float32)
        prediction, self._history = self._policy.step(*self._inputs(observation), self._text, self._history, prefix)
        predicted = torch.cat([prediction.arm[0], prediction.gripper_logit[0].sigmoid()[:, None]], dim=-1)
        chunk = actions.denormalize(predicted.cpu().numpy().astype(np.float64), space.low, space.high)
        if committed is not None:
            chunk[: len(committed)] = committed
        return chunk

    def warm_up(self, steps: int = 3) -> float:
        """Run a few steps on black images, so that the first real step is not slower; forgets them and the command.

        Returns how long the last one took [s], with all that can be told of committed actions.
        """
        cameras = self.contract.cameras
        proprioception = self.contract.proprioception
        blank = Observation(
            time_ns=0,
            images={camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in cameras},
            stamps_ns={},
            proprioception=np.asarray(proprioception.mean, np.float32) if proprioception else None,
            command="",
        )
        committed = np.zeros((self.max_delay_steps, 7))
        self.reset("")
        for _ in range(steps):
            started_s = time.perf_counter()
            self.step(blank, committed)
        self.clear_history()
        self._text = None
        return time.perf_counter() - started_s

    def _inputs(self, observation: Observation) -> tuple[dict[str, Tensor], Tensor]:
        """Return the images {camera: (1, 3, h, w)} and the proprioception (1, P) as tensors on the device."""
        pixels = {
            camera.name: images.to_network(
                torch.from_numpy(observation.images[camera.name]).to(self._device)[None], camera
            )
            for camera in self.contract.cameras
        }
        if self.contract.proprioception is None:
            return pixels, torch.zeros((1, 0), device=self._device)
        if observation.proprioception is None:
            raise ValueError("the observation has no proprioception, which the contract names")
        state = torch.from_numpy(np.asarray(observation.proprioception, np.float32))
        return pixels, state.to(self._device)[None]
