# SPDX-License-Identifier: Apache-2.0
"""What policy and guard add between a camera stamp and a twist, and how steady the guard ticks, against bare nodes.

Two raw 640x480 cameras at 30 Hz, pose and joint states come from one process, the policy node plans at 50 Hz in
another, with a policy that costs nothing and with a real checkpoint, and the guard sends twists at 100 Hz from a third.
Interleaved with it: two bare relays (image in, plan out; plan in, twist out), alone and next to a process that runs
the checkpoint's inference, and a bare timer at 100 Hz in place of the guard, next to the same cameras and the same
policy node with the checkpoint. What stands in for the guard uses its transport.

Policy and guard work on grids. So that they can be compared with the relays, waiting for a tick and the model's
computation are left out: what counts is how long images, plans and twists take to be received and sent, and how late
observation and twist are on their grids.

    python benchmarks/latency.py --json benchmarks/results/latency.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import figures
import numpy as np
import yaml
from latency_processes import CAMERA_HZ, CAMERAS, COMMAND_HZ, CONTROL_HZ, ROLES, take_role

from vla_ros import resources, topics, transport
from vla_ros.contract import PolicyContract

SETTLE_S = 0.01
SETTLE_NS = round(1e9 * SETTLE_S)
CONTROL_NS = round(1e9 / CONTROL_HZ)
WARM_UP_S, START_S = 2.0, 120.0
COLUMNS = ("quantity", "p50", "p99")
POLICIES = ("no cost", "checkpoint")
RELAYED = ("relay: image", "relay: plan")
PARTS = ("image received", "observation", "plan received", "twist")


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
    """What a listener received: stamp and frame of each twist, and the newest states of policy and guard."""

    stamps_ns: list[int] = dataclasses.field(default_factory=list)
    frames: list[str] = dataclasses.field(default_factory=list)
    states: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def state(self, topic: str) -> str:
        return self.states.get(topic, {}).get("state", "")


def listen(seconds: float, *, with_policy: bool) -> Heard:
    """Wait for twists, and record `seconds` of them after a warm-up; first command the policy, if there is one."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticStatus
    from geometry_msgs.msg import TwistStamped
    from std_msgs.msg import String

    from vla_ros.nodes.common.qos import LATCHED_QOS
    from vla_ros.observations import messages

    rclpy.init()
    node, heard = rclpy.create_node("listener"), Heard()

    def keep(message: TwistStamped) -> None:
        heard.stamps_ns.append(messages.stamp_ns(message))
        heard.frames.append(message.header.frame_id)

    def keep_state(topic: str, message: DiagnosticStatus) -> None:
        heard.states[topic] = {pair.key: pair.value for pair in message.values}

    node.create_subscription(TwistStamped, "twist_command", keep, 1000)
    for topic in (topics.POLICY_STATE, topics.GUARD_STATE):
        node.create_subscription(
            DiagnosticStatus, topic, lambda message, topic=topic: keep_state(topic, message), LATCHED_QOS
        )
    language = node.create_publisher(String, topics.LANGUAGE_COMMAND, LATCHED_QOS)

    def wait(condition, what: str) -> None:
        deadline_s = time.monotonic() + START_S
        while not condition():
            rclpy.spin_once(node, timeout_sec=0.1)
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"no {what} within {START_S:g} s; states: {heard.states or 'none'}")

    try:
        if with_policy:
            wait(lambda: heard.state(topics.POLICY_STATE) == "active", "active policy")
            language.publish(String(data="go"))
            wait(lambda: heard.states[topics.POLICY_STATE]["plans"] != "0", "plan")
        wait(lambda: heard.stamps_ns, "twist")
        for duration_s in (WARM_UP_S, seconds):
            heard.stamps_ns.clear(), heard.frames.clear()
            end_s = time.monotonic() + duration_s
            while time.monotonic() < end_s:
                rclpy.spin_once(node, timeout_sec=0.05)
        return heard
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


@dataclasses.dataclass(frozen=True)
class Files:
    """A contract at 50 Hz, and the shipped robot with raw cameras and a pose that stands still."""

    folder: Path
    chunk: int

    @classmethod
    def write(cls, folder: Path, checkpoint: Path) -> Files:
        contract = PolicyContract.load(checkpoint / "contract.json")
        timing = dataclasses.replace(contract.timing, control_hz=CONTROL_HZ, settle_s=SETTLE_S)
        dataclasses.replace(contract, timing=timing).save(folder / "contract.json")
        robot = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
        for name in CAMERAS:
            robot["cameras"][name].update(topic=f"camera/{name}/image_raw", type="sensor_msgs/msg/Image")
        robot["command_hz"] = COMMAND_HZ
        robot["unchecked"] = ["arm_not_following", "pose_frozen"]
        (folder / "robot.yaml").write_text(yaml.safe_dump(robot))
        return cls(folder, timing.chunk)

    def trace(self, role: str) -> Path:
        return self.folder / f"{role}.json"

    def policy(self, checkpoint: str) -> contextlib.AbstractContextManager[None]:
        """Run the policy node, with a policy that costs nothing or with the `checkpoint`'s."""
        return self._node("policy", ("--checkpoint", checkpoint), checkpoint=self.folder)

    def guard(self) -> contextlib.AbstractContextManager[None]:
        return self._node("guard", (), arm_on_start="true")

    def _node(
        self, role: str, arguments: Sequence[str], **parameters: object
    ) -> contextlib.AbstractContextManager[None]:
        given = {"robot": self.folder / "robot.yaml", "autostart": "true", **parameters}
        assignments = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
        ros = ["--ros-args", "-r", f"__node:={role}", *assignments]
        return process(role, "--trace", str(self.trace(role)), *arguments, ros=ros)


def relayed_ms(seconds: float, files: Files, checkpoint: str) -> dict[str, list[float]]:
    """Measure from image stamp to the second relay's twist, next to inference of the `checkpoint` if there is one."""
    with contextlib.ExitStack() as running:
        if checkpoint:
            ready = files.trace("load")
            ready.unlink(missing_ok=True)
            running.enter_context(process("load", "--checkpoint", checkpoint, "--trace", str(ready)))
            deadline_s = time.monotonic() + START_S
            while not ready.exists():
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"no inference within {START_S:g} s")
                time.sleep(0.1)
        for role, *given in (("cameras",), ("first_relay", "--chunk", str(files.chunk)), ("second_relay",)):
            running.enter_context(process(role, *given))
        heard = listen(seconds, with_policy=False)
    return hops_ms(heard)


def hops_ms(heard: Heard) -> dict[str, list[float]]:
    """Return the time from an image's stamp to the twist of the relays, and that of each of the two hops."""
    found: dict[str, list[float]] = {name: [] for name in ("relay", *RELAYED)}
    for twist_ns, frame in zip(heard.stamps_ns, heard.frames, strict=True):
        image_ns, plan_ns = map(int, frame.split())
        for name, time_ns in zip(found, (twist_ns - image_ns, plan_ns - image_ns, twist_ns - plan_ns), strict=True):
            found[name].append(time_ns / 1e6)
    return found


def policy_ms(seconds: float, files: Files, checkpoint: str) -> dict[str, list[float]]:
    """Measure the path through policy and guard, its total duration, and the deviation of the guard's intervals."""
    with process("cameras"), files.guard(), files.policy(checkpoint):
        heard = listen(seconds, with_policy=True)
    if heard.state(topics.GUARD_STATE) != "running":
        raise RuntimeError(f"the arm stopped: {heard.states[topics.GUARD_STATE]}")
    steps, executed = (json.loads(files.trace(role).read_text()) for role in ("policy", "guard"))
    ticks = heard.states[topics.GUARD_STATE]
    counts = {"missed": [float(ticks["ticks missed"])], "ticks": [float(ticks["ticks total"])]}
    return {**answers_ms(steps, executed, heard.stamps_ns[0]), "jitter": deviations_ms(heard.stamps_ns), **counts}


def answers_ms(steps: Sequence[Sequence], executed: Sequence[Sequence[int]], from_ns: int) -> dict[str, list[float]]:
    """Return the times of each image that an executed plan answers.

    `whole`: from its stamp to the twist; `path`: the same without waiting for ticks and without the model, which is the
    sum of PARTS: the image is received, observed late, its plan received, and its twist sent late.

    Args:
        steps: Of the policy: tick, stamp and receipt of each image, begin and end of the step [ns].
        executed: By the guard: tick that the plan answers, receipt, tick that executes it first, its twist [ns].
        from_ns: What was executed before is the warm-up.
    """
    by_tick = {tick_ns: rest for tick_ns, *rest in steps}
    found: dict[str, list[float]] = {name: [] for name in (*PARTS, "path", "whole")}
    for tick_ns, heard_ns, executing_ns, sent_ns in executed:
        if sent_ns < from_ns or tick_ns not in by_tick:
            continue
        images, begun_ns, done_ns = by_tick[tick_ns]
        # The plan moves the arm from the next tick of the policy on, or at once if the guard was late for this one.
        at_once = executing_ns // CONTROL_NS * CONTROL_NS <= heard_ns
        due_ns = heard_ns if at_once else -(-heard_ns // CONTROL_NS) * CONTROL_NS
        for stamp_ns, received_ns in images:
            times_ns = received_ns - stamp_ns, begun_ns - tick_ns - SETTLE_NS, heard_ns - done_ns, sent_ns - due_ns
            for name, time_ns in zip(found, (*times_ns, sum(times_ns), sent_ns - stamp_ns), strict=True):
                found[name].append(time_ns / 1e6)
    return found


def deviations_ms(stamps_ns: Sequence[int]) -> list[float]:
    """Return how far each interval between two twists is from the guard's period."""
    return list(np.abs(np.diff(stamps_ns) / 1e6 - 1e3 / COMMAND_HZ))


def timer_ms(seconds: float, files: Files, checkpoint: str) -> list[float]:
    """Measure a bare timer's deviation from its period, next to cameras and policy."""
    with process("cameras"), files.policy(checkpoint), process("timer"):
        return deviations_ms(listen(seconds, with_policy=True).stamps_ns)


def run(arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Run all scenarios in turns; return the values of each figure, run by run."""
    results: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = Files.write(Path(scratch), Path(arguments.checkpoint))
        for number in range(arguments.runs):
            print(f"run {number + 1} of {arguments.runs}", flush=True)
            for name, checkpoint in zip(POLICIES, ("", arguments.checkpoint)):
                relayed = relayed_ms(arguments.seconds, files, checkpoint)
                for figure, values in {**relayed, **policy_ms(arguments.seconds, files, checkpoint)}.items():
                    results.setdefault(f"{name}: {figure}", []).append(values)
            results.setdefault("timer", []).append(timer_ms(arguments.seconds, files, arguments.checkpoint))
    return results


def table(results: dict[str, list[list[float]]]) -> list[tuple[str, str, str]]:
    """Return the medians over the runs of each run's percentiles, and of their ratios."""

    def percentiles(figure: str) -> np.ndarray:
        return np.array([np.percentile(values, [50, 99]) for values in results[figure]])

    def row(what: str, runs: np.ndarray, unit: str = " ms") -> tuple[str, str, str]:
        p50, p99 = np.median(runs, axis=0)
        return what, f"{p50:.2f}{unit}", f"{p99:.2f}{unit}"

    def missed(name: str) -> tuple[str, str, str]:
        counts = [sum(map(sum, results[f"{name}: {figure}"])) for figure in ("missed", "ticks")]
        return f"guard's ticks missed: {name}", f"{counts[0]:.0f} of {counts[1]:.0f}", ""

    relays, paths, jitter = (
        {name: percentiles(f"{name}: {figure}") for name in POLICIES} for figure in ("relay", "path", "jitter")
    )
    without = "policy and guard, without waiting for ticks and model"
    return [
        row("camera stamp to twist: two bare relays", relays["no cost"]),
        row("camera stamp to twist: two bare relays next to inference", relays["checkpoint"]),
        *(row(f"{without}: {name}", paths[name]) for name in POLICIES),
        *(row(f"the same, added over the relays: {name}", paths[name] - relays[name]) for name in POLICIES),
        *(row(f"the same, times the relays: {name}", paths[name] / relays[name], "") for name in POLICIES),
        *(row(f"camera stamp to twist, total: {name}", percentiles(f"{name}: whole")) for name in POLICIES),
        row("deviation of the twist's interval: bare timer next to inference", percentiles("timer")),
        row("deviation of the twist's interval: guard next to inference", jitter["checkpoint"]),
        row("deviation of the twist's interval: guard next to a policy without cost", jitter["no cost"]),
        *(missed(name) for name in POLICIES),
    ]


def parts(results: dict[str, list[list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Return p50 and p99 of each of RELAYED and PARTS [ms], medians over the runs."""
    return {
        name: {
            part: np.median([np.percentile(run, [50, 99]) for run in results[f"{name}: {part}"]], axis=0)
            .round(2)
            .tolist()
            for part in (*RELAYED, *PARTS)
        }
        for name in POLICIES
    }


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
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--chunk", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given[:at])
    if arguments.role:
        return take_role(arguments, given[at:])
    from vla_ros.commands.ros.isolation import isolate

    isolate()
    os.environ.update(transport.environment(), OMP_NUM_THREADS="1")
    results = run(arguments)
    rows, details = table(results), {"parts": parts(results)}
    print(json.dumps(details, indent=1))
    for row in rows:
        print("{:<74} {:>14} {:>10}".format(*row))
    if arguments.json:
        figures.write(
            arguments.json, title="Latency and jitter of policy and guard", runs=arguments.runs,
            columns=COLUMNS, rows=rows, details=details,
            note=f"Two raw 640x480 cameras at {CAMERA_HZ:g} Hz, the policy at {CONTROL_HZ:g} Hz, with one that costs "
            f"nothing and with the shipped checkpoint, and the guard at {COMMAND_HZ:g} Hz, each in its own process; "
            f"interleaved, {arguments.seconds:g} s each, medians over the runs. The relays are bare nodes that pass on "
            "the same messages: image to plan to twist. Left out where stated: the observation is due "
            f"{1e3 * SETTLE_S:g} ms after its tick, the model computes, and the plan moves the arm from the policy's "
            "next tick on.",
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
