# SPDX-License-Identifier: Apache-2.0
"""Push a block to the left, to the right, or away from the robot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from vla_ros.sim import motions
from vla_ros.sim.state import Array, SceneState
from vla_ros.sim.tasks.task import Task, lane_is_free

PUSHED_M = 0.06
# Images do not show how far a block has come. Demonstrations that go well beyond success leave it to the policy where
# to stop; those that end right there would teach it to stop just before.
PUSH_ON_TO_M = 0.15


class Push(Task):
    """The block has moved along `direction` (x, y), on the table."""

    direction: ClassVar[tuple[float, float]]
    ends_moving = True

    def success(self, start: SceneState, now: SceneState) -> bool:
        along, across = self._displacement(start, now)
        on_table = 0.0 < now.block_positions[self.color][2] < 0.04 and not now.in_box(self.color)
        return bool(along >= PUSHED_M and abs(across) <= 0.5 * along and on_table)

    def act(self, start: SceneState, state: SceneState) -> Array:
        if self.success(start, state) and self._displacement(start, state)[0] > PUSH_ON_TO_M:
            return motions.hold(motions.CLOSED)
        return motions.push_block(state, self.color, np.array([*self.direction, 0.0]))

    def is_feasible(self, box: Array, blocks: Mapping[str, Array]) -> bool:
        direction = np.array(self.direction)
        return self._in_reach(blocks[self.color]) and lane_is_free(
            box, blocks, self.color, direction, box_ahead_m=0.20, block_ahead_m=0.15
        )

    def _displacement(self, start: SceneState, now: SceneState) -> tuple[float, float]:
        """Return how far the block has moved along the direction and across it [m]."""
        moved = (now.block_positions[self.color] - start.block_positions[self.color])[:2]
        x, y = self.direction
        return float(moved @ (x, y)), float(moved @ (-y, x))

    def _in_reach(self, block: Array) -> bool:
        return bool(abs(block[1]) <= 0.10)


class PushLeft(Push):
    """Push to the left, +y."""

    kind = "push_left"
    direction = (0.0, 1.0)
    training_templates = (
        "push the {color} block to the left",
        "slide the {color} cube left",
        "move the {color} block to the left side",
        "shove the {color} cube toward the left",
        "push the {color} cube leftward",
        "nudge the {color} block over to the left",
    )
    held_out_templates = (
        "slide the {color} block to the left",
        "move the {color} cube leftward",
        "nudge the {color} cube toward the left side",
    )


class PushRight(Push):
    """Push to the right, -y."""

    kind = "push_right"
    direction = (0.0, -1.0)
    training_templates = tuple(text.replace("left", "right") for text in PushLeft.training_templates)
    held_out_templates = tuple(text.replace("left", "right") for text in PushLeft.held_out_templates)


class PushAway(Push):
    """Push away from the robot, +x; the shipped policy has not been trained on it."""

    kind = "push_away"
    role = "novel"
    direction = (1.0, 0.0)
    training_templates = (
        "push the {color} block away from the robot",
        "slide the {color} cube away",
        "move the {color} block away from the robot",
        "shove the {color} cube away from the robot",
        "push the {color} cube away",
        "nudge the {color} block away",
    )
    held_out_templates = ("slide the {color} block away from the robot", "move the {color} cube away")

    def _in_reach(self, block: Array) -> bool:
        return bool(block[0] <= 0.46)
