# SPDX-License-Identifier: Apache-2.0
"""Drive the simulated arm with recorded twists: if units, frame and rate are right, it moves as recorded."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vla_ros.datasets.agreement.corrections import Array, tool_path
from vla_ros.datasets.episode import Episode
from vla_ros.sim.physics import TOOL_DOWN, TabletopSim
from vla_ros.sim.scene import BLOCK_REST_Z_M
from vla_ros.sim.state import COLORS

GAIN = (0.7, 1.3)  # of a match: a drawer may be elsewhere, and poses may lag
# Out of the arm's way; the box and the cabinet stay, since the arm braces against them in drawer tasks.
_ASIDE_M = ((0.30, -0.38), (0.30, 0.38), (0.72, -0.38))


@dataclasses.dataclass(frozen=True)
class SimulatedMotion:
    """How the simulated tool moved, compared with the recorded one: mean errors from the start pose, and gains.

    A gain is the simulated motion along the recorded one, 1 if units and frame are right; NaN if it hardly moved.
    """

    position_error_m: float
    rotation_error_rad: float
    linear_gain: float
    angular_gain: float


def drive_all(episodes: Sequence[Episode], names: Sequence[str], control_hz: float) -> dict[str, Any]:
    """Drive the simulated arm with each episode, and return the medians as plain types; see `drive`."""
    sim = TabletopSim()
    driven = [dataclasses.asdict(drive(episode, names, control_hz, sim)) for episode in episodes]
    results: dict[str, Any] = {}
    for key in driven[0]:
        finite = [one[key] for one in driven if math.isfinite(one[key])]
        results[key] = statistics.median(finite) if finite else None
    low, high = GAIN
    gains = [results["linear_gain"], results["angular_gain"]]
    return {**results, "episodes": len(driven), "fits": all(gain is None or low < gain < high for gain in gains)}


def drive(episode: Episode, names: Sequence[str], control_hz: float, sim: TabletopSim) -> SimulatedMotion:
    """Execute the episode's actions from its start pose, and compare the motion with the recorded one.

    ValueError if the pose is not among the episode's values, called `names`, or the arm cannot reach the start.
    """
    recorded, rotations = tool_path(names, episode.proprioception)
    sim.reset()
    for color, (x, y) in zip(COLORS, _ASIDE_M, strict=True):
        sim.place_block(color, np.array([x, y, BLOCK_REST_Z_M]), 0.0)
    yaw = (rotations[0] * Rotation.from_matrix(TOOL_DOWN).inv()).as_euler("xyz")[2]
    sim.place_tool(recorded[0], float(yaw))
    positions, orientations = [], []
    for action in episode.actions:
        state = sim.state()
        positions.append(state.tcp_position)
        orientations.append(state.tcp_rotation)
        sim.set_command(action[:6], action[6])
        sim.advance(1.0 / control_hz)
    return _compare(recorded, rotations, np.array(positions), Rotation.from_matrix(orientations))


def _compare(recorded: Array, rotations: Rotation, now: Array, rotations_now: Rotation) -> SimulatedMotion:
    error_m = np.linalg.norm((now - now[0]) - (recorded - recorded[0]), axis=1)
    since_start, since_start_now = (each * each[0].inv() for each in (rotations, rotations_now))
    turns, turns_now = ((each[1:] * each[:-1].inv()).as_rotvec() for each in (rotations, rotations_now))
    return SimulatedMotion(
        float(error_m.mean()),
        float((since_start * since_start_now.inv()).magnitude().mean()),
        _gain(np.diff(recorded, axis=0), np.diff(now, axis=0), 1e-3),
        _gain(turns, turns_now, 5e-3),
    )


def _gain(recorded: Array, now: Array, smallest: float) -> float:
    """Regress steps (T, 3) on the recorded ones; NaN if these are below `smallest`."""
    if len(recorded) == 0 or np.sqrt((recorded**2).sum(axis=1).mean()) < smallest:
        return float("nan")
    return float((recorded * now).sum() / (recorded**2).sum())
