# SPDX-License-Identifier: Apache-2.0
"""What the policy node adds between a camera stamp and a twist, and how steady its twists are, against bare nodes.

Two raw 640x480 cameras at 30 Hz, pose and joint states come from one process, the policy node runs at 50 Hz in another,
with a policy that costs nothing and with a real checkpoint, and a third receives the twists. Interleaved with it: a
relay (image in, twist out, nothing else), and a bare timer node next to a process that runs the checkpoint's inference.

    python benchmarks/latency.py --json benchmarks/results/latency.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import figures
import numpy as np
import yaml
from latency_processes import CAMERA_HZ, CAMERAS, CODES, CONTROL_HZ, ROLES, take_role

from vla_ros import resources, topics, transport
from vla_ros.contract import PolicyContract

SETTLE_S = 0.01
PERIOD_MS = 1e3 / CONTROL_HZ
WARM_UP_S, START_S = 2.0, 120.0
COLUMNS = ("quantity", "p50 [ms]", "p99 [ms]")


@contextlib.contextmanager
def process(role: str, *arguments: str, ros: Sequence[str] = ()) -> Iterator[None]:
    """Run this script in a role, in a process that is stopped with SIGTERM."""
    command = [sys.executable, __file__, "--role", role, *arguments, *ros]
    with tempfile.TemporaryFile("w+") as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
            if started.poll() is not None:
                raise RuntimeError(f"the process of {role} has ended with status {started.returncode}")
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}; the end of the log of {role}:\n{log.read()[-2000:]}") from None
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20.0)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


@dataclasses.dataclass
class Heard:
    """What a listener received: stamp, code and frame of each twist, and the node's newest state."""

    stamps_ns: list[int] = dataclasses.field(default_factory=list)
    codes: list[int] = dataclasses.field(default_factory=list)
    frames: list[str] = dataclasses.field(default_factory=list)
    state: dict = dataclasses.field(default_factory=dict)


def listen(seconds: float) -> Heard:
    """Send a command, wait for twists, and record `seconds` of them after a warm-up."""
    import rclpy
    from geometry_msgs.msg import TwistStamped
    from std_msgs.msg import String

    from vla_ros.nodes.common.qos import LATCHED_QOS
    from vla_ros.observations import messages

    rclpy.init()
    node, heard = rclpy.create_node("listener"), Heard()

    def keep(message: TwistStamped) -> None:
        heard.stamps_ns.append(messages.stamp_ns(message))
        heard.codes.append(round(1e3 * message.twist.linear.x))
        heard.frames.append(message.header.frame_id)

    node.create_subscription(TwistStamped, "twist_command", keep, 1000)
    node.create_subscription(
        String, topics.POLICY_STATE, lambda text: heard.state.update(json.loads(text.data)), LATCHED_QOS
    )
    node.create_publisher(String, topics.LANGUAGE_COMMAND, LATCHED_QOS).publish(String(data="go"))
    try:
        deadline_s = time.monotonic() + START_S
        while not heard.stamps_ns:
            rclpy.spin_once(node, timeout_sec=0.1)
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"no twist within {START_S:g} s; the policy's state: {heard.state or 'none'}")
        for duration_s in (WARM_UP_S, seconds):
            heard.stamps_ns.clear(), heard.codes.clear(), heard.frames.clear()
            end_s = time.monotonic() + duration_s
            while time.monotonic() < end_s:
                rclpy.spin_once(node, timeout_sec=0.05)
        return heard
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def bench_files(folder: Path, checkpoint: Path) -> list[str]:
    """Return ROS arguments for a policy node at 50 Hz on raw cameras, with limits that leave twists unchanged."""
    contract = PolicyContract.load(checkpoint / "contract.json")
    timing = dataclasses.replace(contract.timing, control_hz=CONTROL_HZ, settle_s=SETTLE_S)
    dataclasses.replace(contract, timing=timing).save(folder / "contract.json")
    robot = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    for name in CAMERAS:
        robot["cameras"][name].update(topic=f"camera/{name}/image_raw", type="sensor_msgs/msg/Image")
    wide = {"2": 1e6, "3": 1e9}  # by the end of the name: acceleration, jerk
    robot["limits"] = {
        **{name: wide.get(name[-1], 10.0) for name in robot["limits"]},
        "workspace_min_m": [-100.0] * 3,
        "workspace_max_m": [100.0] * 3,
    }
    (folder / "robot.yaml").write_text(yaml.safe_dump(robot))
    given = {"checkpoint": folder, "robot": folder / "robot.yaml", "autostart": "true", "arm_on_start": "true"}
    return ["--ros-args", *(part for name, value in given.items() for part in ("-p", f"{name}:={value}"))]


def relayed_ms(seconds: float) -> list[float]:
    """Measure from image stamp to the relay's twist."""
    with process("cameras"), process("relay"):
        heard = listen(seconds)
    return [(stamp_ns - int(frame)) / 1e6 for stamp_ns, frame in zip(heard.stamps_ns, heard.frames)]


def policy_ms(seconds: float, arguments: Sequence[str], checkpoint: str, folder: Path) -> dict[str, list[float]]:
    """Measure what the node adds to grid and model, the total from stamp to twist, and the twist intervals."""
    trace = folder / "trace.json"
    with process("cameras"), process("policy", "--checkpoint", checkpoint, "--trace", str(trace), ros=arguments):
        heard = listen(seconds)
    added, whole = answers_ms(heard, json.loads(trace.read_text()))
    jitter = list(np.abs(np.diff(heard.stamps_ns) / 1e6 - PERIOD_MS))
    ticks = heard.state["ticks"]
    return {"added": added, "whole": whole, "jitter": jitter, "missed": [ticks["missed"]], "ticks": [ticks["total"]]}


def answers_ms(heard: Heard, trace: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
    """Return, for each twist, how late observation and twist were on the grid, and the time from the image stamp.

    What is left out of the first is what the grid and the model take: an observation is due `SETTLE_S` after its tick,
    and its twist with the next tick after the model is done.
    """
    period_ns, settle_ns = round(1e9 / CONTROL_HZ), round(1e9 * SETTLE_S)
    by_code: dict[int, list[Sequence[int]]] = {}
    for plan in trace:
        by_code.setdefault(plan[0] % CODES, []).append(plan)
    added, whole = [], []
    for stamp_ns, code in zip(heard.stamps_ns, heard.codes):
        # Codes come again: of the plans with this one, the newest before the twist is meant.
        before = [plan for plan in by_code.get(code, []) if plan[0] * period_ns <= stamp_ns]
        if before:
            tick, camera_ns, begun_ns, _ = before[-1]
            twist_late_ns = abs(stamp_ns - round(stamp_ns / period_ns) * period_ns)
            added.append((begun_ns - tick * period_ns - settle_ns + twist_late_ns) / 1e6)
            whole.append((stamp_ns - camera_ns) / 1e6)
    return added, whole


def timer_ms(seconds: float, checkpoint: str, folder: Path) -> list[float]:
    """Measure a bare timer's deviation from its period, next to cameras and inference."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    with process("cameras"), process("load", "--checkpoint", checkpoint, "--trace", str(ready)):
        deadline_s = time.monotonic() + START_S
        while not ready.exists():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"no inference within {START_S:g} s")
            time.sleep(0.1)
        with process("timer"):
            heard = listen(seconds)
    return list(np.abs(np.diff(heard.stamps_ns) / 1e6 - PERIOD_MS))


def run(arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Run all scenarios in turns; return the values of each figure, run by run."""
    results: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ros = bench_files(folder, Path(arguments.checkpoint))
        for number in range(arguments.runs):
            print(f"run {number + 1} of {arguments.runs}", flush=True)
            results.setdefault("relay", []).append(relayed_ms(arguments.seconds))
            for name, checkpoint in (("no cost", ""), ("checkpoint", arguments.checkpoint)):
                for figure, values in policy_ms(arguments.seconds, ros, checkpoint, folder).items():
                    results.setdefault(f"{name}: {figure}", []).append(values)
            results.setdefault("timer", []).append(timer_ms(arguments.seconds, arguments.checkpoint, folder))
    return results


def table(results: dict[str, list[list[float]]]) -> list[tuple[str, str, str]]:
    """Return the medians over the runs of each run's percentiles."""

    def row(what: str, figure: str) -> tuple[str, str, str]:
        shares = [np.percentile(values, [50, 99]) for values in results[figure]]
        p50, p99 = (statistics.median(column) for column in zip(*shares))
        return what, f"{p50:.2f}", f"{p99:.2f}"

    def missed(name: str) -> tuple[str, str, str]:
        counts = [sum(map(sum, results[f"{name}: {figure}"])) for figure in ("missed", "ticks")]
        return f"ticks missed: {name}", f"{counts[0]:.0f} of {counts[1]:.0f}", ""

    return [
        row("camera stamp to twist: bare relay", "relay"),
        row("added by the policy node, beyond grid and model: no cost", "no cost: added"),
        row("added by the policy node, beyond grid and model: checkpoint", "checkpoint: added"),
        row("camera stamp to twist, total: no cost", "no cost: whole"),
        row("camera stamp to twist, total: checkpoint", "checkpoint: whole"),
        row("deviation of the twist interval: bare timer next to inference", "timer"),
        row("deviation of the twist interval: checkpoint", "checkpoint: jitter"),
        missed("no cost"),
        missed("checkpoint"),
    ]


def main() -> int:
    given = sys.argv[1:]
    at = given.index("--ros-args") if "--ros-args" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each measurement (default: 60)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved repetitions (default: 5)")
    shipped = str(resources.path("config/checkpoints/tabletop"))
    parser.add_argument("--checkpoint", default=shipped, help="checkpoint folder (default: the shipped one)")
    parser.add_argument("--json", type=Path, help="results file")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--trace", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given[:at])
    if arguments.role:
        return take_role(arguments, given[at:])
    from vla_ros.commands.ros.isolation import isolate

    isolate()
    os.environ.update(transport.environment(), OMP_NUM_THREADS="1")
    rows = table(run(arguments))
    for row in rows:
        print("{:<66} {:>14} {:>8}".format(*row))
    if arguments.json:
        figures.write(
            arguments.json, title="Latency and jitter of the policy node", runs=arguments.runs,
            columns=COLUMNS, rows=rows,
            note=f"Two raw 640x480 cameras at {CAMERA_HZ:g} Hz, the node at {CONTROL_HZ:g} Hz, with a policy that "
            f"costs nothing and with the shipped checkpoint; interleaved, {arguments.seconds:g} s each, medians "
            f"over the runs. Grid and model: an observation is due {1e3 * SETTLE_S:g} ms after its tick, its twist "
            "at the next tick after the model is done.",
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
