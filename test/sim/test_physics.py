# SPDX-License-Identifier: Apache-2.0
"""The Cartesian servo: the tool does what is commanded."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.sim.physics import JOINT_NAMES, MAX_ANGULAR_RPS, MAX_LINEAR_MPS, WORKSPACE_M, TabletopSim, limit_speed
from vla_ros.sim.rotation import rotation_vector


@pytest.fixture(scope="module")
def shared_sim() -> TabletopSim:
    return TabletopSim()


@pytest.fixture
def sim(shared_sim: TabletopSim) -> TabletopSim:
    shared_sim.reset()
    shared_sim.place_tool(np.array([0.45, 0.0, 0.25]), yaw_rad=0.0)
    return shared_sim


def move(sim: TabletopSim, twist: list[float], duration_s: float, control_hz: float = 10.0) -> tuple:
    """Return the translation (3,) and rotation vector (3,) in the base frame under a constant twist."""
    before = sim.state()
    for _ in range(round(duration_s * control_hz)):
        sim.set_command(np.array(twist), 1.0)
        sim.advance(1.0 / control_hz)
    after = sim.state()
    return after.tcp_position - before.tcp_position, rotation_vector(after.tcp_rotation @ before.tcp_rotation.T)


def test_zero_twist_holds_the_tool(sim):
    moved, turned = move(sim, [0.0] * 6, 1.0)
    assert np.linalg.norm(moved) < 1e-3
    assert np.linalg.norm(turned) < 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_linear_twist_moves_the_tool_by_speed_times_time(sim, axis, sign):
    twist = np.zeros(6)
    twist[axis] = 0.1 * sign
    moved, turned = move(sim, twist, 1.0)
    np.testing.assert_allclose(moved, twist[:3], atol=5e-3)
    assert np.linalg.norm(turned) < 0.01


@pytest.mark.parametrize("rotation", [(0.6, 0, 0), (0, 0.6, 0), (0, 0, 0.6), (-0.4, 0, 0.45), (0.3, -0.3, 0.3)])
def test_an_angular_twist_is_a_rotation_vector_in_the_base_frame(sim, rotation):
    """The tool is already turned: these are the base's axes, not the tool's, and no Euler angles."""
    move(sim, [0, 0, 0, 0, 0, 0.5], 0.6)
    moved, turned = move(sim, [0, 0, 0, *rotation], 1.0)
    np.testing.assert_allclose(turned, rotation, atol=0.01)
    assert np.linalg.norm(moved) < 5e-3


@pytest.mark.parametrize("control_hz", [7.0, 10.0, 30.0, 100.0])
def test_the_distance_does_not_depend_on_the_control_rate(sim, control_hz):
    moved, _ = move(sim, [0.0, 0.1, 0.0, 0.0, 0.0, 0.0], 1.0, control_hz)
    assert moved[1] == pytest.approx(0.1, abs=3e-3)
    assert sim.data.time == pytest.approx(1.0, abs=0.0041)


def test_speed_caps_keep_the_direction():
    limited = limit_speed(np.array([3.0, 4.0, 0.0, 0.0, -6.0, 8.0]))
    np.testing.assert_allclose(limited, [0.6 * MAX_LINEAR_MPS, 0.8 * MAX_LINEAR_MPS, 0, 0, -0.6 * 1.5, 0.8 * 1.5])
    slow = np.array([0.1, 0.0, 0.0, MAX_ANGULAR_RPS, 0.0, 0.0])
    np.testing.assert_array_equal(limit_speed(slow), slow)


def test_the_tool_stops_at_the_workspace_limit_and_returns_immediately(sim):
    move(sim, [0.0, 0.0, -0.3, 0.0, 0.0, 0.0], 2.0)
    assert sim.state().tcp_position[2] == pytest.approx(WORKSPACE_M[0, 2], abs=3e-3)
    back, _ = move(sim, [0.0, 0.0, 0.1, 0.0, 0.0, 0.0], 0.5)
    assert back[2] == pytest.approx(0.05, abs=5e-3)


def test_a_blocked_arm_returns_immediately(sim):
    """A second of pushing against the cabinet does not move the servo's target far into it."""
    sim.place_tool(np.array([0.74, 0.08, 0.16]), yaw_rad=0.0)
    move(sim, [0.0, 0.0, -0.3, 0.0, 0.0, 0.0], 1.0)
    assert sim.state().tcp_position[2] > 0.09
    back, _ = move(sim, [0.0, 0.0, 0.1, 0.0, 0.0, 0.0], 0.5)
    assert back[2] > 0.015


@pytest.mark.parametrize("turn", [(0.6, 0.0, 0.0), (0.0, 0.6, 0.0), (0.0, 0.0, 1.5)])
def test_motors_come_to_rest(sim, turn):
    """A motor whose gain is too high for its inertia chatters at its force limit forever."""
    move(sim, [0, 0, 0, 0, 0, 0.5], 0.6)
    move(sim, [0, 0, 0, *turn], 1.0)
    move(sim, [0.0] * 6, 1.0)
    assert np.abs(sim.data.qvel[:7]).max() < 1e-3
    assert np.abs(sim.data.qfrc_actuator[:7]).max() < 1.0


def test_the_gripper_follows_its_opening(sim):
    for opening in (0.0, 1.0, 0.5):
        sim.set_command(np.zeros(6), opening)
        sim.advance(0.5)
        assert sim.state().opening == pytest.approx(opening, abs=0.02)
    np.testing.assert_allclose(sim.joint_positions()[7:], 0.02, atol=1e-3)
    assert len(JOINT_NAMES) == 9


@pytest.mark.parametrize("twist", [np.zeros(5), np.full(6, np.nan), np.array([np.inf, 0, 0, 0, 0, 0])])
def test_a_malformed_twist_is_refused(sim, twist):
    with pytest.raises(ValueError, match="6 finite numbers"):
        sim.set_command(twist, 1.0)


def test_a_pose_out_of_reach_is_refused(sim):
    with pytest.raises(ValueError, match="out of the arm's reach"):
        sim.place_tool(np.array([1.2, 0.0, 0.2]), yaw_rad=0.0)
