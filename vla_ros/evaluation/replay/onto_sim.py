# SPDX-License-Identifier: Apache-2.0
"""Recorded twists given to the simulated arm: if units, frame and rate are right, it moves as the recorded one did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay.mismatches import Array, tool_rotations
from vla_ros.sim.physics import TOOL_DOWN, TabletopSim
from vla_ros.sim.scene import BLOCK_REST_Z_M
from vla_ros.sim.state import COLORS

# Out of the arm's way; the box and the cabinet stay, since drawer tasks are braced by them.
_ASIDE_M = ((0.30, -0.38), (0.30, 0.38), (0.72, -0.38))


@dataclasses.dataclass(frozen=True)
class Driven:
    """One episode on the simulator: how far its tool ended up from where the recorded one did, and how the two moved.

    position_error_m, rotation_error_rad: mean over the episode, both measured from the start pose.
    linear_gain, angular_gain: motion of the simulated tool along that of the recorded one, 1 when units and frame fit;
    NaN where the recorded tool hardly moved.
    """

    source: str
    position_error_m: float
    rotation_error_rad: float
    linear_gain: float
    angular_gain: float


def drive(episode: Episode, names: Sequence[str], control_hz: float, sim: TabletopSim) -> Driven:
    """Put the simulated tool where the episode starts, give it the episode's actions, and compare the ways.

    Args:
        names: of the episode's proprioceptive values; the tool's pose is among them.

    Raises:
        ValueError: the pose is not among them, or the simulated arm does not reach the start.
    """
    rotations = tool_rotations(names, episode.proprioception)
    if rotations is None or not {"ee_x", "ee_y", "ee_z"} <= set(names):
        raise ValueError(f"the tool's pose is not recorded; the episodes have {', '.join(names) or 'no state'}")
    columns = [list(names).index(name) for name in ("ee_x", "ee_y", "ee_z")]
    recorded = episode.proprioception[:, columns].astype(np.float64)
    sim.reset()
    for color, (x, y) in zip(COLORS, _ASIDE_M, strict=True):
        sim.place_block(color, np.array([x, y, BLOCK_REST_Z_M]), 0.0)
    yaw = (rotations[0] * Rotation.from_matrix(TOOL_DOWN).inv()).as_euler("xyz")[2]
    sim.place_tool(recorded[0], float(yaw))
    positions, turned = [], []
    for action in episode.actions:
        state = sim.state()
        positions.append(state.tcp_position)
        turned.append(state.tcp_rotation)
        sim.set_command(action[:6], action[6])
        sim.advance(1.0 / control_hz)
    return _compare(episode.source, recorded, rotations, np.array(positions), Rotation.from_matrix(np.array(turned)))


def _compare(source: str, recorded: Array, rotations: Rotation, driven: Array, turned: Rotation) -> Driven:
    apart = np.linalg.norm((driven - driven[0]) - (recorded - recorded[0]), axis=1)
    since = [rotation * rotation[0].inv() for rotation in (rotations, turned)]
    recorded_turns, driven_turns = (
        (rotation[1:] * rotation[:-1].inv()).as_rotvec() for rotation in (rotations, turned)
    )
    return Driven(
        source,
        float(apart.mean()),
        float((since[0] * since[1].inv()).magnitude().mean()),
        _gain(np.diff(recorded, axis=0), np.diff(driven, axis=0), 1e-3),
        _gain(recorded_turns, driven_turns, 5e-3),
    )


def _gain(recorded: Array, driven: Array, smallest: float) -> float:
    """How much of the recorded steps (T, 3) the driven ones make, along them; NaN below `smallest` a step."""
    if len(recorded) == 0 or np.sqrt((recorded**2).sum(axis=1).mean()) < smallest:
        return float("nan")
    return float((recorded * driven).sum() / (recorded**2).sum())
