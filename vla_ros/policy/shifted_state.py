# SPDX-License-Identifier: Apache-2.0
"""The robot's state once what is committed has been done: what a policy that thinks for D ticks plans from.

As in VLASH (arXiv:2512.01031): the cameras show tick t, but the chunk will be taken up at tick t + D, so the policy is
given the state of then, and says what to do from then on. Nothing is learned about D itself, and any head will do.

Both in training and on the robot that state is what this module makes of the state at t and of the actions of the ticks
t .. t + D - 1, so that how a real arm lags behind its commands changes nothing between the two. The measured opening
stays as it is: whether fingers close is up to what is between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

POSITIONS = ("ee_x", "ee_y", "ee_z")
ROTATION = tuple(f"ee_r{index}" for index in range(6))


def rolled_forward(
    states: NDArray[np.float32], names: Sequence[str], actions: NDArray[np.float64], period_s: float
) -> NDArray[np.float32]:
    """Return the states (..., P) after ``actions`` (..., D, 7) of a control period each; D may be 0.

    Args:
        states: (..., P) in the contract's units, as ``names`` has them (``contract.PROPRIOCEPTION_UNITS``).
        actions: twists in the base frame [m/s, rad/s]; the gripper's column is not looked at.
        period_s: of the control grid.
    """
    rolled = np.array(states, dtype=np.float64)
    moved = actions[..., :6] * period_s
    for axis, name in enumerate(POSITIONS):
        if name in names:
            rolled[..., names.index(name)] += moved[..., axis].sum(axis=-1)
    if ROTATION[0] in names:
        places = [names.index(name) for name in ROTATION]
        columns = rolled[..., places].reshape(-1, 2, 3)  # two columns of the rotation matrix
        for tick in range(actions.shape[-2]):
            turn = Rotation.from_rotvec(moved[..., tick, 3:].reshape(-1, 3))
            columns = np.stack([turn.apply(columns[:, 0]), turn.apply(columns[:, 1])], axis=1)
        rolled[..., places] = columns.reshape(*rolled.shape[:-1], 6)
    return rolled.astype(np.float32)


def check_state(names: Sequence[str], frame: str = "base") -> None:
    """Raise ValueError where the state does not say where the arm is, or actions in ``frame`` do not move it."""
    rotation = [name for name in ROTATION if name in names]
    if not any(name in names for name in (*POSITIONS, *ROTATION)):
        raise ValueError(
            f"policy.delay_mode is 'shifted_state', but contract.proprioception is {list(names)}: no part of it moves "
            f"with the arm; add some of {', '.join(POSITIONS)} and all of {ROTATION[0]} .. {ROTATION[-1]}, or set "
            "delay_mode to 'prefix'"
        )
    if rotation and len(rotation) < len(ROTATION):
        raise ValueError(
            f"policy.delay_mode is 'shifted_state', but contract.proprioception has {', '.join(rotation)} only; "
            f"allowed: all of {ROTATION[0]} .. {ROTATION[-1]}, or none, as a rotation can't be turned in part"
        )
    if frame != "base":
        raise ValueError(
            f"policy.delay_mode is 'shifted_state', but the actions are in the {frame} frame; allowed: 'base'"
        )
