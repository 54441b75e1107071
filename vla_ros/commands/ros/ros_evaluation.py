# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint over ROS: simulator, policy and guard as separate processes, in real time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros import bringup
from vla_ros.commands.ros.isolation import isolate
from vla_ros.commands.ros.process_group import ProcessGroup
from vla_ros.commands.ros.record_demo import FIRST_EVALUATION_SEED
from vla_ros.commands.ros.rollout_video import RolloutVideo
from vla_ros.commands.ros.ros_arguments import place
from vla_ros.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from vla_ros.nodes.clients.rollouts import RolloutClient

TIME_LIMIT_S = 15.0
START_TIMEOUT_S = 120.0
# A policy with arm_on_start is disarmed until its first control tick.
DISARMED_AFTER_S = 2.0


@dataclasses.dataclass(frozen=True)
class ScheduledRollout:
    """A rollout to run: the scene of `task` and `seed`, and the language command."""

    task: str
    seed: int
    command: str


@dataclasses.dataclass(frozen=True)
class RosEvaluation:
    """Results over ROS.

    Attributes:
        rollouts: (rollout, success, seconds) of each.
        ticks, inference_ms: as counted by guard and policy.
        wall_s: duration of the evaluation.
    """

    rollouts: list[tuple[ScheduledRollout, bool, float]]
    ticks: dict[str, int]
    inference_ms: dict[str, float | None]
    wall_s: float

    def by_task(self) -> dict[str, dict[str, Any]]:
        """Return successes, rollouts and the mean time to success [s] of each task."""
        times: dict[str, list[float]] = defaultdict(list)
        counts: dict[str, int] = defaultdict(int)
        for rollout, success, time_s in self.rollouts:
            counts[rollout.task] += 1
            times[rollout.task] += [time_s] if success else []
        return {
            task: {
                "successes": len(times[task]),
                "rollouts": count,
                "mean_time_s": round(statistics.fmean(times[task]), 2) if times[task] else None,
            }
            for task, count in counts.items()
        }

    def success_rate(self, tasks: Sequence[str] | None = None) -> float:
        """Return the success rate over `tasks` (default: all)."""
        outcomes = [success for rollout, success, _ in self.rollouts if tasks is None or rollout.task in tasks]
        return sum(outcomes) / max(len(outcomes), 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of results.json."""
        return {
            "tasks": self.by_task(),
            "success_rate": round(self.success_rate(), 4),
            "ticks": self.ticks,
            "inference_ms": self.inference_ms,
            "wall_s": round(self.wall_s, 1),
        }

    def print(self, console: Console) -> None:
        """Print the results as a table."""
        from rich.table import Table

        table = Table()
        for name in ("task", "successes", "mean time, s"):
            table.add_column(name, justify="left" if name == "task" else "right")
        for task, row in self.by_task().items():
            table.add_row(task, f"{row['successes']}/{row['rollouts']}", f"{row['mean_time_s'] or '-'}")
        successes = sum(success for _, success, _ in self.rollouts)
        table.add_section()
        table.add_row("all", f"{successes}/{len(self.rollouts)} = {self.success_rate():.1%}", "")
        console.print(table)
        ticks, inference = self.ticks, self.inference_ms
        console.print(
            f"missed ticks: {ticks['missed']} of {ticks['total']}; inference p50 {inference['p50']} ms, "
            f"p95 {inference['p95']} ms; took {self.wall_s:.0f} s",
            highlight=False,
        )


def schedule(tasks: Sequence[str], rollouts: int, phrasings: str) -> list[ScheduledRollout]:
    """Schedule `rollouts` of each task, cycling through its phrasings ("held-out": not used in demonstrations).

    The scenes are new to the policy: `vla record-demo` refuses to record in them.

    Raises:
        UserError: unknown task.
    """
    from vla_ros.sim.tasks import TASKS, task_names

    scheduled = []
    for name in task_names(tasks):
        commands = TASKS[name].held_out if phrasings == "held-out" else TASKS[name].phrasings
        scheduled += [
            ScheduledRollout(name, FIRST_EVALUATION_SEED + index, commands[index % len(commands)])
            for index in range(rollouts)
        ]
    return scheduled


def run(
    checkpoint: str,
    rollouts: Sequence[ScheduledRollout],
    folder: Path,
    *,
    any_robot: bool = False,
    namespace: str = "",
    ros_arguments: Sequence[str] = (),
    **options: Any,
) -> RosEvaluation:
    """Start the simulator and the policy, run the rollouts, stop both. Logs go to `folder`/logs.

    Args:
        any_robot: accept a checkpoint of another robot.
        namespace, ros_arguments: of all processes.
        options: see `attach`.

    Raises:
        UserError: the checkpoint does not match, or a process exited; the message includes the end of its log.
    """
    isolate()
    started_s = time.monotonic()
    with ProcessGroup(folder / "logs") as group:
        group.start(*place(bringup.demo(checkpoint, any_robot=any_robot), namespace, ros_arguments))
        result = attach(namespace, rollouts, check=group.check, ros_arguments=ros_arguments, **options)
    return dataclasses.replace(result, wall_s=time.monotonic() - started_s)


def attach(
    namespace: str,
    rollouts: Sequence[ScheduledRollout],
    *,
    ros_arguments: Sequence[str] = (),
    video: RolloutVideo | None = None,
    on_rollout: Callable[[ScheduledRollout, bool, float], None] = lambda *_: None,
    on_poll: Callable[[Mapping[str, bytes]], None] | None = None,
    check: Callable[[], None] = lambda: None,
    time_limit_s: float = TIME_LIMIT_S,
) -> RosEvaluation:
    """Run rollouts on the simulator and the policy that are already running.

    Args:
        ros_arguments: what follows --ros-args, such as remapping rules.
        video: records the camera images.
        on_rollout: called after each rollout.
        on_poll: called frequently with the latest images.
        check: called frequently; raises to abort.

    Raises:
        UserError: the policy cannot start, or the simulator or the policy do not respond.
    """
    from vla_ros.nodes.clients.rollouts import RolloutClient  # after the environment is set: rclpy reads it once

    started_s, done = time.monotonic(), []
    watch = video is not None or on_poll is not None
    with RolloutClient(namespace, watch=watch, ros_arguments=ros_arguments) as client:
        wait_for_policy(client, namespace, check)
        for planned in rollouts:
            rollout = client.rollout(
                planned.task, planned.seed, planned.command, time_limit_s, on_poll or (lambda _: None), check
            )
            if video is not None:
                video.add(planned.task, planned.command, rollout.success, rollout.time_s, rollout.frames)
            done.append((planned, rollout.success, rollout.time_s))
            on_rollout(planned, rollout.success, rollout.time_s)
        client.wait_for_final_states()
        guard, policy = client.guard_state(), client.policy_state()
    ticks = {name: int(guard[f"ticks {name}"]) for name in ("total", "missed")}
    inference_ms: dict[str, float | None] = {
        name: float(policy[f"inference {name} ms"]) for name in ("p50", "p95", "p99")
    }
    return RosEvaluation(done, ticks, inference_ms, time.monotonic() - started_s)


def wait_for_policy(client: RolloutClient, namespace: str, check: Callable[[], None]) -> None:
    """Wait until the policy is armed and idle.

    Raises:
        UserError: it failed to start, stays disarmed, or is not ready in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    disarmed_since_s: float | None = None
    while True:
        state, policy = client.guard_state(), client.policy_state()
        if state.get("state") in ("waiting", "running", "stopping") and policy.get("state") == "active":
            return
        check()
        for name, each in (("policy", policy), ("guard", state)):
            if each.get("reason") == "error":
                raise UserError(f"the {name} node failed to start: {each.get('detail')}")
        if state.get("state") != "disarmed":
            disarmed_since_s = None
        elif disarmed_since_s is None:
            disarmed_since_s = time.monotonic()
        elif time.monotonic() - disarmed_since_s > DISARMED_AFTER_S:
            service = "/" + "/".join(part for part in (namespace.strip("/"), "guard/arm") if part)
            raise UserError(
                "the guard is disarmed and will not move the arm; arm it with: "
                f'ros2 service call {service} std_srvs/srv/SetBool "{{data: true}}"'
            )
        if time.monotonic() > deadline:
            seen = f"guard: {state.get('state', 'none')}, policy: {policy.get('state', 'none')}"
            raise UserError(f"policy and guard were not ready within {START_TIMEOUT_S:.0f} s ({seen})")
        time.sleep(0.05)
