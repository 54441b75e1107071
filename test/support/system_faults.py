# SPDX-License-Identifier: Apache-2.0
"""Faults of what runs beside policy and guard: the robot's side is killed, the recorder's disk is full."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from faults import COMMAND_S, SPEED, Measurement, stays_stopped, wait_stopped
from node_faults import Environment, move, moved_s, started
from policy_bench import CONTROL_HZ, TIMEOUT_S, FakeRobot, policy_node, write_checkpoint

from vla_ros.datasets.bags.episodes.markers import parse_marker
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.observations.messages import stamp_ns
from vla_ros.robot import load_robot

# Some seconds of the fake robot's topics.
FULL_AT_BYTES = 200_000


def simulator(folder: Path, environment: Environment) -> list[Measurement]:
    """The robot's side is killed: everything that it publishes is gone, with its publishers. A new one comes.

    Nothing moves then until a person arms it.
    """
    files = write_checkpoint(folder), "tabletop"
    command = [sys.executable, "-m", "vla_ros.nodes.simulator.node"]
    robot = FakeRobot(int(environment["ROS_DOMAIN_ID"]))
    robot.silent |= {"static", "wrist", "ee_pose", "joint_states"}
    robot.destroy_publisher(robot.pose)  # the simulator's is the only one
    max_age_s = load_robot("tabletop").observation.max_age_s
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        simulators = [stack.enter_context(_process(command, environment))]
        stack.enter_context(policy_node(*files, environment, resume_within_s=1.0))
        move(robot)
        start_s = time.monotonic()
        simulators[0].kill()
        reason = wait_stopped(robot, ("stale", "no_ee_position"))
        stays_stopped(robot)
        after_s = moved_s(robot, start_s)
        robot.wait_state("disarmed")
        robot.twists.clear()
        stack.enter_context(_process(command, environment))
        robot.wait(lambda: robot.policy_states[-1]["reason"] == "", "a plan", 2 * TIMEOUT_S)
        stays_stopped(robot)
        robot.wait_value(lambda: robot.arm(True).success, "arming")
        robot.wait(lambda: any(twist.linear_x for twist in robot.twists), "moving again", 2 * TIMEOUT_S)
    return [Measurement("robot: the simulator is killed", reason, after_s, max_age_s + COMMAND_S)]


@contextlib.contextmanager
def _process(command: list[str], environment: Environment, **options) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, env=environment, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def disk_full(folder: Path, environment: Environment) -> list[Measurement]:
    """The recorder's disk is full in an episode: it says so, what is in the bag can be read, and the policy goes on."""
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    from vla_ros.nodes.common.qos import LATCHED_QOS

    bag, markers = folder / "bags" / "one", []
    command = [sys.executable, "-m", "vla_ros.nodes.recorder.node", "--ros-args", "-p", f"output:={bag}"]
    with contextlib.ExitStack() as stack:
        robot, _ = stack.enter_context(started(folder, environment))
        keep = lambda text: markers.append(parse_marker(text.data))  # noqa: E731
        robot.node.create_subscription(String, "episode", keep, LATCHED_QOS)
        options = {"stderr": subprocess.PIPE, "text": True}
        command += ["-p", f"robot:={folder / 'robot.yaml'}"]
        recorder = stack.enter_context(_process(command, environment, **options))
        move(robot)
        client = robot.node.create_client(Trigger, "recorder/start")
        robot.wait_value(lambda: robot.call(client, Trigger.Request()).success, "an episode")
        written = len(robot.twists)
        resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (FULL_AT_BYTES, FULL_AT_BYTES))
        told = recorder.communicate(timeout=2 * TIMEOUT_S)[1]
        assert recorder.returncode == 2 and "cannot write the bag" in told and str(bag) in told, told
        robot.wait_value(lambda: [marker.event for marker in markers][-1:] == ["discard"], "the end of the episode")
        count = len(robot.twists)
        robot.wait(lambda: len(robot.twists) >= count + 10, "ten more twists")
        sent = [twist.stamp_ns for twist in robot.twists]
        assert all(twist.linear_x == SPEED for twist in robot.twists), "the policy was disturbed"
    with open_bag(bag.with_name("one.partial")) as recording:
        kept = [stamp_ns(twist) for _, _, twist in recording.messages(["/twist_command"])]
    # All of them, from the start of the episode on, without a gap.
    first = sent.index(kept[0])
    assert first <= written + 2 and kept == sent[first : first + len(kept)] and len(kept) > CONTROL_HZ, kept
    return [Measurement("recorder: the disk is full (the policy continues)", "", None, COMMAND_S)]


SYSTEM_FAULTS: Mapping[str, Callable[[Path, Environment], list[Measurement]]] = {
    "simulator": simulator,
    "disk_full": disk_full,
}
