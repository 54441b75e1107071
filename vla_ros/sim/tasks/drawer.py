# SPDX-License-Identifier: Apache-2.0
"""Open or close the drawer."""

from __future__ import annotations

import numpy as np

from vla_ros.sim import motions
from vla_ros.sim.motions import CLOSED, GAIN_PER_S, PUSH_MPS
from vla_ros.sim.state import Array, SceneState
from vla_ros.sim.tasks.task import Task

OPEN_M = 0.09
CLOSED_M = 0.012
SHUT_M = 0.002  # demonstrations go on to here: images do not show the last millimetres (see push.py)
KNOB_OPENING = 0.40  # gripper opening below which the fingers hold the 12 mm knob (0.15 if it is square to them)
KNOB_HALF_LENGTH_M = 0.034


class OpenDrawer(Task):
    """The drawer is open, further than at the start."""

    kind = "open_drawer"
    uses_drawer = True
    training_templates = (
        "open the drawer",
        "pull the drawer open",
        "pull out the drawer",
        "open up the cabinet drawer",
        "slide the drawer open",
        "open the drawer of the cabinet",
    )
    held_out_templates = ("slide the cabinet drawer open", "pull open the drawer", "pull the cabinet drawer out")

    def success(self, start: SceneState, now: SceneState) -> bool:
        return now.drawer_m >= OPEN_M and now.drawer_m - start.drawer_m > 0.02

    def act(self, start: SceneState, state: SceneState) -> Array:
        knob = state.knob_position - [0.008, 0.0, 0.0]  # in front of its center, so that the gripper clears the cabinet
        if motions.distance(state.tcp_position - knob) >= 0.030 or state.opening >= KNOB_OPENING:
            return motions.grasp(state, knob, 0.0)
        if self.success(start, state) and state.drawer_m > 0.10:
            return motions.hold(CLOSED)
        pull = np.array([-PUSH_MPS, 0.0, 0.0]) + GAIN_PER_S * (knob - state.tcp_position) * [0.0, 1.0, 1.0]
        return np.array([*pull, *motions.turn(state, 0.0), CLOSED])

    def draw_drawer(self, rng: np.random.Generator) -> float:
        return rng.uniform(0.0, 0.03)


class CloseDrawer(Task):
    """The drawer is shut, further than at the start."""

    kind = "close_drawer"
    uses_drawer = True
    training_templates = (
        "close the drawer",
        "shut the drawer",
        "push the drawer shut",
        "push the drawer closed",
        "slide the drawer shut",
        "close the cabinet drawer",
        "push the drawer back in",
    )
    held_out_templates = ("shut the cabinet drawer", "slide the drawer closed", "slide the drawer back in")

    def success(self, start: SceneState, now: SceneState) -> bool:
        return now.drawer_m <= CLOSED_M and start.drawer_m - now.drawer_m > 0.02

    def act(self, start: SceneState, state: SceneState) -> Array:
        if self.success(start, state) and state.drawer_m < SHUT_M:
            return motions.hold(CLOSED)
        end = state.knob_position - [KNOB_HALF_LENGTH_M, 0.0, 0.005]
        return motions.push(state, end, np.array([1.0, 0.0, 0.0]), stand_off_m=0.045)

    def draw_drawer(self, rng: np.random.Generator) -> float:
        return rng.uniform(0.06, 0.13)
