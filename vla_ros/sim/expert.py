# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for every task, and the noise that makes its demonstrations worth more.

On the way the expert is a function of the scene state alone (and of the state at the episode's start, which tells when
a task is done): no phases to get stuck in, so it recovers from a lost grasp or a push aside, and a policy without
memory can learn it. The one exception are the tasks that need memory: there the start also tells which block is meant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vla_ros.sim.physics import TOOL_DOWN, limit_speed
from vla_ros.sim.rotation import about_z, rotation_vector
from vla_ros.sim.scene import SceneState
from vla_ros.sim.tasks import PUSH_DIRECTIONS, Task, push_displacement, success

OPEN, CLOSED = 1.0, 0.0
GAIN_PER_S = 4.0  # higher gains overshoot when a command takes effect two periods late (benchmarks/control_rate.py)
PUSH_MPS = 0.2
# No picture shows how far a block has come, or a drawer's last millimetres. Demonstrations that end well beyond what
# counts as success leave it to the policy where to stop; those that end just there teach it to stop just before.
PUSH_ON_TO_M, SHUT_M, NUDGE_ON_TO_M = 0.15, 0.002, 0.035

GRASP_HEIGHT_M = 0.018
HOVER_M = 0.075  # above the thing to grasp or to get behind
CARRY_HEIGHT_M = 0.13
LIFT_HEIGHT_M = 0.15
RELEASE_HEIGHT_M = 0.065
FIST_HEIGHT_M = 0.022
BLOCK_OPENING = 0.56  # gripper opening below which the fingers hold a 4 cm block (0.5 when square)
KNOB_OPENING = 0.40  # the same for the 12 mm knob (0.15 when square)

KNOB_HALF_LENGTH_M = 0.034


class Expert:
    """Scripted closed-loop expert for one task.

    The first `act` after `reset` takes its state as the episode's start.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.reset()

    def reset(self) -> None:
        """Forget the episode's start."""
        self._start: SceneState | None = None
        self._rest: np.ndarray | None = None  # the action to stay with once the task is done

    def act(self, state: SceneState) -> np.ndarray:
        """Action (7,) for this state: twist in base_link [m/s, rad/s] within the speed caps, then gripper opening.

        After success it holds still: zero twist, gripper as it is.
        """
        start = self._start = self._start or state
        done = success(self.task, start, state)
        if done and self._rest is not None:
            return self._rest.copy()
        kind = self.task.kind
        if kind == "pick_up":
            action = _pick_up(self.task, state)
        elif kind == "put_in_box":
            action = _put_in_box(self.task, start, state)
        elif kind == "open_drawer":
            action = _open_drawer(self.task, start, state)
        elif kind == "close_drawer":
            action = _close_drawer(self.task, start, state)
        elif kind == "nudge_lit":
            action = _nudge_lit(start, state)
        else:
            action = _push_block(self.task, start, state)
        self._rest = action if done and not action[:6].any() else None
        return np.append(limit_speed(action[:6]), action[6])


class Perturbation:
    """Noise on the executed action only, while the label stays the expert's (DART, Laskey et al. 2017).

    Bursts that last 0.2 to 0.4 s push the arm off its path, and white noise shakes it, so that demonstrations show
    how to come back. The gripper is left alone.
    """

    BURSTS_PER_S = 1.2
    BURST_STD = np.repeat([0.45, 1.05], 3)  # m/s, rad/s at scale 1
    WHITE_STD = np.repeat([0.09, 0.315], 3)  # the same, for one period of 0.1 s

    def __init__(self, rng: np.random.Generator, scale: float, control_hz: float = 10.0) -> None:
        self._rng = rng
        self._scale = scale
        self._period_s = 1.0 / control_hz
        self._burst = np.zeros(6)
        self._burst_left_s = 0.0

    def apply(self, action: np.ndarray) -> np.ndarray:
        """The action (7,) to execute instead of `action`, within the speed caps."""
        if self._burst_left_s <= 0 and self._rng.random() < self.BURSTS_PER_S * self._period_s:
            self._burst_left_s = self._rng.uniform(0.2, 0.4)
            self._burst = self._rng.normal(0.0, self._scale * self.BURST_STD)
        white = self._rng.normal(0.0, self._scale * self.WHITE_STD * np.sqrt(0.1 / self._period_s))
        twist = action[:6] + white
        if self._burst_left_s > 0:
            twist = twist + self._burst
            self._burst_left_s -= self._period_s
        return np.append(limit_speed(twist), action[6])


def _pick_up(task: Task, state: SceneState) -> np.ndarray:
    block = state.block_positions[task.color]
    if not _holds_block(state, block):
        return _grasp_block(state, task.color)
    if state.tcp_position[2] > LIFT_HEIGHT_M - 0.01:
        return _hold(CLOSED)
    x, y, _ = state.tcp_position
    return _go(state, [x, y, LIFT_HEIGHT_M], 0.0, CLOSED)


def _put_in_box(task: Task, start: SceneState, state: SceneState) -> np.ndarray:
    block, box = state.block_positions[task.color], state.box_position
    x, y, z = state.tcp_position
    held = _holds_block(state, block)
    if not held and np.abs(block - box)[:2].max() < 0.055 and block[2] < 0.07:
        if success(task, start, state) and z > LIFT_HEIGHT_M - 0.01:
            return _hold(OPEN)
        # Straight up until the fingers are clear of the block.
        return _go(state, [x, y, LIFT_HEIGHT_M], 0.0, OPEN) if state.opening > 0.8 else _hold(OPEN)
    if not held:
        return _grasp_block(state, task.color)
    offset = _length([box[0] - x, box[1] - y])
    if offset < 0.015 and z < RELEASE_HEIGHT_M + 0.01:
        return _hold(OPEN)
    if offset > 0.03 and z < CARRY_HEIGHT_M - 0.03:
        return _go(state, [x, y, CARRY_HEIGHT_M], 0.0, CLOSED)
    return _go(state, [box[0], box[1], _funnel(offset, RELEASE_HEIGHT_M, CARRY_HEIGHT_M)], 0.0, CLOSED)


def _push_block(task: Task, start: SceneState, state: SceneState) -> np.ndarray:
    along, _ = push_displacement(task, start, state)
    if success(task, start, state) and along > PUSH_ON_TO_M:
        return _hold(CLOSED)
    direction = np.array([*PUSH_DIRECTIONS[task.kind], 0.0])
    block = state.block_positions[task.color]
    return _push(state, np.array([block[0], block[1], FIST_HEIGHT_M]), direction, stand_off_m=0.07)


def _nudge_lit(start: SceneState, state: SceneState) -> np.ndarray:
    """Rise in the dark, the same whichever block glows; with the light back, push that block a little away."""
    if state.dark:
        return _go(state, state.tcp_position + [0.0, 0.0, 0.1], 0.0, CLOSED)
    block, before = state.block_positions[start.lit], start.block_positions[start.lit]
    if _length((block - before)[:2]) > NUDGE_ON_TO_M:
        return _hold(CLOSED)
    return _push(state, np.array([block[0], block[1], FIST_HEIGHT_M]), np.array([1.0, 0.0, 0.0]), stand_off_m=0.07)


def _open_drawer(task: Task, start: SceneState, state: SceneState) -> np.ndarray:
    knob = state.knob_position - [0.008, 0.0, 0.0]  # in front of its centre: the hand clears the cabinet
    if _length(state.tcp_position - knob) < 0.030 and state.opening < KNOB_OPENING:
        if success(task, start, state) and state.drawer_m > 0.10:
            return _hold(CLOSED)
        pull = np.array([-PUSH_MPS, 0.0, 0.0]) + GAIN_PER_S * (knob - state.tcp_position) * [0.0, 1.0, 1.0]
        return np.array([*pull, *_turn(state, 0.0), CLOSED])
    return _grasp(state, knob, 0.0)


def _close_drawer(task: Task, start: SceneState, state: SceneState) -> np.ndarray:
    if success(task, start, state) and state.drawer_m < SHUT_M:
        return _hold(CLOSED)
    end = state.knob_position - [KNOB_HALF_LENGTH_M, 0.0, 0.005]
    return _push(state, end, np.array([1.0, 0.0, 0.0]), stand_off_m=0.045)


def _hold(opening: float) -> np.ndarray:
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, opening])


def _length(vector: ArrayLike) -> float:
    return float(np.linalg.norm(vector))


def _turn(state: SceneState, yaw_rad: float) -> np.ndarray:
    """Angular velocity (3,) towards fingers down, turned by `yaw_rad` about z."""
    return GAIN_PER_S * rotation_vector(about_z(yaw_rad) @ TOOL_DOWN @ state.tcp_rotation.T)


def _go(state: SceneState, position: ArrayLike, yaw_rad: float, opening: float) -> np.ndarray:
    """Straight to a pose."""
    return np.array([*(GAIN_PER_S * (np.asarray(position) - state.tcp_position)), *_turn(state, yaw_rad), opening])


def _funnel(offset_m: float, low_m: float, high_m: float) -> float:
    """Height to be at: `high_m` when far to the side, down a slope to `low_m` within 12 mm of the axis."""
    return low_m + float(np.clip(2.5 * (offset_m - 0.012), 0.0, high_m - low_m))


def _grasp_yaw(quaternion_wxyz: np.ndarray) -> float:
    """Smallest turn that lines the fingers up with a square block [rad], in [-pi/4, pi/4)."""
    yaw = 2 * np.arctan2(quaternion_wxyz[3], quaternion_wxyz[0])
    return float((yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _holds_block(state: SceneState, block: np.ndarray) -> bool:
    return 0.3 < state.opening < BLOCK_OPENING and _length(block - state.tcp_position) < 0.03


def _grasp_block(state: SceneState, color: str) -> np.ndarray:
    x, y, z = state.block_positions[color]
    return _grasp(state, np.array([x, y, max(GRASP_HEIGHT_M, z - 0.003)]), _grasp_yaw(state.block_quaternions[color]))


def _grasp(state: SceneState, target: np.ndarray, yaw_rad: float) -> np.ndarray:
    """Come from above with open fingers, then close them around `target` (3,)."""
    turn_left = _length(_turn(state, yaw_rad)) / GAIN_PER_S
    closing = state.opening < 0.97
    tolerance_m = 0.025 if closing else 0.012
    if _length(target - state.tcp_position) < tolerance_m and (closing or turn_left < 0.2):
        return _go(state, target, yaw_rad, CLOSED)
    # A turn that is still large, or fingers still closed, keep the tool up just as an offset does.
    offset = max(_length((target - state.tcp_position)[:2]), 0.1 * turn_left, 0.05 if state.opening < 0.9 else 0.0)
    height = _funnel(offset, target[2], target[2] + HOVER_M)
    return _go(state, np.array([target[0], target[1], height]), yaw_rad, OPEN)


def _push(state: SceneState, point: np.ndarray, direction: np.ndarray, *, stand_off_m: float) -> np.ndarray:
    """Get behind `point` (3,) with a fist, `stand_off_m` away and from above, then push it along `direction` (3,)."""
    offset = state.tcp_position - point
    along = offset @ direction
    aside = offset - along * direction
    above_m = offset[2]
    if -1.3 * stand_off_m < along < 0.0 and _length(aside[:2]) < 0.02 and above_m < 0.010:
        return np.array([*(PUSH_MPS * direction - GAIN_PER_S * aside), *_turn(state, 0.0), CLOSED])
    behind = point - stand_off_m * direction
    distance = _length((behind - state.tcp_position)[:2])
    action = _go(state, [behind[0], behind[1], _funnel(distance, point[2], point[2] + HOVER_M)], 0.0, CLOSED)
    if distance > 0.03:
        action[:2] *= np.clip((above_m - 0.02) / 0.03, 0.0, 1.0)  # first up, then across
    return action
