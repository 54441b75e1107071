# SPDX-License-Identifier: Apache-2.0
"""Put a block into the box and let go of it."""

from __future__ import annotations

import numpy as np

from vla_ros.sim import motions
from vla_ros.sim.motions import CLOSED, OPEN
from vla_ros.sim.state import Array, SceneState
from vla_ros.sim.tasks.task import Task

CLEAR_M = 0.09  # tool height at which the fingers are out of the box
CARRY_HEIGHT_M = 0.13
RELEASE_HEIGHT_M = 0.065


class PutInBox(Task):
    """The block is in the box, and the open gripper has left it."""

    kind = "put_in_box"
    training_templates = (
        "put the {color} block in the box",
        "place the {color} cube into the box",
        "drop the {color} block in the yellow box",
        "set the {color} block down inside the box",
        "store the {color} cube in the box",
        "place the {color} block inside the yellow box",
        "put the {color} cube into the yellow box",
    )
    held_out_templates = (
        "drop the {color} cube into the box",
        "set the {color} cube down in the yellow box",
        "store the {color} block inside the box",
    )

    def success(self, start: SceneState, now: SceneState) -> bool:
        return bool(now.in_box(self.color) and now.opening > 0.75 and now.tcp_position[2] > CLEAR_M)

    def act(self, start: SceneState, state: SceneState) -> Array:
        block, box = state.block_positions[self.color], state.box_position
        x, y, z = state.tcp_position
        if not motions.holds_block(state, self.color):
            if np.abs(block - box)[:2].max() >= 0.055 or block[2] >= 0.07:
                return motions.grasp_block(state, self.color)
            if self.success(start, state) and motions.is_lifted(state):
                return motions.hold(OPEN)
            # Straight up until the fingers are clear of the block.
            return motions.lift(state, OPEN) if state.opening > 0.8 else motions.hold(OPEN)
        offset = motions.distance([box[0] - x, box[1] - y])
        if offset < 0.015 and z < RELEASE_HEIGHT_M + 0.01:
            return motions.hold(OPEN)
        if offset > 0.03 and z < CARRY_HEIGHT_M - 0.03:
            return motions.go(state, [x, y, CARRY_HEIGHT_M], 0.0, CLOSED)
        height = motions.funnel(offset, RELEASE_HEIGHT_M, CARRY_HEIGHT_M)
        return motions.go(state, [box[0], box[1], height], 0.0, CLOSED)
