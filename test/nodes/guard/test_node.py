# SPDX-License-Identifier: Apache-2.0
"""The guard node over DDS with a planner in another process that is killed, suspended and doubled."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("trajectory_msgs")

from guard_bench import guard_bench, planner

from vla_ros.commands.ros.process_group import shared_segments

pytestmark = pytest.mark.ros


@pytest.fixture
def moving(tmp_path: Path, ros_environment: dict[str, str]):
    with guard_bench(tmp_path, ros_environment) as (arm, guard, plans):
        arm.wait_state("disarmed")
        arm.wait_for_planner()
        assert arm.arm().success
        arm.wait_moving()
        yield arm, guard, plans


def test_it_executes_plans_at_its_own_rate_once_it_is_armed(tmp_path: Path, ros_environment: dict[str, str]) -> None:
    with guard_bench(tmp_path, ros_environment) as (arm, _, _):
        arm.wait_state("disarmed")
        arm.wait_for_planner()
        time.sleep(0.5)
        assert not arm.twists
        assert arm.arm().message == "armed; the policy follows 'move along x'"
        arm.wait_moving()
        count, begun_s = len(arm.twists), time.monotonic()
        time.sleep(1.0)
        assert (len(arm.twists) - count) / (time.monotonic() - begun_s) == pytest.approx(100, rel=0.1)
        assert arm.states[-1]["message"] == "running"


def test_a_press_is_zero_within_20_ms_and_reset_alone_moves_nothing(moving) -> None:
    arm, _, _ = moving
    pressed_s = time.monotonic()
    arm.press(True)
    arm.wait_standing()
    assert arm.last_motion_s() - pressed_s < 0.02 + 0.03  # and what a loaded machine adds
    arm.wait_state("fault", "emergency_stop")
    assert "still pressed" in arm.reset().message
    arm.press(False)
    arm.wait(lambda: True, "")
    time.sleep(0.2)
    assert arm.reset().success
    arm.stays(1.0)
    assert arm.arm().success
    arm.wait_moving()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_planner_that_dies_or_hangs_stops_the_arm_and_another_one_does_not_move_it(
    moving, ros_environment, number
) -> None:
    arm, _, plans = moving
    gone_s = time.monotonic()
    plans.send_signal(number)
    arm.wait_standing()
    assert arm.last_motion_s() - gone_s < 0.2 + 0.25  # heartbeat's age, and a stop within the limits
    arm.wait_state("disarmed")
    assert "policy_silent" in arm.states[-1]["detail"]
    if number == signal.SIGSTOP:
        plans.send_signal(signal.SIGCONT)
        arm.stays(1.0)
        return
    another = planner(ros_environment)
    try:
        arm.stays(2.0)
        arm.arm_when_allowed()
        arm.wait_moving()
    finally:
        another.terminate()
        another.wait()


def test_a_second_planner_stops_the_arm_and_its_end_starts_nothing(moving, ros_environment) -> None:
    arm, _, _ = moving
    another = planner(ros_environment, -0.05)
    try:
        arm.wait_state("disarmed")
        assert "second_planner" in arm.states[-1]["detail"]
    finally:
        another.terminate()
        another.wait()
    arm.stays(1.5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_every_way_out_but_sigkill_ends_with_zero_twists(moving, number) -> None:
    arm, guard, _ = moving
    guard.send_signal(number)
    assert guard.wait(10.0) == 0
    arm.wait_standing()
    assert [twist.linear_x for twist in arm.twists[-3:]] == [0.0] * 3


def test_a_stop_pressed_before_the_node_is_configured_is_remembered(tmp_path: Path, ros_environment) -> None:
    with guard_bench(tmp_path, ros_environment, autostart=False) as (arm, _, _):
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = arm.node.create_client(ChangeState, "guard/change_state")
        arm.wait_state("unconfigured")
        arm.press(True)
        time.sleep(0.5)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert arm._call(client, ChangeState.Request(transition=Transition(id=transition))).success
        assert "emergency_stop was pressed" in arm.arm().message
        arm.stays(1.0)


def test_a_pose_that_is_frozen_while_the_arm_is_commanded_disarms(moving) -> None:
    arm, _, _ = moving
    arm.follows = False
    arm.wait_state("disarmed")
    assert "pose_frozen" in arm.states[-1]["detail"]


def test_a_pose_that_is_silent_stops_the_arm(moving) -> None:
    arm, _, _ = moving
    arm.silent = True
    arm.wait_standing()
    arm.wait_state("disarmed")
    assert "no_ee_position" in arm.states[-1]["detail"]


def test_the_guard_uses_no_shared_memory_in_which_it_would_wait_for_a_killed_reader(moving) -> None:
    _, guard, plans = moving
    assert shared_segments(plans.pid)
    assert not shared_segments(guard.pid)
