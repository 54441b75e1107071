# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot: observations in, physical action chunks out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros import actions
from vla_ros.contract import PolicyContract
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation
from vla_ros.policy.acceleration import (
    Acceleration,
    AccelerationError,
    CapturedStep,
    DeviceInputs,
    Field,
    OutputBuffer,
    choose_acceleration,
    compile_errors,
    compile_step,
)
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.heads.head import ACTION_SIZE, History
from vla_ros.policy.policy import Policy

CHECKED_STEPS = 3
TOLERANCE = 1e-2  # between captured and eager chunks, of normalised actions in [-1, 1]


def load_policy_for_inference(
    folder: str | Path,
    device: str = "auto",
    precision: str = "auto",
    compile: str = "auto",
    contract: PolicyContract | None = None,
) -> PolicyRunner:
    """Load a checkpoint to step it on a robot, in the thread that will use it.

    Args:
        folder: the checkpoint folder.
        device, precision, compile: see `policy/acceleration.py`; checked before the weights are read.
        contract: the checkpoint's, if it has been read already.

    Raises:
        AccelerationError: an explicit choice is not available here.
        CheckpointError: the folder is not a valid checkpoint.
    """
    acceleration = choose_acceleration(device, precision, compile)
    return PolicyRunner(load_checkpoint(folder, acceleration.device, contract), acceleration)


class PolicyRunner:
    """Steps a policy through time. Use it from one thread, as CUDA graphs and compiled models require.

    Only the newest frame is encoded. Earlier encodings are kept, and the head runs over the last W of them from its
    zero state at each step: exactly what it saw in training. Inputs, history and chunk keep their shapes and their
    places in device memory; a step is one copy to the device and one back.

    Args:
        policy: is moved to the device, and its weights converted to the precision.
        acceleration: `warm_up` compiles or captures the step; until then, steps are eager.
    """

    def __init__(self, policy: Policy, acceleration: Acceleration | None = None) -> None:
        self.acceleration = acceleration or Acceleration()
        device = self.acceleration.device
        self._policy = policy.to(device).eval()
        self.acceleration.convert(policy.backbone)
        self._inputs = DeviceInputs(_input_fields(policy), device)
        self._chunk = OutputBuffer((policy.contract.timing.chunk, ACTION_SIZE), device)
        self._statistics = {camera.name: images.statistics(camera, device) for camera in policy.contract.cameras}
        self._no_proprioception = torch.zeros((1, 0), device=device)
        self._frames: Tensor | None = None  # (1, W, ...), from the first step on
        self._seen = 0  # valid frames in it
        self._text: Any = None  # the backbone's text features
        self._has_command = False
        self._advance: Callable[[], None] = self._compute

    @property
    def contract(self) -> PolicyContract:
        """The policy's contract."""
        return self._policy.contract

    @torch.inference_mode()
    def reset(self, command: str) -> None:
        """Follow `command` from now on, with an empty history."""
        # Pooled text costs nothing per step: with one shape, no new command compiles or allocates anything.
        self._set_command(command, fixed_length=self._policy.backbone.pools_text)

    def _set_command(self, command: str, *, fixed_length: bool) -> None:
        in_place = self.acceleration.compile != "none"
        tokens, mask = self._policy.tokenize([command], fixed_length=fixed_length or in_place)
        device = self.acceleration.device
        with self.acceleration.autocast():
            text = self._policy.encode_text(tokens.to(device), mask.to(device))
        if in_place and self._text is not None:
            self._text.copy_(text)  # where a captured step reads it
        else:
            self._text = text.clone()
        self._has_command = True
        self.clear_history()

    def clear_history(self) -> None:
        """Forget all frames, for instance after a gap: in training, consecutive frames are one period apart."""
        self._seen = 0

    @torch.inference_mode()
    def step(self, observation: Observation) -> NDArray[np.float64]:
        """Return the chunk (N, 7), starting at the observation's tick: m/s, rad/s, gripper opening in [0, 1].

        Raises:
            RuntimeError: `reset` was never called.
            ValueError: the observation does not match the contract.
        """
        if not self._has_command:
            raise RuntimeError("PolicyRunner.step was called before reset(command)")
        self._write_inputs(observation)
        space = self.contract.action
        return actions.denormalize(self._predict().astype(np.float64), space.low, space.high)

    @torch.inference_mode()
    def warm_up(self, steps: int = 3) -> float:
        """Compile or capture the step and run it a few times, with the longest possible command; leaves no trace.

        If `compile` was "auto" and the policy cannot be captured, logs that and falls back to eager mode.

        Returns:
            How long one more step took [s].

        Raises:
            AccelerationError: the policy cannot be compiled or captured, and `compile` was explicit.
        """
        self._set_command("", fixed_length=True)
        for index in range(steps):
            self.step(self._random_observation(index))
        if self.acceleration.compile != "none" and self._advance == self._compute:
            self._accelerate()
        started_s = time.perf_counter()
        self.step(self._random_observation(steps))
        took_s = time.perf_counter() - started_s
        self.clear_history()
        self._has_command = False
        return took_s

    def _accelerate(self) -> None:
        setting = self.acceleration.compile
        captures = setting == "cuda_graph"
        try:
            with compile_errors(setting):
                expected = self._first_chunks()
                self._advance = (
                    CapturedStep(self._compute, self.acceleration.device) if captures else compile_step(self._compute)
                )
                found = self._first_chunks()
                if captures and not np.allclose(found, expected, atol=TOLERANCE, equal_nan=True):
                    raise RuntimeError("the captured step does not reproduce the eager one")
        except AccelerationError as error:
            if self.acceleration.explicit:
                raise
            logging.getLogger(__name__).warning("falling back to eager mode: %s", error)
            self._advance = self._compute
            self.acceleration = dataclasses.replace(self.acceleration, compile="none")
            self._first_chunks()

    def _first_chunks(self) -> NDArray[np.float32]:
        """Return the chunks of a few first steps."""
        self.clear_history()
        chunks = []
        for index in range(CHECKED_STEPS):
            self._write_inputs(self._random_observation(index))
            chunks.append(self._predict())
        return np.stack(chunks)

    def _write_inputs(self, observation: Observation) -> None:
        arrays = self._inputs.arrays
        for camera in self.contract.cameras:
            image, field = observation.images[camera.name], arrays[_image_field(camera.name)]
            if image.shape != field.shape[1:]:
                raise ValueError(f"the image {camera.name} has shape {image.shape}; expected {field.shape[1:]}")
            field[0] = image
        if self.contract.proprioception is not None:
            if observation.proprioception is None:
                raise ValueError("the observation lacks proprioception, which the contract requires")
            arrays["proprioception"][0] = observation.proprioception
        arrays["seen"][0] = self._seen

    def _predict(self) -> NDArray[np.float32]:
        """Return the normalised chunk (N, 7) for the written inputs."""
        self._inputs.send()
        self._advance()
        chunk = self._chunk.fetch()
        assert self._frames is not None
        self._seen = min(self._seen + 1, self._frames.shape[1])
        return chunk

    def _compute(self) -> None:
        """Compute chunk and history from the inputs on the device, without synchronising or branching on values."""
        inputs = self._inputs.tensors
        pixels = {name: images.normalize(inputs[_image_field(name)], *both) for name, both in self._statistics.items()}
        with self.acceleration.autocast():
            prediction, history = self._policy.step(
                pixels,
                inputs.get("proprioception", self._no_proprioception),
                self._text,
                None if self._frames is None else History(self._frames, inputs["seen"]),
            )
        opening = prediction.gripper_logit[0].sigmoid()
        self._chunk.tensor.copy_(torch.cat([prediction.arm[0], opening[:, None]], dim=-1))
        if self._frames is None:
            self._frames = history.frames
        else:
            self._frames.copy_(history.frames)

    def _random_observation(self, seed: int) -> Observation:
        generator = np.random.default_rng(seed)
        cameras, proprioception = self.contract.cameras, self.contract.proprioception
        return Observation(
            time_ns=0,
            images={c.name: generator.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in cameras},
            stamps_ns={},
            proprioception=np.asarray(proprioception.mean, np.float32) if proprioception else None,
            command="",
        )


def _image_field(camera: str) -> str:
    return f"image of {camera}"


def _input_fields(policy: Policy) -> dict[str, Field]:
    """Return the inputs of a step: the newest frame, and the number of frames before it."""
    contract = policy.contract
    fields: dict[str, Field] = {
        _image_field(c.name): ((1, c.height, c.width, 3), torch.uint8) for c in contract.cameras
    }
    fields["seen"] = ((1,), torch.long)
    if contract.proprioception is not None:
        fields["proprioception"] = ((1, len(contract.proprioception.names)), torch.float32)
    return fields
