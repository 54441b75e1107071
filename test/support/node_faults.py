# SPDX-License-Identifier: Apache-2.0
"""Faults for which policy and guard are started anew: those that end one of them, their clock, their peers."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from faults import (
    CHUNK,
    COMMAND_S,
    MAX_AGE_S,
    OBSERVATION,
    PERIOD_S,
    SPEED,
    Measurement,
    stays_stopped,
    stop_reason,
    wait_stopped,
)
from policy_bench import TIMEOUT_S, FakeRobot, guard_node, policy_node, write_checkpoint, write_robot
from trajectory_msgs.msg import MultiDOFJointTrajectory

Environment = dict[str, str]
# Of a receiver as docs/safety.md asks for it: MoveIt Servo's and ros2_control's timeouts are like this.
RECEIVER_TIMEOUT_S = 2 * PERIOD_S
# The heartbeat's age at which a policy is taken for dead, and what it takes to act.
SILENT_S = 0.2 + COMMAND_S
# Until the signal is handled; the executor looks every 0.1 s.
ENDED_S = 0.1 + COMMAND_S


@contextlib.contextmanager
def started(folder: Path, environment: Environment, *, clock_ns: int | None = None, **parameters) -> Iterator:
    """A robot, and policy and guard on it."""
    robot = FakeRobot(int(environment["ROS_DOMAIN_ID"]), clock_ns)
    files = write_checkpoint(folder), write_robot(folder, observation=OBSERVATION)
    try:
        with policy_node(*files, environment, **parameters) as process:
            yield robot, process
    finally:
        robot.close()


def move(robot: FakeRobot) -> float:
    """Wait until the arm moves; returns the time on the steady clock."""
    robot.ready()
    robot.say(f"move {SPEED}")
    robot.wait_moving(SPEED)
    robot.twists.clear()
    robot.wait(lambda: len(robot.twists) >= 3, "a few twists")
    return time.monotonic()


def moved_s(robot: FakeRobot, start_s: float) -> float:
    return max([0.0, *(twist.received_s - start_s for twist in robot.twists if twist.linear_x)])


def _after_a_stop(robot: FakeRobot, start_s: float, name: str, reason: str, bound_s: float) -> Measurement:
    wait_stopped(robot, (reason,))
    stays_stopped(robot)
    return Measurement(name, reason, moved_s(robot, start_s), bound_s)


def policy_killed(folder: Path, environment: Environment) -> list[Measurement]:
    """kill -9 of the policy, and a new one in its place, as launch files respawn it: the arm waits for a person."""
    with started(folder, environment) as (robot, process):
        start_s = move(robot)
        process.kill()
        process.wait(TIMEOUT_S)
        measured = _after_a_stop(robot, start_s, "policy: kill -9", "policy_silent", SILENT_S)
        with policy_node(folder / "checkpoint", folder / "robot.yaml", environment, guard=False):
            robot.wait_state("disarmed")
            reason = stop_reason(robot.states[-1])
            assert reason in ("policy_restarted", "second_planner"), reason  # which the killed one is for a while
            robot.wait(lambda: robot.states[-1]["outputs"] == "", "the end of the killed one")
            robot.ready()
            stays_stopped(robot)
            robot.twists.clear()
            assert robot.arm(True).success
            robot.wait_moving(SPEED)
    return [measured, Measurement("policy: respawned, until it is armed", reason, 0.0, COMMAND_S)]


def policy_suspended(folder: Path, environment: Environment) -> list[Measurement]:
    """The policy stands still, as under a debugger or in swap, or holds Python's lock: the guard stops the arm.

    After a short while it goes on, with a new plan; after a longer one a person has to arm it.
    """
    results = []
    with started(folder, environment, resume_within_s=1.0) as (robot, process):
        for name, seconds, resumes in (("0.6 s", 0.6, True), ("2 s", 2.0, False)):
            start_s = move(robot)
            process.send_signal(signal.SIGSTOP)
            results.append(_after_a_stop(robot, start_s, f"policy: suspended for {name}", "policy_silent", SILENT_S))
            time.sleep(max(0.0, start_s + seconds - time.monotonic()))
            _resumes(robot, lambda: process.send_signal(signal.SIGCONT), resumes)
        start_s = move(robot)
        robot.say("lock 2.5")
        name = "policy: holds Python's lock for 2.5 s"
        results.append(_after_a_stop(robot, start_s, name, "policy_silent", CHUNK * PERIOD_S + SILENT_S))
        _resumes(robot, lambda: _say_and_wait(robot, f"move {SPEED}"), False)
    return results


def _resumes(robot: FakeRobot, heal: Callable[[], None], resumes: bool) -> None:
    """See that the arm moves again by itself, or only once it is armed."""
    if not resumes:
        robot.wait_state("disarmed")
    robot.twists.clear()
    heal()
    if not resumes:
        robot.wait(lambda: robot.states[-1]["state"] == "disarmed", "still disarmed")
        time.sleep(1.0)
        assert not any(twist.linear_x for twist in robot.twists), "it moved before anybody armed it"
        assert robot.arm(True).success
    robot.wait(lambda: any(twist.linear_x for twist in robot.twists), "moving again")


def _say_and_wait(robot: FakeRobot, text: str) -> None:
    robot.say(text)
    robot.wait(lambda: robot.states[-1]["command"] == text, "the command in the guard's state")


def guard_killed(folder: Path, environment: Environment) -> list[Measurement]:
    """kill -9 of the guard, for which only the receiver can stop; and a new one in its place.

    That one stands still until it is armed.
    """
    with started(folder, environment) as (robot, process):
        move(robot)
        process.guard.kill()
        killed_ns = time.time_ns()
        process.guard.wait(TIMEOUT_S)
        time.sleep(3 * PERIOD_S)
        # A receiver that drops what is older than its timeout, by the stamp, stands still that long after the last one.
        last_ns = max(twist.stamp_ns for twist in robot.twists if twist.linear_x)
        still_s = max(0.0, (last_ns - killed_ns) / 1e9 + RECEIVER_TIMEOUT_S)
        name = f"guard: kill -9 (the receiver's timeout of {1e3 * RECEIVER_TIMEOUT_S:.0f} ms)"
        measured = Measurement(name, "", still_s, RECEIVER_TIMEOUT_S)
        robot.states.clear()
        robot.twists.clear()
        started_ns = time.time_ns()
        with guard_node(folder / "robot.yaml", environment, arm_on_start=False):
            robot.wait_state("disarmed")
            robot.assert_silent()
            robot.twists.clear()
            robot.arm(True)
            robot.wait(lambda: bool(robot.twists), "moving again")
            assert all(twist.stamp_ns > started_ns for twist in robot.twists)
    return [measured, Measurement("guard: respawned, until it is armed", "disarmed", 0.0, COMMAND_S)]


def guard_suspended(folder: Path, environment: Environment) -> list[Measurement]:
    """The guard stands still for a second: it must not go on where it left off.

    What it says first is zero, and only a new plan moves the arm after that.
    """
    with started(folder, environment) as (robot, process):
        move(robot)
        process.guard.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        resumed, resumed_s = len(robot.twists), time.monotonic()
        process.guard.send_signal(signal.SIGCONT)
        robot.wait(lambda: any(twist.linear_x == 0.0 for twist in robot.twists[resumed:]), "a zero twist")
        after = robot.twists[resumed:]
        until_zero = itertools.takewhile(lambda twist: twist.linear_x, after)
        moved_s = max((twist.received_s - resumed_s for twist in until_zero), default=0.0)
        robot.wait(lambda: robot.twists[-1].linear_x == SPEED, "moving again")
    # A twist that was on its way when the process was stopped may still come out.
    return [Measurement("guard: suspended for 1 s (its state afterwards)", "policy_silent", moved_s, PERIOD_S)]


def ended(folder: Path, environment: Environment) -> list[Measurement]:
    """Each signal while moving, to guard and policy; SIGTERM in each other state of the guard."""
    results = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        with started(folder, environment) as (robot, process):
            start_s = move(robot)
            process.guard.send_signal(number)
            assert process.guard.wait(TIMEOUT_S) == 0
            robot.wait(lambda: robot.twists[-1].linear_x == 0.0, "a zero twist at the end")
            results.append(Measurement(f"guard: {number.name} while moving", "", moved_s(robot, start_s), ENDED_S))
        with started(folder, environment) as (robot, process):
            start_s = move(robot)
            process.send_signal(number)
            results.append(_after_a_stop(robot, start_s, f"policy: {number.name} while moving", "inactive", ENDED_S))
            assert process.wait(TIMEOUT_S) == 0
    for state, bring in REST.items():
        with started(folder, environment, autostart=state not in BY_HAND, arm_on_start=state != "active") as (
            robot,
            process,
        ):
            bring(robot)
            process.guard.send_signal(signal.SIGTERM)
            assert process.guard.wait(TIMEOUT_S) == 0, state
            assert not any(twist.linear_x for twist in robot.twists)
            results.append(Measurement(f"guard: SIGTERM while {state}", "", 0.0, COMMAND_S))
    return [*results, _ended_while_configuring(folder, environment), _ended_while_deactivating(folder, environment)]


def _ended_while_configuring(folder: Path, environment: Environment) -> Measurement:
    """The model takes a minute to load, and nobody waits for it."""
    slow, loading = folder / "checkpoint" / "load_s", folder / "checkpoint" / "loading"
    slow.write_text("60")
    try:
        with started(folder, environment) as (robot, process):
            robot.wait_value(loading.exists, "a model that loads")
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0
            assert not robot.twists
    finally:
        slow.unlink()
        loading.unlink(missing_ok=True)
    return Measurement("policy: SIGTERM while configuring", "", 0.0, COMMAND_S)


def _ended_while_deactivating(folder: Path, environment: Environment) -> Measurement:
    with started(folder, environment) as (robot, process):
        client, request = robot.transition("DEACTIVATE")
        start_s = move(robot)
        client.call_async(request)
        process.guard.send_signal(signal.SIGTERM)
        assert process.guard.wait(TIMEOUT_S) == 0
        robot.wait(lambda: robot.twists[-1].linear_x == 0.0, "a zero twist at the end")
        return Measurement("guard: SIGTERM while deactivating", "", moved_s(robot, start_s), ENDED_S)


def _inactive(robot: FakeRobot) -> None:
    assert robot.change_state("CONFIGURE")
    robot.wait_state("inactive")


def _finalized(robot: FakeRobot) -> None:
    assert robot.change_state("UNCONFIGURED_SHUTDOWN")


def _fault(robot: FakeRobot) -> None:
    robot.wait_state("waiting", "no_command")  # a command from before the node's time is not followed
    robot.say("fail")
    robot.wait_state("fault")


# How the guard gets to where it rests.
REST: Mapping[str, Callable[[FakeRobot], None]] = {
    "unconfigured": lambda robot: robot.wait_state("unconfigured"),
    "inactive": _inactive,
    "active": lambda robot: robot.wait_state("disarmed"),
    "waiting": lambda robot: robot.wait_state("waiting", "no_command"),
    "fault": _fault,
    "finalized": _finalized,
}
BY_HAND = ("unconfigured", "inactive", "finalized")


def simulated_time(folder: Path, environment: Environment) -> list[Measurement]:
    """/clock stops, jumps back, jumps ahead; and jumps while the arm rests, which makes nothing move."""
    results = []
    with started(folder, environment, clock_ns=10**12, use_sim_time=True) as (robot, _):
        start_s = move(robot)
        robot.silent.add("clock")
        bound_s = 4.5 * PERIOD_S  # the watchdog's 2.5 periods on the steady clock, and two to act
        results.append(_after_a_stop(robot, start_s, "clock: /clock stops", "clock_stopped", bound_s))
        robot.silent.clear()
        for name, jump_ns in (("back by 100 s", -(10**11)), ("ahead by 100 s", 10**11)):
            start_s = move(robot)
            robot.clock_ns += jump_ns
            robot.wait(lambda: robot.twists[-1].linear_x == 0.0, f"a stop after a jump {name}")
            results.append(Measurement(f"clock: jumps {name}", "", moved_s(robot, start_s), MAX_AGE_S + COMMAND_S))
            robot.wait_moving(SPEED)
            robot.say("")
            robot.wait_state("waiting", "no_command")
            robot.twists.clear()
            robot.clock_ns += jump_ns
            robot.assert_silent()
            results.append(Measurement(f"clock: jumps {name} at rest", "no_command", 0.0, COMMAND_S))
    return results


def peers(folder: Path, environment: Environment) -> list[Measurement]:
    """Another publisher on the command topic; a deadman that is let go, or whose sender is gone."""
    results = []
    with started(folder, environment, allow_other_publishers=False, require_enable=True) as (robot, _):
        robot.destroy_publisher(robot.sentinel)
        start_s = move(robot)
        second = robot.node.create_publisher(robot._messages.twist, "twist_command", 1)
        bound_s = 0.2 + COMMAND_S  # discovery, and a look at the graph each 0.1 s
        name = "peers: a second publisher on the command topic"
        results.append(_after_a_stop(robot, start_s, name, "second_publisher", bound_s))
        _resumes(robot, lambda: robot.destroy_publisher(second), False)
        start_s = move(robot)
        another = robot.node.create_publisher(MultiDOFJointTrajectory, "plan", 1)
        results.append(_after_a_stop(robot, start_s, "peers: a second planner", "second_planner", bound_s))
        _resumes(robot, lambda: robot.destroy_publisher(another), False)
        kinds = robot._messages
        for what, kind, topic in (
            ("camera", kinds.raw, "camera/wrist"), ("pose", kinds.pose, "ee_pose"), ("enable", kinds.bool, "enable"),
        ):  # fmt: skip
            start_s = move(robot)
            publisher = robot.node.create_publisher(kind, topic, 1)
            name, reason = f"peers: a second publisher on {topic}", f"second_{what}_publisher"
            results.append(_after_a_stop(robot, start_s, name, reason, bound_s))
            _resumes(robot, lambda publisher=publisher: robot.destroy_publisher(publisher), False)
        start_s = move(robot)
        robot.silent.add("enable")
        robot.enable.publish(robot._messages.bool(data=False))
        results.append(_after_a_stop(robot, start_s, "peers: the deadman is released", "disabled", COMMAND_S))
        robot.silent.clear()
        start_s = move(robot)
        robot.silent.add("enable")
        results.append(
            _after_a_stop(robot, start_s, "peers: the deadman falls silent", "operator_lost", 0.5 + COMMAND_S)
        )
    return results


NODE_FAULTS: Mapping[str, Callable[[Path, Environment], list[Measurement]]] = {
    "policy_killed": policy_killed,
    "policy_suspended": policy_suspended,
    "guard_killed": guard_killed,
    "guard_suspended": guard_suspended,
    "ended": ended,
    "simulated_time": simulated_time,
    "peers": peers,
}
