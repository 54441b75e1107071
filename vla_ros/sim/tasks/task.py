# SPDX-License-Identifier: Apache-2.0
"""A language task of the simulated arm: its commands, its scene, its goal, and how the expert solves it.

Directions are the robot's (REP-103): away = +x, left = +y, right = -y.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from vla_ros.sim.physics import TabletopSim
from vla_ros.sim.state import COLORS, Array, SceneState


class Task(abc.ABC):
    """One task. A subclass is a kind of task; its instances differ in the block that is meant."""

    kind: ClassVar[str]  # e.g. `pick_up`
    training_templates: ClassVar[tuple[str, ...]]  # commands to train on; `{color}` stands for the block's color
    # Commands kept for testing language understanding. They recombine words of the training templates, so that a policy
    # can understand them without having seen a new word.
    held_out_templates: ClassVar[tuple[str, ...]]
    # `novel` is kept for teaching the policy something new. The command of a `memory` task does not say which block is
    # meant, only the first images do.
    role: ClassVar[Literal["trained", "novel", "memory"]] = "trained"
    uses_drawer: ClassVar[bool] = False  # blocks keep clear of the drawer
    ends_moving: ClassVar[bool] = False  # images do not show when to stop: demonstrations end with a moving arm

    def __init__(self, color: str = "") -> None:
        self.color = color  # of the block that is meant; empty if the command names none
        self.name = f"{self.kind}_{color}" if color else self.kind
        self.phrasings = tuple(text.format(color=color) for text in self.training_templates)
        self.held_out = tuple(text.format(color=color) for text in self.held_out_templates)

    @classmethod
    def variants(cls) -> list[Task]:
        """Return the tasks of this kind: one per color if the command names a block, else one."""
        return [cls(color) for color in (COLORS if "{color}" in cls.training_templates[0] else ("",))]

    @abc.abstractmethod
    def success(self, start: SceneState, now: SceneState) -> bool:
        """Return whether the task is done in the scene `now`, given the scene at the start of the episode."""

    @abc.abstractmethod
    def act(self, start: SceneState, state: SceneState) -> Array:
        """Return the expert's action (7,) before speed limits; a zero twist once it is done."""

    def draw_drawer(self, rng: np.random.Generator) -> float:
        """Draw how far the drawer is out at the start [m]."""
        return rng.uniform(0.0, 0.06) if rng.random() < 0.5 else 0.0

    def is_feasible(self, box: Array, blocks: Mapping[str, Array]) -> bool:
        """Return whether the expert has room for this task, given the positions (2,) of the box and the blocks."""
        return True

    def begin(self, sim: TabletopSim, rng: np.random.Generator) -> None:  # noqa: B027  most tasks prepare nothing
        """Prepare the start of an episode, after the scene is set up; draws from `rng` last."""


def lane_is_free(
    box: Array, blocks: Mapping[str, Array], color: str, direction: Array, *, box_ahead_m: float, block_ahead_m: float
) -> bool:
    """Return whether the arm can get behind a block and push it along `direction` (2,) without touching the rest."""
    others = [(block, 0.055, -0.13, block_ahead_m) for other, block in blocks.items() if other != color]
    for obstacle, half_width, behind, ahead in [(box, 0.095, -0.15, box_ahead_m), *others]:
        offset = obstacle - blocks[color]
        along, across = offset @ direction, offset @ np.array([-direction[1], direction[0]])
        if abs(across) < half_width and behind < along < ahead:
            return False
    return True
