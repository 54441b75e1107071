# SPDX-License-Identifier: Apache-2.0
"""Random scenes: where things are at the start of an episode, and how they look."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from vla_ros.sim.physics import TabletopSim
from vla_ros.sim.rotation import rotation_vector_to_quaternion
from vla_ros.sim.state import COLORS, Array
from vla_ros.sim.tasks.task import Task

BLOCK_REST_Z_M = 0.0201
BLOCK_SPACING_M = 0.10  # open fingers must not touch the neighbor of the block they reach for
BOX_SPACING_M = 0.14
CABINET_SHIFT_M = 0.10  # to either side
DRAWER_CORRIDOR_M = 0.075  # to either side of the knob: the space the gripper needs


def randomize(sim: TabletopSim, task: Task, rng: np.random.Generator) -> None:
    """Reset the simulator to a random scene, drawn around the scene file's values, in which `task` can be done."""
    sim.reset()
    _place_objects(sim, task, rng)
    sim.place_tool(rng.uniform([0.33, -0.28, 0.10], [0.58, 0.28, 0.18]), yaw_rad=rng.uniform(-0.3, 0.3))
    _vary_appearance(sim, rng)
    sim.advance(0.1)  # blocks settle
    task.begin(sim, rng)


def _place_objects(sim: TabletopSim, task: Task, rng: np.random.Generator) -> None:
    """Draw the drawer, the box and the blocks until the task is feasible."""
    drawer_m = task.draw_drawer(rng)
    # Other tasks keep the corridor free half of the time too, or the image alone would give away the task.
    corridor = task.uses_drawer or rng.random() < 0.5
    for _ in range(10_000):
        cabinet_y = rng.uniform(-CABINET_SHIFT_M, CABINET_SHIFT_M)
        box = np.array([rng.uniform(0.38, 0.52), rng.choice([-1, 1]) * rng.uniform(0.20, 0.27), 0.0])
        blocks = {color: rng.uniform([0.34, -0.23], [0.54, 0.23]) for color in COLORS}
        spaced = _are_spaced(box[:2], blocks, cabinet_y if corridor else None)
        if spaced and task.is_feasible(box[:2], blocks):
            break
    else:
        raise RuntimeError(f"no feasible layout found for task {task.name}; the placement rules contradict each other")
    sim.model.body("box").pos[:] = box
    sim.model.body("cabinet").pos[1] = cabinet_y
    sim.place_drawer(drawer_m)
    for color, xy in blocks.items():
        sim.place_block(color, np.append(xy, BLOCK_REST_Z_M), yaw_rad=rng.uniform(-0.5, 0.5))


def _are_spaced(box: Array, blocks: Mapping[str, Array], corridor_y: float | None) -> bool:
    """Return whether blocks (2,) keep their distance from each other, the box and the corridor at `corridor_y`."""
    positions = list(blocks.values())
    for i, position in enumerate(positions):
        if np.linalg.norm(position - box) < BOX_SPACING_M:
            return False
        if corridor_y is not None and abs(position[1] - corridor_y) < DRAWER_CORRIDOR_M:
            return False
        if any(np.linalg.norm(position - other) < BLOCK_SPACING_M for other in positions[:i]):
            return False
    return True


def _vary_appearance(sim: TabletopSim, rng: np.random.Generator) -> None:
    """Draw the light, the color of the table and small errors of the camera poses."""
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
