# SPDX-License-Identifier: Apache-2.0
"""Nudge the block that glowed at the start: a task for policies with memory.

The episode starts in the dark with one block glowing. The glow ends when the tool moves, in any direction, and the
light comes back when the tool is raised. Both depend on what the arm does and not on a clock, so waiting before an
episode, as a recorder does, misses nothing. Later images do not show which block was meant.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vla_ros.sim import motions
from vla_ros.sim.physics import TabletopSim
from vla_ros.sim.state import COLORS, Array, SceneState
from vla_ros.sim.tasks.task import Task, lane_is_free

MOVED_M = 0.03  # distance from the tool's starting position at which the glow ends
RAISED_M = 0.26  # tool height at which the light comes back
NUDGED_M, UNTOUCHED_M = 0.02, 0.01
NUDGE_ON_TO_M = 0.035  # see push.py


class NudgeLit(Task):
    """The block that glowed has moved, and the others have not."""

    kind = "nudge_lit"
    role = "memory"
    training_templates = (
        "nudge the block that was lit",
        "push the cube that lit up",
        "move the block that was shining",
        "bump the cube that was lit at the start",
        "nudge the cube that was shining in the dark",
        "push the block that lit up in the dark",
    )
    held_out_templates = (
        "nudge the cube that lit up",
        "push the block that was lit at the start",
        "bump the block that was shining",
    )

    def success(self, start: SceneState, now: SceneState) -> bool:
        moved_m = {c: np.linalg.norm((now.block_positions[c] - start.block_positions[c])[:2]) for c in COLORS}
        if not start.lit or moved_m.pop(start.lit) < NUDGED_M:
            return False
        return bool(max(moved_m.values()) < UNTOUCHED_M)

    def act(self, start: SceneState, state: SceneState) -> Array:
        """Rise in the dark, the same for every block; with the light back, push the block a little away."""
        if state.dark:
            return motions.go(state, state.tcp_position + [0.0, 0.0, 0.1], 0.0, motions.CLOSED)
        moved = state.block_positions[start.lit] - start.block_positions[start.lit]
        if motions.distance(moved[:2]) > NUDGE_ON_TO_M:
            return motions.hold(motions.CLOSED)
        return motions.push_block(state, start.lit, np.array([1.0, 0.0, 0.0]))

    def draw_drawer(self, rng: np.random.Generator) -> float:
        return 0.0  # out of the way of all blocks

    def is_feasible(self, box: Array, blocks: Mapping[str, Array]) -> bool:
        """Every block must have room, or the layout would give away which one is meant."""
        away = np.array([1.0, 0.0])
        return all(lane_is_free(box, blocks, color, away, box_ahead_m=0.13, block_ahead_m=0.09) for color in blocks)

    def begin(self, sim: TabletopSim, rng: np.random.Generator) -> None:
        show_cue(sim, str(rng.choice(COLORS)))


def show_cue(sim: TabletopSim, color: str) -> None:
    """Turn off the light and make a block glow, until the tool moves and is raised."""
    start = sim.tcp_position.copy()

    def follow() -> None:
        if sim.glowing and np.linalg.norm(sim.tcp_position - start) > MOVED_M:
            sim.set_glow("")
        if not sim.glowing and sim.tcp_position[2] > RAISED_M:
            sim.set_light(True)
            sim.after_step = None

    sim.set_light(False)
    sim.set_glow(color)
    sim.after_step = follow
