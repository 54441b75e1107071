# SPDX-License-Identifier: Apache-2.0
"""The state of the table-top scene: all that tasks and the scripted expert may look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COLORS = ("red", "green", "blue")
STATE_SIZE = 22 + 7 * len(COLORS)
_LIT = ("", *COLORS)


@dataclass(frozen=True, eq=False)
class SceneState:
    """Poses in base_link, in metres."""

    tcp_position: Array  # (3,) tool center point, between the fingertips
    tcp_rotation: Array  # (3, 3) tool axes as columns; z points along the fingers
    opening: float  # of the gripper, 0 closed ... 1 open (8 cm)
    block_positions: dict[str, Array]  # color -> (3,) center of the block
    block_quaternions: dict[str, Array]  # color -> (4,) wxyz
    box_position: Array  # (3,) center of the box's bottom
    knob_position: Array  # (3,) center of the drawer's knob
    drawer_m: float  # how far the drawer is pulled out, 0 closed ... 0.13
    lit: str = ""  # color of the block that is glowing, or empty
    dark: bool = False  # whether the light is off

    def in_box(self, color: str) -> bool:
        """Return whether a block lies in the box."""
        block = self.block_positions[color]
        return bool(np.abs(block - self.box_position)[:2].max() < 0.055 and block[2] < 0.06)

    def to_vector(self) -> Array:
        """Return the state as a flat (43,) vector.

        Layout: tcp position 0:3, tcp rotation row by row 3:12, opening 12, then for red, green and blue the position
        (3) and quaternion wxyz (4) 13:34, box position 34:37, knob position 37:40, drawer 40, glowing block 41
        (0 none, 1 red, 2 green, 3 blue), dark 42 (0 or 1).
        """
        blocks = [np.concatenate([self.block_positions[c], self.block_quaternions[c]]) for c in COLORS]
        tool = [self.tcp_position, self.tcp_rotation.ravel(), [self.opening]]
        rest = [self.box_position, self.knob_position, [self.drawer_m, _LIT.index(self.lit), self.dark]]
        return np.concatenate([*tool, *blocks, *rest]).astype(np.float64)

    @classmethod
    def from_vector(cls, vector: Array) -> SceneState:
        """Rebuild a state from `to_vector`."""
        vector = np.array(vector, dtype=np.float64)
        if vector.shape != (STATE_SIZE,) or not np.all(np.isfinite(vector)) or vector[41] not in range(len(_LIT)):
            raise ValueError(
                f"a scene state vector must be ({STATE_SIZE},) finite numbers as written by SceneState.to_vector(); "
                f"got shape {vector.shape}"
            )
        blocks = {color: vector[13 + 7 * i : 20 + 7 * i] for i, color in enumerate(COLORS)}
        return cls(
            tcp_position=vector[0:3],
            tcp_rotation=vector[3:12].reshape(3, 3),
            opening=float(vector[12]),
            block_positions={color: pose[:3] for color, pose in blocks.items()},
            block_quaternions={color: pose[3:] for color, pose in blocks.items()},
            box_position=vector[34:37],
            knob_position=vector[37:40],
            drawer_m=float(vector[40]),
            lit=_LIT[int(vector[41])],
            dark=bool(vector[42]),
        )
