# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot: observations in, physical action chunks out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros import actions
from vla_ros.contract import PolicyContract
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation
from vla_ros.policy.acceleration import Acceleration, AccelerationError, CapturedStep, choose, compiled, naming
from vla_ros.policy.history import History
from vla_ros.policy.policy import Policy
from vla_ros.policy.prediction import ACTION_DIMENSIONS
from vla_ros.policy.staging import Field, Return, Staging

CHECKED_STEPS = 3
TOLERANCE = 1e-2  # of normalised actions, whose range is 2; a recorded step runs the same operations


class PolicyRunner:
    """Step a policy through time; belongs to one thread, as CUDA graphs and compiled models do.

    Only the newest frame is encoded. What was encoded of the last W frames is kept, and the head runs over it from its
    zero state at each step: exactly what it saw in training, where carrying a recurrent state on forever is not.
    Inputs, history and chunk stay in their places in the device's memory and keep their shapes, however many frames
    there are and however many actions are committed. A step is one copy to the device, and one back.

    Args:
        policy: taken over: brought to the device, and its weights to the precision.
        device, precision, compile: as ``acceleration.choose`` takes them. ``warm_up`` compiles or captures the step;
            without it, steps run operation by operation.

    Raises:
        AccelerationError: what was asked for by name can't be had here.
    """

    def __init__(
        self, policy: Policy, device: str | torch.device = "cpu", precision: str = "fp32", compile: str = "none"
    ) -> None:
        self.acceleration: Acceleration = choose(str(device), precision, compile)
        device = self.acceleration.device
        self._policy = policy.to(device).eval()
        self.acceleration.convert(policy.backbone)
        self._inputs = Staging(_fields(policy), device)
        self._chunk = Return((policy.contract.timing.chunk, ACTION_DIMENSIONS), device)
        self._statistics = {camera.name: images.statistics(camera, device) for camera in policy.contract.cameras}
        self._no_proprioception = torch.zeros((1, 0), device=device)
        self._frames: Tensor | None = None  # (1, W, ...), from the first step on
        self._seen = 0  # frames in it that count
        self._text: Any = None
        self._commanded = False
        self._advance: Callable[[], None] = self._compute

    @property
    def contract(self) -> PolicyContract:
        """What the policy assumes."""
        return self._policy.contract

    @torch.inference_mode()
    def reset(self, command: str) -> None:
        """Follow ``command`` from now on, with an empty history."""
        # Where no step pays for it, commands of any length are one shape: a new one never needs other code or memory.
        self._follow(command, fixed_length=self._policy.backbone.pools_text)

    def _follow(self, command: str, *, fixed_length: bool) -> None:
        launched_whole = self.acceleration.compile != "none"
        tokens, mask = self._policy.tokenize([command], fixed_length=fixed_length or launched_whole)
        device = self.acceleration.device
        with self.acceleration.autocast():
            text = self._policy.encode_text(tokens.to(device), mask.to(device))
        if launched_whole and self._text is not None:
            self._text.copy_(text)  # where a captured step reads it
        else:
            self._text = text.clone()
        self._commanded = True
        self.clear_history()

    def clear_history(self) -> None:
        """Forget the frames, for instance after a gap: training never saw frames further apart than a period."""
        self._seen = 0

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
            ValueError: D is more than ``max_delay_steps``, or the observation is not of the contract's shapes.
        """
        if not self._commanded:
            raise RuntimeError("PolicyRunner.step before reset(command); there is no command to follow")
        self._write(observation, committed)
        space = self.contract.action
        chunk = actions.denormalize(self._predict().astype(np.float64), space.low, space.high)
        if committed is not None:
            chunk[: len(committed)] = committed
        return chunk

    @torch.inference_mode()
    def warm_up(self, steps: int = 3) -> float:
        """Run a few steps, so that the first real one is not slower, and compile or capture it; leaves no trace.

        They follow the longest command that there can be: no later one needs more memory.

        Returns how long one more took after that [s], told of as many committed actions as it can be.

        Where ``compile`` was "auto" and the policy can't be captured, that is logged, and it runs operation by
        operation.

        Raises:
            AccelerationError: the policy can't be compiled or captured, and that was asked for by name.
        """
        self._follow("", fixed_length=True)
        for index in range(steps):
            self.step(self._noise(index))
        if self.acceleration.compile != "none" and self._advance == self._compute:
            self._accelerate()
        started_s = time.perf_counter()
        self.step(self._noise(steps), np.zeros((self.max_delay_steps, ACTION_DIMENSIONS)))
        took_s = time.perf_counter() - started_s
        self.clear_history()
        self._commanded = False
        return took_s

    def _accelerate(self) -> None:
        how = self.acceleration.compile
        try:
            with naming(how):
                plain = self._chunks()
                captures = how == "cuda_graph"
                advance = CapturedStep(self._compute, self.acceleration.device) if captures else compiled(self._compute)
                self._advance = advance
                launched = self._chunks()
                if captures and not np.allclose(launched, plain, atol=TOLERANCE, equal_nan=True):
                    raise RuntimeError("the recorded step says something else than the policy")
        except AccelerationError as error:
            if self.acceleration.by_name:
                raise
            logging.getLogger(__name__).warning("the policy runs operation by operation: %s", error)
            self._advance = self._compute
            self.acceleration = dataclasses.replace(self.acceleration, compile="none")
            self._chunks()

    def _chunks(self) -> NDArray[np.float32]:
        """Return what a few first steps say, told of 0, 1, ... committed actions as far as that is possible."""
        self.clear_history()
        chunks = []
        for index in range(CHECKED_STEPS):
            still = np.zeros((min(index, self.max_delay_steps), ACTION_DIMENSIONS))
            self._write(self._noise(index), still)
            chunks.append(self._predict())
        return np.stack(chunks)

    def _write(self, observation: Observation, committed: NDArray[np.float64] | None) -> None:
        """Put what a step reads into the host's buffer."""
        given = self._inputs.arrays
        for camera in self.contract.cameras:
            picture, place = observation.images[camera.name], given[_image(camera.name)]
            if picture.shape != place.shape[1:]:
                raise ValueError(f"the image {camera.name} has shape {picture.shape}; expected {place.shape[1:]}")
            place[0] = picture
        if self.contract.proprioception is not None:
            if observation.proprioception is None:
                raise ValueError("the observation has no proprioception, which the contract names")
            given["proprioception"][0] = observation.proprioception
        given["seen"][0] = self._seen
        count = 0 if committed is None else len(committed)
        self._policy.check_delay(count)
        if "prefix" in given:
            space = self.contract.action
            given["prefix"][:] = 0
            if committed is not None and count:
                given["prefix"][0, :count] = actions.network_commitment(committed, space.low, space.high)
            given["delay_steps"][0] = count

    def _predict(self) -> NDArray[np.float32]:
        """Return the normalised chunk (N, 7) for what was written."""
        self._inputs.send()
        self._advance()
        chunk = self._chunk.fetch()
        assert self._frames is not None
        self._seen = min(self._seen + 1, self._frames.shape[1])
        return chunk

    def _compute(self) -> None:
        """Chunk and history from the inputs, all on the device; nothing waits for it or looks at a value."""
        given = self._inputs.tensors
        pixels = {name: images.normalize(given[_image(name)], *both) for name, both in self._statistics.items()}
        with self.acceleration.autocast():
            prediction, history = self._policy.step(
                pixels,
                given.get("proprioception", self._no_proprioception),
                self._text,
                None if self._frames is None else History(self._frames, given["seen"]),
                given.get("prefix"),
                given.get("delay_steps"),
            )
        opening = prediction.gripper_logit[0].sigmoid()
        self._chunk.tensor.copy_(torch.cat([prediction.arm[0], opening[:, None]], dim=-1))
        if self._frames is None:
            self._frames = history.frames
        else:
            self._frames.copy_(history.frames)

    def _noise(self, seed: int) -> Observation:
        """An observation of the contract's shapes."""
        draw = np.random.default_rng(seed)
        cameras, proprioception = self.contract.cameras, self.contract.proprioception
        return Observation(
            time_ns=0,
            images={c.name: draw.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in cameras},
            stamps_ns={},
            proprioception=np.asarray(proprioception.mean, np.float32) if proprioception else None,
            command="",
        )


def _image(camera: str) -> str:
    return f"image of {camera}"


def _fields(policy: Policy) -> dict[str, Field]:
    """What a step reads: the newest frame, how many came before it, and the committed actions."""
    contract = policy.contract
    delay = 0 if policy.committed is None else policy.config.max_delay_steps
    fields: dict[str, Field] = {_image(c.name): ((1, c.height, c.width, 3), torch.uint8) for c in contract.cameras}
    fields["seen"] = ((1,), torch.long)
    if contract.proprioception is not None:
        fields["proprioception"] = ((1, len(contract.proprioception.names)), torch.float32)
    if delay:
        fields["prefix"] = ((1, delay, ACTION_DIMENSIONS), torch.float32)
        fields["delay_steps"] = ((1,), torch.long)
    return fields
