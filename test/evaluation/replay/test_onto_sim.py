# SPDX-License-Identifier: Apache-2.0
"""Recorded twists on the simulated arm: it moves as recorded if and only if units and frame are right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from reading_policy import NAMES

pytest.importorskip("mujoco")

from scipy.spatial.transform import Rotation

from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay.onto_sim import drive
from vla_ros.observations.observation import proprioception
from vla_ros.sim.physics import TabletopSim

HZ = 10.0


@pytest.fixture(scope="module")
def sim() -> TabletopSim:
    return TabletopSim()


@pytest.fixture(scope="module")
def recorded(sim: TabletopSim) -> Episode:
    """The arm swings in free space, starting turned by 0.4 rad about z."""
    sim.reset()
    sim.place_tool(np.array([0.45, 0.1, 0.25]), 0.4)
    phase = np.arange(25)[:, None] / HZ * np.array([2.0, 2.5, 3.0, 2.2, 2.8, 1.9])
    twists = np.array([0.1, 0.1, 0.06, 0.2, 0.2, 0.5]) * np.cos(phase)
    states = []
    for twist in twists:
        state = sim.state()
        pose = np.concatenate([state.tcp_position, Rotation.from_matrix(state.tcp_rotation).as_quat()])
        states.append(proprioception(NAMES, pose, state.opening))
        sim.set_command(twist, 1.0)
        sim.advance(1 / HZ)
    return Episode(
        images={},
        proprioception=np.stack(states),
        actions=np.concatenate([twists, np.ones((25, 1))], axis=1),
        command="swing",
        task="swing",
        outcome="success",
        source="bag#0",
        start_ns=0,
        ticks=np.arange(25, dtype=np.int64),
    )


def test_twists_recorded_in_simulation_reproduce_the_motion(recorded: Episode, sim: TabletopSim) -> None:
    driven = drive(recorded, NAMES, HZ, sim)
    assert driven.position_error_m < 0.003 and driven.rotation_error_rad < 0.02
    assert driven.linear_gain == pytest.approx(1, abs=0.05) and driven.angular_gain == pytest.approx(1, abs=0.05)


def _turned(recorded: Episode) -> np.ndarray:
    rotation = Rotation.from_euler("xyz", [np.pi, 0.0, 0.4]).inv()
    actions = recorded.actions.copy()
    actions[:, :3], actions[:, 3:6] = rotation.apply(actions[:, :3]), rotation.apply(actions[:, 3:6])
    return actions


@pytest.mark.parametrize("wrong", ["mm", "tool", "half"])
def test_wrong_units_and_frames_deviate(recorded: Episode, sim: TabletopSim, wrong: str) -> None:
    scaled = np.concatenate([np.full(6, {"mm": 1e-3, "half": 0.5}.get(wrong, 1.0)), [1.0]])
    actions = _turned(recorded) if wrong == "tool" else recorded.actions * scaled
    driven = drive(dataclasses.replace(recorded, actions=actions), NAMES, HZ, sim)
    assert driven.linear_gain < 0.65 and driven.angular_gain < 0.65
    assert driven.position_error_m > 0.01


def test_episodes_without_a_pose_are_refused(recorded: Episode, sim: TabletopSim) -> None:
    with pytest.raises(ValueError, match="the tool's pose is missing; the states have ee_x, gripper_opening"):
        drive(recorded, ("ee_x", "gripper_opening"), HZ, sim)
