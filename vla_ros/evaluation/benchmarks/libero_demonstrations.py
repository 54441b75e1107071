# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the scripted expert on LIBERO, as episodes of our contract.

What is recorded goes through the observation buffer of a rollout, frame by frame: the policy will see the same. The
expert's actions are the labels; what is executed may have noise on it (DART, Laskey et al. 2017).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.benchmarks.libero_expert import KNOB, SUITE, TASK, StoveExpert, StoveState
from vla_ros.observations.observation import Observation, ObservationBuffer, Refusal
from vla_ros.runtime.rollout import EVERYTHING_IS_FRESH, push

STEPS = libero.SUITES[SUITE]
STATES = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)), "gripper_opening")
SPEC = ObservationSpec(tuple(Camera(name, libero.PICTURE_PX, libero.PICTURE_PX) for name in libero.CAMERAS), STATES)
NOISE_STD = np.repeat([0.3, 0.5], 3)  # m/s and rad/s of what the controller is told, at scale 1
NOISE_STEPS = 5  # the same noise for a quarter of a second: it pushes the arm off its way


class Scene(Protocol):
    """The part of `LiberoEnv` that is needed."""

    def reset(self, *, seed: int | None, options: dict[str, Any] | None) -> tuple[dict[str, NDArray[Any]], Any]: ...

    def step(self, action: Any) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]: ...

    def body_position(self, name: str) -> NDArray[np.float64]: ...


def demonstrate(env: Scene, state: int, command: str, noise: float) -> Episode | None:
    """Have the expert do its task from initial state `state`; None where it did not within the suite's steps.

    Args:
        noise: scale of the noise on what is executed; 0: none. It is the same for the same state.
    """
    rng = np.random.default_rng(state)
    expert = StoveExpert()
    buffer = ObservationBuffer(SPEC, EVERYTHING_IS_FRESH)
    buffer.push("language", 0, command)
    seen, _ = env.reset(seed=state, options={"task": TASK})
    frames: list[Observation] = []
    actions: list[NDArray[np.float64]] = []
    for tick in range(STEPS):
        time_ns = round(tick * 1e9 / libero.CONTROL_HZ)
        push(buffer, seen, SPEC.streams, time_ns, ())
        frame = buffer.snapshot(time_ns)
        assert not isinstance(frame, Refusal), frame  # every stream has just been pushed
        if tick % NOISE_STEPS == 0:
            pushed = rng.normal(0.0, noise * NOISE_STD)
        action = expert.act(StoveState(seen["ee_position"], seen["ee_quaternion"], env.body_position(KNOB)))
        frames.append(frame)
        actions.append(action)
        seen, _, _, _, info = env.step(np.append(action[:6] + pushed, action[6]))
        if info["success"]:
            return _episode(frames, actions, command, state)
    return None


def _episode(
    frames: list[Observation], actions: list[NDArray[np.float64]], command: str, state: int
) -> Episode:  # fmt: skip
    return Episode(
        images={camera.name: np.stack([frame.images[camera.name] for frame in frames]) for camera in SPEC.cameras},
        proprioception=np.array([frame.proprioception for frame in frames], dtype=np.float32),
        actions=np.array(actions, dtype=np.float64),
        command=command,
        task=TASK,
        outcome="success",
        source=f"{SUITE}/{TASK}#{state}",
        start_ns=0,
        ticks=np.arange(len(frames), dtype=np.int64),
    )
