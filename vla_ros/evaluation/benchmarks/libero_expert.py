# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for one task of LIBERO, "turn on the stove" of libero_goal, that looks at what no policy sees.

The knob's handle lies along the base's x axis. A fist comes down beside the end of it that points to the burner, and
pushes that end towards the robot's left, until LIBERO says that the stove is on (half a radian). It is a function of
the state alone, so that a policy without memory can learn it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

SUITE, TASK = "libero_goal", "turn_on_the_stove"
KNOB = "flat_stove_1_button"  # LIBERO's name of its body
# Beside the handle's end, from the knob's origin: measured once, there is one such stove.
BESIDE_M = np.array([0.036, -0.05, 0.04])
CLEARANCE_M = 0.12  # over the handle until the fist is beside it
LOW_M, ALONG_M, ASIDE_M = 0.012, 0.02, 0.03  # how near to the line of the push it has to be
# The controller does a quarter of what it is told (evaluation/libero.py), and pushes the harder the more that is.
GAIN_PER_S, TURN_GAIN_PER_S, FASTEST_MPS = 16.0, 8.0, 1.0
CLOSED = 0.0


@dataclasses.dataclass(frozen=True)
class StoveState:
    """Where the tool and the knob are: positions (3,) [m] in the world, orientation of the tool xyzw."""

    tool_position: NDArray[np.float64]
    tool_quaternion: NDArray[np.float64]
    knob_position: NDArray[np.float64]


class StoveExpert:
    """Turns the stove on; it keeps the tool's orientation of the first state that it sees."""

    def __init__(self) -> None:
        self._upright: Rotation | None = None

    def act(self, state: StoveState) -> NDArray[np.float64]:
        """Action (7,): twist in the base frame [m/s, rad/s] of at most 1 m/s, then the opening, which is closed."""
        turned = Rotation.from_quat(state.tool_quaternion)
        self._upright = self._upright or turned
        beside = state.knob_position + BESIDE_M
        offset = state.tool_position - beside
        if offset[2] < LOW_M and abs(offset[0]) < ALONG_M and offset[1] > -ASIDE_M:
            linear = np.array([-GAIN_PER_S * offset[0], FASTEST_MPS, -GAIN_PER_S * offset[2]])
        else:
            above_m = np.clip(1.5 * (np.linalg.norm(offset[:2]) - 0.02), 0.0, CLEARANCE_M)
            linear = GAIN_PER_S * (np.array([0.0, 0.0, above_m]) - offset)
        linear *= min(1.0, FASTEST_MPS / max(1e-9, float(np.linalg.norm(linear))))
        angular = TURN_GAIN_PER_S * (self._upright * turned.inv()).as_rotvec()
        return np.array([*linear, *angular, CLOSED])
