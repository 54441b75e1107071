# SPDX-License-Identifier: Apache-2.0
"""How smoothly does the arm move if the guard commands it faster than the policy plans?

Rollouts over ROS on the simulated arm, as in `vla demo`, with the shipped policy at 10 Hz: once with the guard at
100 Hz, which interpolates between the policy's ticks, and once with the guard at 10 Hz, whose twists are steps. One
scene of each task in turns with both. The commanded acceleration is what an arm sees that holds each twist until the
next one, sampled at 100 Hz; without twists it stands still.

    python benchmarks/smoothness.py --rollouts 10 --json benchmarks/results/smoothness.json
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import numpy as np
import yaml
from hearing import arm, hearing

from vla_ros import bringup, resources, transport
from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.isolation import isolate
from vla_ros.commands.ros.process_group import ProcessGroup

# The guard's rates to compare [Hz].
RATES = {"interpolated": 100.0, "stepped": 10.0}
SAMPLE_NS = 10_000_000
# As the simulated arm, which stops when commands cease.
HOLD_NS = 200_000_000
STOP_TIMEOUT_S = 5.0
COLUMNS = ("guard", "linear acceleration, RMS [m/s²]", "angular, RMS [rad/s²]", "success", "mean time [s]")


@dataclasses.dataclass
class Driven:
    """Rollouts with one rate: accelerations (n, 6) of each, whether it succeeded, and its duration [s]."""

    accelerations: list[np.ndarray] = dataclasses.field(default_factory=list)
    successes: list[bool] = dataclasses.field(default_factory=list)
    times_s: list[float] = dataclasses.field(default_factory=list)

    def rms(self) -> tuple[float, float]:
        """Return the RMS of the linear and of the angular acceleration over all rollouts."""
        everything = np.concatenate(self.accelerations)
        linear, angular = (
            np.sqrt((everything[:, part] ** 2).sum(axis=1).mean()) for part in (slice(0, 3), slice(3, 6))
        )
        return float(linear), float(angular)

    def row(self, name: str) -> tuple[str, ...]:
        linear, angular = self.rms()
        won = f"{sum(self.successes)}/{len(self.successes)}"
        times_s = [time_s for time_s, success in zip(self.times_s, self.successes, strict=True) if success]
        mean_s = f"{np.mean(times_s):.2f}" if times_s else "-"
        return f"{RATES[name]:g} Hz, {name}", f"{linear:.3f}", f"{angular:.3f}", won, mean_s


def accelerations(stamps_ns: Sequence[int], twists: np.ndarray) -> np.ndarray:
    """Return the commanded acceleration (n, 6) in each period of SAMPLE_NS of an arm that holds twists (m, 6)."""
    if not len(stamps_ns):
        return np.empty((0, 6))
    # A guard ticks on multiples of its period, a little late, so that rounding down undoes its jitter.
    slots = np.asarray(stamps_ns) // SAMPLE_NS
    held = HOLD_NS // SAMPLE_NS
    samples = np.arange(slots[0] - 1, slots[-1] + held + 1)
    newest = np.searchsorted(slots, samples, side="right") - 1
    is_held = (newest >= 0) & (samples - slots[newest] < held)
    return np.diff(np.where(is_held[:, None], twists[newest], 0.0), axis=0) / (SAMPLE_NS / 1e9)


def wait_until_it_stands(client: Any) -> None:
    """Wait for the end of the stop that ends a rollout, and for its last twist."""
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while client.guard_state()["state"] in ("running", "stopping"):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the arm does not stand {STOP_TIMEOUT_S:g} s after a rollout: {client.guard_state()}")
        time.sleep(0.02)
    time.sleep(0.1)


def drive(name: str, rollouts: Sequence[ros_evaluation.ScheduledRollout], folder: Path, driven: Driven) -> None:
    """Run rollouts with new nodes."""
    from geometry_msgs.msg import TwistStamped  # not before the environment is set: rclpy reads it once

    from vla_ros.nodes.clients.rollouts import RolloutClient
    from vla_ros.observations import messages

    heard: list[tuple[int, list[float]]] = []

    def hear(message: Any) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        twist = [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
        heard.append((messages.stamp_ns(message), twist))

    robot = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    robot_file = folder / f"{name}.yaml"
    robot_file.write_text(yaml.safe_dump({**robot, "command_hz": RATES[name]}))
    policy = bringup.policy(str(resources.path(bringup.CHECKPOINT)), robot=str(robot_file), arm_on_start=True)
    with ProcessGroup(folder) as group:
        group.start(bringup.simulator(), *policy)
        with RolloutClient("", watch=False) as client, hearing(TwistStamped, "twist_command", hear) as node:
            ros_evaluation.wait_for_policy(client, "", group.check)
            for planned in rollouts:
                heard.clear()
                done = client.rollout(
                    planned.task, planned.seed, planned.command, ros_evaluation.TIME_LIMIT_S, check=group.check
                )
                wait_until_it_stands(client)
                moved = list(heard)
                twists = np.array([twist for _, twist in moved]).reshape(-1, 6)
                driven.accelerations.append(accelerations([stamp_ns for stamp_ns, _ in moved], twists))
                driven.successes.append(done.success)
                driven.times_s.append(done.time_s)
                outcome = f"success {done.time_s:4.1f} s" if done.success else "failed"
                print(f"  {name:<13} {planned.task:<18} {outcome}", flush=True)
                if client.guard_state()["armed"] == "False":
                    print(f"  {name}: disarmed by {client.guard_state()['detail']}", flush=True)
                    arm(node)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts per task and rate (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", default=["all"], metavar="NAME", help="task names, or all (default)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    isolate()
    os.environ.update(transport.environment(), OMP_NUM_THREADS="1")
    driven = {name: Driven() for name in RATES}
    schedule = ros_evaluation.schedule(arguments.tasks, arguments.rollouts, "held-out")
    with tempfile.TemporaryDirectory() as scratch:
        for seed in sorted({rollout.seed for rollout in schedule}):
            for name in RATES:
                drive(name, [each for each in schedule if each.seed == seed], Path(scratch) / name, driven[name])
    rows = [driven[name].row(name) for name in RATES]
    for row in rows:
        print("{:<22} {:>8} m/s^2 {:>8} rad/s^2 {:>8} {:>8} s".format(*row))
    smooth, stepped = (driven[name].rms() for name in RATES)
    ratios = [round(one / other, 3) for one, other in zip(smooth, stepped, strict=True)]
    print(f"interpolated / stepped: linear {ratios[0]:g}, angular {ratios[1]:g}")
    if arguments.json:
        figures.write(
            arguments.json,
            title="Smoothness: commanded acceleration with a faster guard",
            runs=len(schedule),
            columns=COLUMNS,
            rows=rows,
            note="The shipped policy at 10 Hz on the simulated arm over ROS, in the same scenes; the commanded "
            f"acceleration of an arm that holds each twist until the next one, sampled at {1e9 / SAMPLE_NS:g} Hz. "
            f"Interpolated / stepped: linear {ratios[0]:g}, angular {ratios[1]:g}.",
            details={"ratios": ratios},
        )


if __name__ == "__main__":
    main()
