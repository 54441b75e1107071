# SPDX-License-Identifier: Apache-2.0
"""Does anything grow or get lost in a long run? Simulator, policy and guard through ROS, rollout by rollout.

After a warm-up, memory, threads, sockets, open files and shared-memory segments of each process are sampled after each
rollout, and the end is compared with the beginning. Stops are counted by reason, as the guard reports them; only those
between two rollouts are expected. Heartbeats of the policy are counted, too. Exits with status 1 if memory has grown by
more than 1 %, anything else has grown, or the arm stopped for another reason.

    python benchmarks/soak.py --minutes 60 --json benchmarks/results/soak.json
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import figures
import psutil
from hearing import arm, hearing

from vla_ros import bringup, topics, transport
from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.isolation import isolate
from vla_ros.commands.ros.process_group import ProcessGroup, shared_segments

NODES = ("policy_node", "guard_node", "simulator_node")
# A rollout ends with an empty command; between it and the next one there is none, or no chunk for it yet.
EXPECTED_STOPS = frozenset({"no_command", "planning"})
GROWTH_ALLOWED = 0.01
# Of the first and of the last so many looks, the median.
LOOKS = 5
# Of one mapping from one look to the next: worth a line, since a step of that size is easier to explain than a sum.
GROWN_KB = 256
COLUMNS = ("process", "resource", "after warm-up", "at the end")

# Of each resource of each process: at the beginning and at the end.
Compared = dict[str, dict[str, tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class Look:
    """Resources of a process. Anonymous memory is private; the rest are file pages, mostly libraries, which the kernel
    drops and reloads at will."""

    memory_mb: float
    anonymous_mb: float
    threads: int
    sockets: int
    files: int
    segments: int


def look(pid: int) -> Look:
    """Sample a process (Linux)."""
    files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Look(
        memory_mb=kilobytes(status["VmRSS"]) / 1e3,
        anonymous_mb=kilobytes(status["RssAnon"]) / 1e3,
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        sockets=sum(file.startswith("socket:") for file in files),
        files=sum(not file.startswith("socket:") for file in files),
        segments=len(shared_segments(pid)),
    )


def kilobytes(text: str) -> float:
    """What proc_pid_status(5) calls kB, in units of 1000 bytes."""
    return int(text.split()[0]) * 1.024


def mappings(pid: int) -> Counter:
    """The kB in memory of each mapping of a process, by its address and file (proc_pid_smaps(5))."""
    found: Counter = Counter()
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = f"{first.split('-')[0]} {rest[4] if len(rest) > 4 else 'anonymous'}"
        elif first == "Rss:":
            found[name] += int(rest[0])
    return found


def processes() -> dict[str, int]:
    """Return the nodes that this process has started, by name."""
    found = {}
    for child in psutil.Process().children():
        command = child.cmdline()
        found.update({name: child.pid for name in NODES if bringup.NODES[name] in command})
    return found


def stops_of(state: Mapping[str, str]) -> Counter:
    """Return the stops in the guard's state, by reason."""
    return Counter({reason: int(count) for reason, count in re.findall(r"(\w+) (\d+)", state.get("stops", ""))})


class Heartbeats:
    """Counts the policy's heartbeats and notes the longest pause between two [s], as this process hears them."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_pause_s = 0.0
        self._last_s: float | None = None

    def hear(self, _: Any) -> None:
        now_s = time.monotonic()
        if self._last_s is not None:
            self.longest_pause_s = max(self.longest_pause_s, now_s - self._last_s)
        self.count, self._last_s = self.count + 1, now_s


def unexpected(stops: Counter, before: Counter, passed_s: float) -> list[str]:
    """Return when the arm stopped spuriously, and how busy the machine was."""
    new = {reason: count for reason, count in (stops - before).items() if reason not in EXPECTED_STOPS}
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return [
        f"{reason}, {count} times, in the rollout before {passed_s / 60:.1f} min; load per core {load:.1f}"
        for reason, count in new.items()
    ]


def grown(before: Counter, now: Counter) -> list[str]:
    """Return the mappings that have grown by more than GROWN_KB, and by how much."""
    return [f"{name}: +{kb} kB" for name, kb in (now - before).items() if kb > GROWN_KB]


@dataclasses.dataclass
class Run:
    """What happened: looks at each process, stops by reason, those that were not expected, rollouts, heartbeats."""

    looks: dict[str, list[Look]] = dataclasses.field(default_factory=lambda: {name: [] for name in NODES})
    stops: Counter = dataclasses.field(default_factory=Counter)
    events: list[str] = dataclasses.field(default_factory=list)
    rollouts: int = 0
    successes: int = 0
    ticks: str = ""
    heartbeats: Heartbeats = dataclasses.field(default_factory=Heartbeats)

    def count(self, state: Mapping[str, str], passed_s: float) -> None:
        """Take the guard's state."""
        now = stops_of(state)
        for event in unexpected(now, self.stops, passed_s):
            self.events.append(event)
            print(event, flush=True)
        self.stops = now


def soak(minutes: float, warm_up_s: float, folder: Path) -> Run:
    """Run rollouts, one after another."""
    from diagnostic_msgs.msg import DiagnosticStatus  # not before the environment is set: rclpy reads it once

    from vla_ros.nodes.clients.rollouts import RolloutClient

    run, mapped = Run(), dict[str, Counter]()
    with ProcessGroup(folder) as group:
        group.start(*bringup.demo())
        with RolloutClient("", watch=False) as client:
            ros_evaluation.wait_for_policy(client, "", group.check)
            started_s = time.monotonic()
            # Task by task in turns: warming up sees all of them.
            rollouts = sorted(ros_evaluation.schedule(["all"], 10, "held-out"), key=lambda rollout: rollout.seed)
            with hearing(DiagnosticStatus, topics.PLANNER_STATUS, run.heartbeats.hear) as node:
                for rollout in itertools.cycle(rollouts):
                    done = client.rollout(
                        rollout.task, rollout.seed, rollout.command, ros_evaluation.TIME_LIMIT_S, check=group.check
                    )
                    run.rollouts, run.successes = run.rollouts + 1, run.successes + done.success
                    passed_s = time.monotonic() - started_s
                    run.count(client.guard_state(), passed_s)
                    if client.guard_state()["armed"] == "False":
                        arm(node)
                    if passed_s < warm_up_s:
                        continue
                    for name, pid in processes().items():
                        run.looks[name].append(look(pid))
                        before, mapped[name] = mapped.get(name), mappings(pid)
                        if before is not None:
                            for line in grown(before, mapped[name]):
                                print(f"{name}, {line}", flush=True)
                    newest = ", ".join(f"{name} {run.looks[name][-1].anonymous_mb:.1f} MB" for name in NODES)
                    print(f"{passed_s / 60:6.1f} min, {run.rollouts} rollouts, {newest}", flush=True)
                    if passed_s > 60 * minutes:
                        break
            client.wait_for_final_states()
            state = client.guard_state()
            run.count(state, time.monotonic() - started_s)
            run.ticks = f"{state['ticks missed']} of {state['ticks total']}"
    return run


def compare(looks: Sequence[Look]) -> dict[str, tuple[float, float]]:
    """Return the medians of the first and last samples of each resource."""

    def median(name: str, some: Sequence[Look]) -> float:
        return statistics.median(getattr(one, name) for one in some)

    names = [field.name for field in dataclasses.fields(Look)]
    return {name: (median(name, looks[:LOOKS]), median(name, looks[-LOOKS:])) for name in names}


def rows(compared: Compared) -> list[tuple[str, str, str, str]]:
    """Return the table of the comparison."""
    return [
        (process, name.replace("_mb", " [MB]"), f"{before:g}", f"{after:g}")
        for process, figures_of in compared.items()
        for name, (before, after) in figures_of.items()
    ]


def wrong(compared: Compared, stops: Mapping[str, int]) -> list[str]:
    """Return what must not have happened."""
    found = [f"stopped for {reason}: {count} times" for reason, count in stops.items() if reason not in EXPECTED_STOPS]
    for process, figures_of in compared.items():
        for name, (before, after) in figures_of.items():
            allowed = GROWTH_ALLOWED if name.endswith("_mb") else 0.0
            if after > before * (1 + allowed):
                found.append(f"{process}: {name} has grown from {before:g} to {after:g}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration, warm-up included (default: 10)")
    parser.add_argument("--warm-up", type=float, default=120.0, help="seconds before the first sample (default: 120)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    if 60 * arguments.minutes <= arguments.warm_up:
        parser.error(f"--minutes {arguments.minutes:g} ends within --warm-up {arguments.warm_up:g} s; give more")
    isolate()
    os.environ.update(transport.environment(), OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as scratch:
        run = soak(arguments.minutes, arguments.warm_up, Path(scratch))
    compared = {process: compare(looks) for process, looks in run.looks.items()}
    table = rows(compared)
    for row in table:
        print("{:<16} {:<14} {:>16} {:>12}".format(*row))
    failures = wrong(compared, run.stops)
    counted = ", ".join(f"{reason} {count}" for reason, count in run.stops.most_common()) or "none"
    beats = f"{run.heartbeats.count} heartbeats, at most {1e3 * run.heartbeats.longest_pause_s:.0f} ms apart"
    summary = f"{run.successes} of {run.rollouts} rollouts succeeded; {beats}; ticks missed: {run.ticks}"
    print(f"{summary}; stops: {counted}; wrong: {'; '.join(failures) or 'nothing'}")
    if arguments.json:
        figures.write(
            arguments.json, title="Soak test", runs=run.rollouts, columns=COLUMNS, rows=table,
            note=f"Rollouts through ROS for {arguments.minutes:g} minutes; medians of {LOOKS} samples each. {summary}. "
            f"Stops: {counted} (between two rollouts).",
            details={"stops": dict(run.stops), "wrong": failures, "unexpected": run.events},
        )  # fmt: skip
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
