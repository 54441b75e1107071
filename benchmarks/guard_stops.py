# SPDX-License-Identifier: Apache-2.0
"""How soon the guard stops the arm: an emergency stop, and a planner that dies, each tried many times over DDS.

    python benchmarks/guard_stops.py --tries 200 --json benchmarks/results/guard_stops.json

Press to zero: from publishing the press to the arrival of the last twist that moves the arm, while the planner runs, is
suspended or was just killed, and while the policy node holds Python's lock or reads a command of 20 MB. Kill to stop:
from `kill -9` to the last twist at full speed (when the stop begins), and from there to the last twist that moves the
arm (how long the stop takes), within the limits of the shipped robot and of one that hardly has any. A try in which the
machine itself held up the guard is counted, too. Exits with status 1 if a bound does not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import figures
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "support"))

from guard_bench import FakeArm, guard_bench, planner
from policy_bench import FakeRobot, policy_node, write_checkpoint, write_robot

from vla_ros import resources, transport
from vla_ros.commands.ros.isolation import claim_domain_id
from vla_ros.robot import load_robot

HEARTBEAT_MAX_AGE_S, GUARD_PERIOD_S = 0.2, 0.01
PRESS_BOUND_MS = 20.0
BEGIN_BOUND_MS = 1e3 * (HEARTBEAT_MAX_AGE_S + 2 * GUARD_PERIOD_S)
SHIPPED = load_robot("tabletop").limits
# Changes to the robot's file, the speed of the plan [m/s], and how long a stop may take [s].
ROBOTS: dict[str, tuple[dict[str, Any], float, float]] = {
    "the shipped robot": ({"limits": dataclasses.asdict(SHIPPED)}, 0.3, SHIPPED.stopping_time_s("linear")),
    "a robot of 100 m/s²": ({}, 0.15, 0.02),
}
HOME = np.array([0.3, 0.0, 0.3])
POLICY_SPEED, LOCK_S, LONG_COMMAND = 0.05, 5, "x" * 20_000_000
COLUMNS = ("what", "tries", "p50 [ms]", "p99 [ms]", "worst", "bound", "within")


def rearm(arm: FakeArm, speed: float) -> None:
    """Bring the arm back to motion, from where it began."""
    arm.position[:] = HOME
    arm.press(False)
    time.sleep(0.05)  # two poses: the arm must not seem to jump while it moves
    deadline_s = time.monotonic() + 10.0
    while not arm.reset().success:  # the release may still be on its way
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    moving = False
    while not moving:  # a planner that is discovered after this, beside the killed one, disarms
        arm.arm_when_allowed()
        arm.twists.clear()
        arm.states.clear()
        arm.wait(lambda: arm.moves(speed) or any(each["state"] == "disarmed" for each in arm.states), "motion")
        moving = arm.moves(speed)


def press(arm: FakeArm) -> float:
    """Return the time from the press to the last twist that moves the arm [ms]."""
    time.sleep(float(np.random.default_rng().uniform(0.0, 0.1)))
    pressed_s = time.monotonic()
    arm.press(True)
    arm.wait_standing()
    time.sleep(0.05)
    return max(0.0, arm.last_motion_s() - pressed_s) * 1e3


def kill(arm: FakeArm, process: Any, speed: float) -> tuple[float, float]:
    """Return the time from kill -9 to where the stop begins, and how long it takes [ms]."""
    killed_s = time.monotonic()
    process.kill()
    process.wait()
    arm.wait_standing()
    time.sleep(0.05)
    full_s = max(twist.received_s for twist in arm.twists if abs(twist.linear_x - speed) < 1e-6)
    return (full_s - killed_s) * 1e3, (arm.last_motion_s() - full_s) * 1e3


def short_lease(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment for planners that are out of the ROS graph a second after they were killed, not five."""
    profile = folder / "planner.xml"
    text = resources.path("config/fastdds.xml").read_text()
    lease, announcement = "<leaseDuration><sec>5</sec>", "<leaseAnnouncement><sec>1</sec>"
    assert lease in text and announcement in text
    text = text.replace(lease, lease.replace("5", "1"))
    profile.write_text(text.replace(announcement, "<leaseAnnouncement><sec>0</sec><nanosec>200000000</nanosec>"))
    return environment | {transport.profile_variable(): str(profile)}


class Planners:
    """One planner process after another."""

    def __init__(self, folder: Path, environment: dict[str, str], speed: float) -> None:
        environment = short_lease(folder, environment)
        self._start: Callable[[], Any] = lambda: planner(environment, speed)
        self.process = self._start()

    def restart(self) -> None:
        self.close()
        self.process = self._start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def presses(folder: Path, environment: dict[str, str], tries: int) -> Iterator[tuple[str, float]]:
    """Press while a bare planner drives the shipped robot."""
    robot, speed, _ = ROBOTS["the shipped robot"]
    planners = Planners(folder, environment, speed)
    try:
        with guard_bench(folder, environment, plans=False, robot=robot) as (arm, _, _):
            arm.wait(lambda: bool(arm.states) and arm.states[-1].get("command", "") != "", "a planner")
            for number in range(3 * tries):
                rearm(arm, speed)
                if number % 3 == 0:
                    yield "the planner runs", press(arm)
                elif number % 3 == 1:
                    planners.process.send_signal(signal.SIGSTOP)
                    yield "the planner is suspended", press(arm)
                    planners.process.send_signal(signal.SIGCONT)
                else:
                    planners.process.kill()
                    yield "the planner was killed", press(arm)
                    planners.restart()
    finally:
        planners.close()


def presses_beside_policy(folder: Path, environment: dict[str, str], tries: int) -> Iterator[tuple[str, float]]:
    """Press while the policy node, with a policy that does as told, is busy in a way that it cannot interrupt."""
    commands = {"the policy holds Python's lock": f"lock {LOCK_S}", "the policy reads a command of 20 MB": LONG_COMMAND}
    files = (
        write_checkpoint(folder),
        write_robot(folder, limits=dataclasses.asdict(SHIPPED), command_hz=1 / GUARD_PERIOD_S),
    )
    robot = FakeRobot(int(environment["ROS_DOMAIN_ID"]))
    try:
        with policy_node(*files, environment, resume_within_s=1.0):
            robot.wait_state("waiting", "no_command")
            for _, (name, command) in itertools.product(range(tries), commands.items()):
                yield name, _press_beside(robot, command)
    finally:
        robot.close()


def _press_beside(robot: FakeRobot, command: str) -> float:
    """Return the time from the press to the last twist that moves the arm [ms], soon after `command`."""
    # The policy begins with it within a period (50 ms); the arm moves until its last heartbeat is too old.
    earliest_s, latest_s = (0.08, 0.15) if command is not LONG_COMMAND else (0.0, 0.03)
    while True:
        robot.idle()
        robot.say(f"move {POLICY_SPEED}")
        robot.wait_moving(POLICY_SPEED)
        robot.say(command)
        time.sleep(float(np.random.default_rng().uniform(earliest_s, latest_s)))
        moves, pressed_s = robot.twists[-1].linear_x != 0.0, time.monotonic()
        robot.press(True)
        robot.wait(lambda: robot.twists[-1].linear_x == 0.0, "a zero twist")
        time.sleep(0.05)
        if moves:  # otherwise it stood already: that tells nothing
            return max(0.0, *(twist.received_s - pressed_s for twist in robot.twists if twist.linear_x)) * 1e3


def kills(name: str, folder: Path, environment: dict[str, str], tries: int) -> Iterator[tuple[float, float]]:
    """Kill a bare planner that drives a robot of ROBOTS; yield when the stop begins, and how long it takes [ms]."""
    robot, speed, _ = ROBOTS[name]
    planners = Planners(folder, environment, speed)
    try:
        with guard_bench(folder, environment, plans=False, robot=robot) as (arm, _, _):
            arm.wait(lambda: bool(arm.states) and arm.states[-1].get("command", "") != "", "a planner")
            for _ in range(tries):
                rearm(arm, speed)
                yield kill(arm, planners.process, speed)
                arm.wait_state("disarmed")
                planners.restart()
    finally:
        planners.close()


def row(what: str, values_ms: Sequence[float], bound_ms: float) -> tuple[str, ...]:
    """Return a row of COLUMNS."""
    p50, p99, worst = np.percentile(values_ms, [50, 99, 100])
    within = sum(value <= bound_ms for value in values_ms)
    return (what, str(len(values_ms)), f"{p50:.1f}", f"{p99:.1f}", f"{worst:.1f}", f"{bound_ms:.0f}", str(within))


def table(
    pressed: Mapping[str, Sequence[float]], killed: Mapping[str, Sequence[tuple[float, float]]]
) -> list[tuple[str, ...]]:
    """Return the rows: presses by condition, then kills by robot."""
    rows = [row("press to zero", list(itertools.chain(*pressed.values())), PRESS_BOUND_MS)]
    rows += [row(f"press to zero: {name}", values, PRESS_BOUND_MS) for name, values in pressed.items()]
    for name, values in killed.items():
        stop_bound_ms = 1e3 * (ROBOTS[name][2] + 2 * GUARD_PERIOD_S)
        begins, takes = zip(*values, strict=True)
        rows.append(row(f"kill -9 to the begin of the stop: {name}", begins, BEGIN_BOUND_MS))
        rows.append(row(f"duration of the stop: {name}", takes, stop_bound_ms))
    return rows


def holds(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the p99 of all presses is within its bound, and every stop after a kill."""
    every, kill_rows = rows[0], [each for each in rows if not each[0].startswith("press")]
    return float(every[3]) <= PRESS_BOUND_MS and all(each[1] == each[6] for each in kill_rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200, help="of presses, and of kills (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    domain_id, _lock = claim_domain_id()
    environment = {**os.environ, **transport.environment(), "ROS_DOMAIN_ID": str(domain_id)}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.update(environment)
    pressed: dict[str, list[float]] = {}
    each = -(-arguments.tries // 5)  # conditions
    with tempfile.TemporaryDirectory() as folder:
        for run in (presses, presses_beside_policy):
            for name, value_ms in run(Path(folder), environment, each):
                pressed.setdefault(name, []).append(value_ms)
                print(f"press, {name}: {value_ms:.1f} ms", flush=True)
        killed: dict[str, list[tuple[float, float]]] = {name: [] for name in ROBOTS}
        for name, values in killed.items():
            for begins_ms, takes_ms in kills(name, Path(folder), environment, -(-arguments.tries // len(ROBOTS))):
                values.append((begins_ms, takes_ms))
                print(f"kill, {name}: begins after {begins_ms:.1f} ms, takes {takes_ms:.1f} ms", flush=True)
    rows = table(pressed, killed)
    for line in (COLUMNS, *rows):
        print("{:<56} {:>6} {:>9} {:>9} {:>8} {:>6} {:>7}".format(*line))
    if arguments.json:
        figures.write(
            arguments.json,
            title="Emergency stops, and planners that die",
            runs=arguments.tries,
            columns=COLUMNS,
            rows=rows,
            note=f"The guard at {1 / GUARD_PERIOD_S:g} Hz with a moving arm, over DDS; times as another process sees "
            "them. The stop begins with the last twist at full speed and ends with the last one that "
            f"moves the arm. Bounds: {PRESS_BOUND_MS:g} ms; the heartbeat's age and two periods of the guard; the "
            "stopping time of the robot's limits and two periods.",
            details={"press_ms": pressed, "kill_ms": killed},
        )
    return 0 if holds(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
