# SPDX-License-Identifier: Apache-2.0
"""Scripted motions for CALVIN's table D, for `calvin_chains.py`. They know the scene and do what is easy to script.

They exist to produce both outcomes, solved and failed subtasks, at little cost; their success rate means nothing.
Positions are in CALVIN's world frame [m], in which the robot faces along y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FASTEST_MPS, GAIN_PER_S = 0.35, 5.0
NEAR_M, DWELL_TICKS = 0.008, 2
ABOVE_M = 0.62  # over everything but the cabinet
HANDLE_Y_M, HANDLE_Z_M = -0.015, 0.50  # of the sliding door
GAP_M = np.array([0.18, -0.21, 0.36])  # between the closed drawer's front and its handle
BUTTON_M = np.array([-0.12, -0.12, 0.47])
SWITCH_X_M = 0.29
CLOSED, OPEN = 0.0, 1.0

Waypoint = tuple[Array, float]


def waypoints(task: str, scene: Mapping[str, Any], tool: Array) -> list[Waypoint]:
    """Return tool waypoints with gripper openings, or an empty list for a task without a script.

    Args:
        scene: CALVIN's `scene_info`. tool: where it is (3,).
    """
    way: list[Waypoint] = []

    def go(*point: float, opening: float = CLOSED) -> None:
        way.append((np.array(point, dtype=np.float64), opening))

    doors = {name: door["current_state"] for name, door in scene["doors"].items()}
    kind, *rest = task.split("_")
    go(tool[0], tool[1], ABOVE_M)
    if task.startswith("move_slider"):
        handle_m = 0.04 - doors["base__slide"]
        left = task.endswith("left")
        beside_m = handle_m + (0.07 if left else -0.07)
        go(beside_m, HANDLE_Y_M - 0.12, ABOVE_M)
        go(beside_m, HANDLE_Y_M - 0.08, HANDLE_Z_M)
        go(beside_m, HANDLE_Y_M, HANDLE_Z_M)
        go(-0.30 if left else 0.12, HANDLE_Y_M, HANDLE_Z_M)
    elif task in ("open_drawer", "close_drawer"):
        gap = GAP_M - np.array([0, doors["base__drawer"], 0])
        go(gap[0], gap[1], ABOVE_M)
        go(*gap)
        go(gap[0], gap[1] + (-0.22 if kind == "open" else 0.26), gap[2])
    elif task.endswith("led"):
        go(BUTTON_M[0], BUTTON_M[1], ABOVE_M)
        go(*(BUTTON_M + np.array([0, 0, -0.04])))
    elif task == "turn_on_lightbulb":
        go(SWITCH_X_M, -0.10, ABOVE_M)
        go(SWITCH_X_M, -0.07, 0.525)
        go(SWITCH_X_M, 0.02, 0.535)
        go(SWITCH_X_M, 0.10, 0.62)
    elif task == "turn_off_lightbulb":
        go(SWITCH_X_M, 0.075, 0.70)
        go(SWITCH_X_M, 0.075, 0.64)
        go(SWITCH_X_M, 0.03, 0.50)
    elif kind in ("push", "lift", "rotate") and rest[0] in ("red", "blue", "pink"):
        block = np.array(scene["movable_objects"][f"block_{rest[0]}"]["current_pos"], dtype=np.float64)
        _block(go, kind, rest, block)
    else:
        return []
    return way


def _block(go: Any, kind: str, rest: Sequence[str], block: Array) -> None:
    x, y, z = block
    if kind == "push":
        sign = 1.0 if rest[-1] == "right" else -1.0
        go(x - sign * 0.09, y, ABOVE_M)
        go(x - sign * 0.09, y, z)
        go(x + sign * 0.13, y, z)
    elif kind == "lift":
        go(x, y, ABOVE_M, opening=OPEN)
        go(x, y, z, opening=OPEN)
        go(x, y, z - 0.003)
        go(x, y, z + 0.12)
    else:  # pushed at a corner
        sign = 1.0 if rest[-1] == "right" else -1.0
        go(x - 0.09, y + sign * 0.02, ABOVE_M)
        go(x - 0.09, y + sign * 0.02, z)
        go(x + 0.03, y + sign * 0.02, z)


class Motion:
    """Follows waypoints with twists by dead reckoning, since contacts hold the tool back."""

    def __init__(self, way: Sequence[Waypoint], tool: Array, control_hz: float) -> None:
        self._way, self._target, self._period_s = list(way), np.array(tool, dtype=np.float64), 1 / control_hz
        self._dwelt = 0

    def act(self) -> Array:
        """Return an action (7,): twist [m/s, rad/s] in the base frame and opening; hold the last waypoint."""
        if not self._way:
            return np.zeros(7)
        goal, opening = self._way[0]
        if np.linalg.norm(goal - self._target) < NEAR_M:
            self._dwelt += 1
            if self._dwelt > DWELL_TICKS and len(self._way) > 1:
                self._way.pop(0)
                self._dwelt = 0
        velocity = GAIN_PER_S * (goal - self._target)
        velocity *= min(1.0, FASTEST_MPS / max(1e-9, float(np.linalg.norm(velocity))))
        self._target = self._target + velocity * self._period_s
        return np.array([*velocity, 0.0, 0.0, 0.0, opening])
