# SPDX-License-Identifier: Apache-2.0
"""Pick up a block and hold it."""

from __future__ import annotations

import numpy as np

from vla_ros.sim import motions
from vla_ros.sim.state import Array, SceneState
from vla_ros.sim.tasks.task import Task

LIFTED_M = 0.09


class PickUp(Task):
    """The block is up and between the fingers."""

    kind = "pick_up"
    training_templates = (
        "pick up the {color} block",
        "lift the {color} block",
        "pick the {color} cube up",
        "grab the {color} cube and lift it up",
        "raise the {color} cube off the table",
        "take the {color} block off the table",
        "grasp the {color} block and hold it up",
    )
    held_out_templates = (
        "lift the {color} cube off the table",
        "grab the {color} block and hold it up",
        "raise the {color} block up",
    )

    def success(self, start: SceneState, now: SceneState) -> bool:
        block = now.block_positions[self.color]
        return bool(block[2] > LIFTED_M and np.linalg.norm(block - now.tcp_position) < 0.05 and now.opening < 0.9)

    def act(self, start: SceneState, state: SceneState) -> Array:
        if not motions.holds_block(state, self.color):
            return motions.grasp_block(state, self.color)
        return motions.hold(motions.CLOSED) if motions.is_lifted(state) else motions.lift(state, motions.CLOSED)
