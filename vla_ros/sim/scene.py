# SPDX-License-Identifier: Apache-2.0
"""What is on the table: its state as arrays, and how an episode's scene is drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from vla_ros.sim.rotation import rotation_vector_to_quaternion
from vla_ros.sim.tasks import COLORS, PUSH_DIRECTIONS, Task

if TYPE_CHECKING:
    from vla_ros.sim.physics import TabletopSim

STATE_SIZE = 22 + 7 * len(COLORS)

_LIT = ("", *COLORS)

BLOCK_REST_Z_M = 0.0201
BLOCK_SPACING_M = 0.10  # open fingers must not touch the neighbour of the block they reach for
BOX_SPACING_M = 0.14
CABINET_SHIFT_M = 0.10  # to either side
DRAWER_CORRIDOR_M = 0.075  # to either side of the knob: what the hand needs for itself


@dataclass(frozen=True, eq=False)
class SceneState:
    """Everything that tasks and experts may look at; poses in base_link, metres.

    Attributes:
        tcp_position: (3,) tool centre point between the finger tips.
        tcp_rotation: (3, 3) tool axes as columns; z along the fingers.
        opening: gripper opening, 0 closed ... 1 open (8 cm).
        block_positions: colour -> (3,) centre of the block.
        block_quaternions: colour -> (4,) wxyz.
        box_position: (3,) centre of the box's floor.
        knob_position: (3,) centre of the drawer's knob.
        drawer_m: how far the drawer is out, 0 closed ... 0.13.
        lit: the block that glows now; empty: none.
        dark: whether the light is out.
    """

    tcp_position: np.ndarray
    tcp_rotation: np.ndarray
    opening: float
    block_positions: dict[str, np.ndarray]
    block_quaternions: dict[str, np.ndarray]
    box_position: np.ndarray
    knob_position: np.ndarray
    drawer_m: float
    lit: str = ""
    dark: bool = False

    def to_vector(self) -> np.ndarray:
        """Flat float64 vector (43,).

        Layout: tcp position 0:3, tcp rotation row by row 3:12, opening 12, then for red, green and blue position (3)
        and quaternion wxyz (4) 13:34, box position 34:37, knob position 37:40, drawer 40, the lit block 41 (0: none,
        1: red, 2: green, 3: blue), dark 42 (0 or 1).
        """
        blocks = [np.concatenate([self.block_positions[c], self.block_quaternions[c]]) for c in COLORS]
        return np.concatenate(
            [
                self.tcp_position,
                self.tcp_rotation.ravel(),
                [self.opening],
                *blocks,
                self.box_position,
                self.knob_position,
                [self.drawer_m, _LIT.index(self.lit), self.dark],
            ]
        ).astype(np.float64)

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> SceneState:
        """The state that `to_vector` wrote.

        Raises:
            ValueError: the vector has another length, a value that is not finite, or a block that is not there.
        """
        vector = np.array(vector, dtype=np.float64)
        if vector.shape != (STATE_SIZE,) or not np.all(np.isfinite(vector)) or vector[41] not in range(len(_LIT)):
            raise ValueError(
                f"scene state vector has shape {vector.shape}; want ({STATE_SIZE},) finite numbers "
                "as SceneState.to_vector() writes them"
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


def randomise(sim: TabletopSim, task: Task, rng: np.random.Generator) -> None:
    """Reset the simulator to a random scene in which `task` is not yet done and can be done.

    The same `rng` state gives the same scene. Everything is drawn around the scene file's values, never around the
    last scene.
    """
    sim.reset()
    _place_objects(sim, task, rng)
    sim.place_tool(rng.uniform([0.33, -0.28, 0.10], [0.58, 0.28, 0.18]), yaw_rad=rng.uniform(-0.3, 0.3))
    _vary_looks(sim, rng)
    sim.advance(0.1)  # blocks settle
    give_cue(sim, task, rng)


def give_cue(sim: TabletopSim, task: Task, rng: np.random.Generator) -> None:
    """Turn off the light and let any block glow, where it is the start of the episode that tells which is meant."""
    if task.memory:
        sim.light_up(str(rng.choice(COLORS)))


def _place_objects(sim: TabletopSim, task: Task, rng: np.random.Generator) -> None:
    """Draw the drawer, the box and the blocks; redraw until nothing stands in the task's way."""
    drawer_m = _draw_drawer(task, rng)
    # Other tasks leave the corridor free half of the time too, or the picture alone would tell the task.
    corridor = task.kind in ("open_drawer", "close_drawer") or rng.random() < 0.5
    for _ in range(10_000):
        cabinet_y = rng.uniform(-CABINET_SHIFT_M, CABINET_SHIFT_M)
        box = np.array([rng.uniform(0.38, 0.52), rng.choice([-1, 1]) * rng.uniform(0.20, 0.27), 0.0])
        blocks = {color: rng.uniform([0.34, -0.23], [0.54, 0.23]) for color in COLORS}
        if _is_clear(task, box[:2], blocks, cabinet_y if corridor else None):
            break
    else:
        raise RuntimeError(f"no free layout found for task {task.name}; the placement rules contradict each other")
    sim.model.body("box").pos[:] = box
    sim.model.body("cabinet").pos[1] = cabinet_y
    sim.place_drawer(drawer_m)
    for color, xy in blocks.items():
        sim.place_block(color, np.append(xy, BLOCK_REST_Z_M), yaw_rad=rng.uniform(-0.5, 0.5))


def _draw_drawer(task: Task, rng: np.random.Generator) -> float:
    """How far the drawer is out at the start [m]."""
    if task.memory:
        return 0.0  # out of the way of all blocks
    if task.kind == "close_drawer":
        return rng.uniform(0.06, 0.13)
    if task.kind == "open_drawer":
        return rng.uniform(0.0, 0.03)
    return rng.uniform(0.0, 0.06) if rng.random() < 0.5 else 0.0


def _is_clear(task: Task, box: np.ndarray, blocks: dict[str, np.ndarray], corridor_y: float | None) -> bool:
    """Whether blocks (xy) keep their distances and the task's way is free, the corridor at `corridor_y` included."""
    places = list(blocks.values())
    for i, place in enumerate(places):
        if np.linalg.norm(place - box) < BOX_SPACING_M:
            return False
        if corridor_y is not None and abs(place[1] - corridor_y) < DRAWER_CORRIDOR_M:
            return False
        if any(np.linalg.norm(place - other) < BLOCK_SPACING_M for other in places[:i]):
            return False
    if task.memory:  # the layout must not tell which block is meant
        return all(_is_free_to_nudge(box, blocks, color) for color in blocks)
    if task.kind not in PUSH_DIRECTIONS:
        return True
    direction = np.array(PUSH_DIRECTIONS[task.kind])
    start = blocks[task.color]
    too_far = start[0] > 0.46 if task.kind == "push_away" else abs(start[1]) > 0.10
    if too_far:
        return False
    others = [place for color, place in blocks.items() if color != task.color]
    # Room for the fist behind the block and for the block on its way.
    return not _blocks_way(box, 0.095, start, direction, -0.15, 0.20) and not any(
        _blocks_way(other, 0.055, start, direction, -0.13, 0.15) for other in others
    )


def _is_free_to_nudge(box: np.ndarray, blocks: dict[str, np.ndarray], color: str) -> bool:
    """Whether the fist can come down before a block (xy) and push it a little away from the robot."""
    away = np.array([1.0, 0.0])
    others = [place for other, place in blocks.items() if other != color]
    return not _blocks_way(box, 0.095, blocks[color], away, -0.15, 0.13) and not any(
        _blocks_way(other, 0.055, blocks[color], away, -0.13, 0.09) for other in others
    )


def _blocks_way(
    obstacle: np.ndarray, half_width: float, start: np.ndarray, direction: np.ndarray, behind: float, ahead: float
) -> bool:
    """Whether an obstacle (xy) lies in the lane through `start` along `direction`."""
    offset = obstacle - start
    along, across = offset @ direction, offset @ np.array([-direction[1], direction[0]])
    return abs(across) < half_width and behind < along < ahead


def _vary_looks(sim: TabletopSim, rng: np.random.Generator) -> None:
    """Draw light, table colour and small camera misplacements."""
    model, nominal = sim.model, sim.nominal
    lamp = model.light("lamp").id
    model.light_pos[lamp] = nominal.light_pos[lamp] + rng.uniform([-0.4, -0.4, -0.2], [0.4, 0.4, 0.3])
    tint = rng.uniform(0.95, 1.05, size=3)
    model.light_diffuse[lamp] = nominal.light_diffuse[lamp] * rng.uniform(0.6, 1.2) * tint
    brightness = rng.uniform(0.75, 1.1)
    model.vis.headlight.ambient[:] = nominal.vis.headlight.ambient * brightness * tint
    model.vis.headlight.diffuse[:] = nominal.vis.headlight.diffuse * brightness * tint
    table = model.geom("table").id
    color = nominal.geom_rgba[table, :3] + rng.uniform(-0.04, 0.04, size=3)
    model.geom_rgba[table, :3] = np.clip(color * rng.uniform(0.85, 1.05), 0.0, 1.0)
    for camera, shift_m, turn_rad in (("static", 0.01, np.deg2rad(1.0)), ("wrist", 0.002, np.deg2rad(0.5))):
        index = model.camera(camera).id
        model.cam_pos[index] = nominal.cam_pos[index] + rng.uniform(-shift_m, shift_m, size=3)
        turn = rotation_vector_to_quaternion(rng.uniform(-turn_rad, turn_rad, size=3))
        mujoco.mju_mulQuat(model.cam_quat[index], nominal.cam_quat[index], turn)
