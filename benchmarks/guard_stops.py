# SPDX-License-Identifier: Apache-2.0
"""How soon the guard stops the arm: an emergency stop, and a planner that dies, each tried many times over DDS.

    python benchmarks/guard_stops.py [--tries 200] [--json FILE]

Press to zero: from publishing the press to the arrival of the last twist that moves the arm, while the planner runs, is
suspended or was just killed. Kill to stop: from `kill -9` to the last twist at full speed (when the stop begins) and to
the last twist that moves the arm (when it ends). A try in which the machine itself held up the guard is counted, too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "support"))

from guard_bench import FakeArm, guard_bench, planner

from vla_ros import transport
from vla_ros.commands.ros.isolation import claim_domain_id

SPEED = 0.05
CONDITIONS = ("planner runs", "planner is suspended", "planner was killed")
HEARTBEAT_MAX_AGE_S, GUARD_PERIOD_S = 0.2, 0.01


def rearm(arm: FakeArm) -> None:
    """Bring the arm back to motion."""
    arm.press(False)
    deadline_s = time.monotonic() + 10.0
    while not arm.reset().success:  # the release may still be on its way
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert arm.arm().success
    arm.wait_moving(SPEED)


def press(arm: FakeArm) -> float:
    """Return the time from the press to the last twist that moves the arm [ms]."""
    time.sleep(float(np.random.default_rng().uniform(0.0, 0.1)))
    pressed_s = time.monotonic()
    arm.press(True)
    arm.wait_standing()
    time.sleep(0.05)
    return max(0.0, arm.last_motion_s() - pressed_s) * 1e3


def kill(arm: FakeArm, process) -> tuple[float, float]:
    """Return the times from kill -9 to where the stop begins and to where it ends [ms]."""
    killed_s = time.monotonic()
    process.kill()
    process.wait()
    arm.wait_standing()
    time.sleep(0.05)
    full = max(twist.received_s for twist in arm.twists if abs(twist.linear_x - SPEED) < 1e-6)
    return (full - killed_s) * 1e3, (arm.last_motion_s() - killed_s) * 1e3


def summary(values_ms: list[float]) -> dict[str, float]:
    return {name: round(float(np.percentile(values_ms, q)), 2) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    domain_id, _lock = claim_domain_id()
    environment = {**os.environ, **transport.environment(), "ROS_DOMAIN_ID": str(domain_id)}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.update(environment)
    presses: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    kills: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, guard_bench(Path(folder), environment, plans=False) as (arm, _, _):
        plans = planner(environment, SPEED)
        try:
            arm.wait_state("disarmed")
            arm.wait(lambda: arm.states[-1]["command"] != "", "a planner")
            for number in range(arguments.tries):
                rearm(arm)
                if number % 4 == 1:
                    plans.send_signal(signal.SIGSTOP)
                    presses["planner is suspended"].append(press(arm))
                    plans.send_signal(signal.SIGCONT)
                elif number % 4 == 3:
                    plans.kill()
                    presses["planner was killed"].append(press(arm))
                    plans.wait()
                    plans = planner(environment, SPEED)
                else:
                    presses["planner runs"].append(press(arm))
                arm.twists.clear()
            for _ in range(arguments.tries):
                rearm(arm)
                kills.append(kill(arm, plans))
                arm.wait_state("disarmed")
                plans = planner(environment, SPEED)
                arm.twists.clear()
        finally:
            plans.kill()
            plans.wait()
    begins, ends = ([each[index] for each in kills] for index in (0, 1))
    bound_ms = 1e3 * (HEARTBEAT_MAX_AGE_S + 2 * GUARD_PERIOD_S)
    report = {
        "press_to_zero_ms": {"all": summary([value for values in presses.values() for value in values])}
        | {k: summary(v) for k, v in presses.items()},
        "kill_to_stop_begins_ms": summary(begins) | {"within_bound": sum(value <= bound_ms for value in begins)},
        "kill_to_stop_ends_ms": summary(ends),
        "tries": arguments.tries,
    }
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
