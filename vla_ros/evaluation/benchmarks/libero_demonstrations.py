# SPDX-License-Identifier: Apache-2.0
"""Demonstrations on LIBERO: a scripted expert with privileged state does "turn on the stove" of libero_goal.

Frames pass through a rollout's observation buffer, so the policy will see the same. The expert's actions are the
labels; the executed ones may carry noise (DART, Laskey et al. 2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.benchmarks import libero
from vla_ros.observations.observation import Observation, ObservationBuffer, Refusal
from vla_ros.runtime.rollout import ALWAYS_FRESH, push_observation

Array = NDArray[np.float64]

SUITE, TASK = "libero_goal", "turn_on_the_stove"
KNOB = "flat_stove_1_button"  # LIBERO's name of its body
STEPS = libero.SUITES[SUITE]
STATES = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)), "gripper_opening")
SPEC = ObservationSpec(tuple(Camera(name, libero.IMAGE_PX, libero.IMAGE_PX) for name in libero.CAMERAS), STATES)
NOISE_STD = np.repeat([0.3, 0.5], 3)  # m/s and rad/s of the commands, at scale 1
NOISE_STEPS = 5  # the same noise for a quarter of a second, to push the arm off its path

# The end of the knob's handle, relative to the knob's origin: measured once, there is only one such stove.
_BESIDE_M = np.array([0.036, -0.05, 0.04])
_CLEARANCE_M = 0.12  # above the handle while the fist moves beside it
_LOW_M, _ALONG_M, _ASIDE_M = 0.012, 0.02, 0.03  # how close to the line of the push the fist must be
# The controller covers a quarter of a commanded motion (see `libero`), and pushes harder the more is commanded.
_GAIN_PER_S, _TURN_GAIN_PER_S, _MAX_MPS = 16.0, 8.0, 1.0


class StoveExpert:
    """Turns on the stove, keeping the tool's initial orientation.

    The knob's handle lies along the base's x axis. A closed gripper comes down beside the end that points to the burner
    and pushes it to the robot's left until LIBERO reports success (half a radian). Apart from the initial orientation,
    actions depend on the current state only, so that a policy without memory can learn them.
    """

    def __init__(self) -> None:
        self._upright: Rotation | None = None

    def act(self, tool: Array, quaternion: Array, knob: Array) -> Array:
        """Return an action (7,): twist [m/s, rad/s] in the base frame, at most 1 m/s, and the closed gripper.

        Given are the positions (3,) [m] of tool and knob in the world, and the tool's orientation (xyzw).
        """
        orientation = Rotation.from_quat(quaternion)
        if self._upright is None:
            self._upright = orientation
        offset = tool - (knob + _BESIDE_M)
        if offset[2] < _LOW_M and abs(offset[0]) < _ALONG_M and offset[1] > -_ASIDE_M:
            linear = np.array([-_GAIN_PER_S * offset[0], _MAX_MPS, -_GAIN_PER_S * offset[2]])
        else:
            above_m = np.clip(1.5 * (np.linalg.norm(offset[:2]) - 0.02), 0.0, _CLEARANCE_M)
            linear = _GAIN_PER_S * (np.array([0.0, 0.0, above_m]) - offset)
        linear *= min(1.0, _MAX_MPS / max(1e-9, float(np.linalg.norm(linear))))
        angular = _TURN_GAIN_PER_S * (self._upright * orientation.inv()).as_rotvec()
        return np.array([*linear, *angular, 0.0])


def demonstrate(env: libero.LiberoEnv, state: int, command: str, noise: float) -> Episode | None:
    """Return the expert's episode from initial state `state`, or None if it failed within the suite's step limit.

    `noise` scales that on executed actions, which is deterministic for each initial state.
    """
    rng = np.random.default_rng(state)
    expert = StoveExpert()
    buffer = ObservationBuffer(SPEC, ALWAYS_FRESH)
    buffer.push("language", 0, command)
    seen, _ = env.reset(seed=state, options={"task": TASK})
    frames: list[Observation] = []
    actions: list[Array] = []
    for tick in range(STEPS):
        time_ns = round(tick * 1e9 / libero.CONTROL_HZ)
        push_observation(buffer, seen, SPEC.streams, time_ns)
        frame = buffer.snapshot(time_ns)
        assert not isinstance(frame, Refusal), frame  # every stream has just been pushed
        if tick % NOISE_STEPS == 0:
            disturbance = rng.normal(0.0, noise * NOISE_STD)
        action = expert.act(seen["ee_position"], seen["ee_quaternion"], env.body_position(KNOB))
        frames.append(frame)
        actions.append(action)
        seen, _, _, _, info = env.step(np.append(action[:6] + disturbance, action[6]))
        if info["success"]:
            break
    else:
        return None
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
