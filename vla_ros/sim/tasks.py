# SPDX-License-Identifier: Apache-2.0
"""The language tasks as data, and when each of them is done.

Directions are the robot's (REP-103): away = +x, left = +y, right = -y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vla_ros.sim.scene import SceneState

COLORS = ("red", "green", "blue")
PUSH_DIRECTIONS = {"push_left": (0.0, 1.0), "push_right": (0.0, -1.0), "push_away": (1.0, 0.0)}
NOVEL_KINDS = ("push_away",)
# Kinds of which only the beginning tells what is meant: a block glows in the dark (`sim/cue.py`).
MEMORY_KINDS = ("nudge_lit",)

LIFTED_M = 0.09
PUSHED_M = 0.06
NUDGED_M, LEFT_ALONE_M = 0.02, 0.01
DRAWER_OPEN_M = 0.09
DRAWER_CLOSED_M = 0.012

# kind -> (phrasings to train on, phrasings held out). Held-out ones recombine words of the same kind's training
# phrasings, so a policy can understand them without having seen a new word.
PHRASINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pick_up": (
        (
            "pick up the {color} block",
            "lift the {color} block",
            "pick the {color} cube up",
            "grab the {color} cube and lift it up",
            "raise the {color} cube off the table",
            "take the {color} block off the table",
            "grasp the {color} block and hold it up",
        ),
        ("lift the {color} cube off the table", "grab the {color} block and hold it up", "raise the {color} block up"),
    ),
    "push_left": (
        (
            "push the {color} block to the left",
            "slide the {color} cube left",
            "move the {color} block to the left side",
            "shove the {color} cube toward the left",
            "push the {color} cube leftward",
            "nudge the {color} block over to the left",
        ),
        (
            "slide the {color} block to the left",
            "move the {color} cube leftward",
            "nudge the {color} cube toward the left side",
        ),
    ),
    "push_right": (
        (
            "push the {color} block to the right",
            "slide the {color} cube right",
            "move the {color} block to the right side",
            "shove the {color} cube toward the right",
            "push the {color} cube rightward",
            "nudge the {color} block over to the right",
        ),
        (
            "slide the {color} block to the right",
            "move the {color} cube rightward",
            "nudge the {color} cube toward the right side",
        ),
    ),
    "push_away": (
        (
            "push the {color} block away from the robot",
            "slide the {color} cube away",
            "move the {color} block away from the robot",
            "shove the {color} cube away from the robot",
            "push the {color} cube away",
            "nudge the {color} block away",
        ),
        ("slide the {color} block away from the robot", "move the {color} cube away"),
    ),
    "put_in_box": (
        (
            "put the {color} block in the box",
            "place the {color} cube into the box",
            "drop the {color} block in the yellow box",
            "set the {color} block down inside the box",
            "store the {color} cube in the box",
            "place the {color} block inside the yellow box",
            "put the {color} cube into the yellow box",
        ),
        (
            "drop the {color} cube into the box",
            "set the {color} cube down in the yellow box",
            "store the {color} block inside the box",
        ),
    ),
    "open_drawer": (
        (
            "open the drawer",
            "pull the drawer open",
            "pull out the drawer",
            "open up the cabinet drawer",
            "slide the drawer open",
            "open the drawer of the cabinet",
        ),
        ("slide the cabinet drawer open", "pull open the drawer", "pull the cabinet drawer out"),
    ),
    "close_drawer": (
        (
            "close the drawer",
            "shut the drawer",
            "push the drawer shut",
            "push the drawer closed",
            "slide the drawer shut",
            "close the cabinet drawer",
            "push the drawer back in",
        ),
        ("shut the cabinet drawer", "slide the drawer closed", "slide the drawer back in"),
    ),
    "nudge_lit": (
        (
            "nudge the block that was lit",
            "push the cube that lit up",
            "move the block that was shining",
            "bump the cube that was lit at the start",
            "nudge the cube that was shining in the dark",
            "push the block that lit up in the dark",
        ),
        ("nudge the cube that lit up", "push the block that was lit at the start", "bump the block that was shining"),
    ),
}


@dataclass(frozen=True)
class Task:
    """One language task.

    Attributes:
        name: unique, e.g. `pick_up_red`.
        kind: what to do, a key of PHRASINGS.
        color: which block; empty for the drawer, and where only the start of the episode tells.
        phrasings: commands to train on.
        held_out: commands kept for testing the understanding of language.
        novel: not among the training tasks; kept for teaching the policy something new.
        memory: not among the training tasks; the command does not tell which block, only the first pictures do.
    """

    name: str
    kind: str
    color: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    novel: bool
    memory: bool


def _tasks() -> dict[str, Task]:
    """One task per kind, and per colour where a block is meant."""
    tasks = {}
    for kind, (phrasings, held_out) in PHRASINGS.items():
        for color in COLORS if "{color}" in phrasings[0] else ("",):
            name = kind if not color else f"{kind}_{color}"
            tasks[name] = Task(
                name=name,
                kind=kind,
                color=color,
                phrasings=tuple(text.format(color=color) for text in phrasings),
                held_out=tuple(text.format(color=color) for text in held_out),
                novel=kind in NOVEL_KINDS,
                memory=kind in MEMORY_KINDS,
            )
    return tasks


TASKS = _tasks()
TRAINED_TASKS = tuple(name for name, task in TASKS.items() if not (task.novel or task.memory))
NOVEL_TASKS = tuple(name for name, task in TASKS.items() if task.novel)
MEMORY_TASKS = tuple(name for name, task in TASKS.items() if task.memory)


def success(task: Task, start: SceneState, now: SceneState) -> bool:
    """Whether `task` is done in the scene `now`, given the scene at the episode's `start`."""
    if task.kind == "open_drawer":
        return now.drawer_m >= DRAWER_OPEN_M and now.drawer_m - start.drawer_m > 0.02
    if task.kind == "close_drawer":
        return now.drawer_m <= DRAWER_CLOSED_M and start.drawer_m - now.drawer_m > 0.02
    if task.kind == "nudge_lit":
        return _only_the_lit_block_moved(start, now)
    block = now.block_positions[task.color]
    if task.kind == "pick_up":
        return bool(block[2] > LIFTED_M and np.linalg.norm(block - now.tcp_position) < 0.05 and now.opening < 0.9)
    in_box = np.abs(block - now.box_position)[:2].max() < 0.055 and block[2] < 0.06
    if task.kind == "put_in_box":
        return bool(in_box and now.opening > 0.75 and now.tcp_position[2] > LIFTED_M)
    along, across = push_displacement(task, start, now)
    on_table = 0.0 < block[2] < 0.04 and not in_box
    return bool(along >= PUSHED_M and abs(across) <= 0.5 * along and on_table)


def push_displacement(task: Task, start: SceneState, now: SceneState) -> tuple[float, float]:
    """How far a push task's block has moved along the wanted direction and across it [m]."""
    moved = (now.block_positions[task.color] - start.block_positions[task.color])[:2]
    x, y = PUSH_DIRECTIONS[task.kind]
    return float(moved @ (x, y)), float(moved @ (-y, x))


def _only_the_lit_block_moved(start: SceneState, now: SceneState) -> bool:
    """Whether the block that glowed at the start was moved aside, and the others, which nobody meant, were not."""
    moved_m = {c: np.linalg.norm((now.block_positions[c] - start.block_positions[c])[:2]) for c in COLORS}
    if not start.lit or moved_m.pop(start.lit) < NUDGED_M:
        return False
    return bool(max(moved_m.values()) < LEFT_ALONE_M)
