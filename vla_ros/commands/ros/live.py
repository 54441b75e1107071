# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint through ROS: simulator and policy as processes of their own, at real time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla_ros import bringup
from vla_ros.commands.ros import processes
from vla_ros.commands.ros.film import Film
from vla_ros.commands.ros.isolation import isolate
from vla_ros.commands.ros.record_demo import FIRST_EVALUATION_SEED
from vla_ros.errors import UserError

TIME_LIMIT_S = 15.0
START_TIMEOUT_S = 120.0
# A policy that is armed from the start is disarmed until its first control tick.
DISARMED_AFTER_S = 2.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One rollout to run: the scene of `task` and `seed`, told `command`."""

    task: str
    seed: int
    command: str


@dataclasses.dataclass(frozen=True)
class LiveResult:
    """What was measured. trials: (trial, success, seconds); ticks and inference_ms as the policy node counted them."""

    trials: list[tuple[Trial, bool, float]]
    ticks: dict[str, int]
    inference_ms: dict[str, float | None]
    wall_s: float

    def by_task(self) -> dict[str, dict[str, Any]]:
        """Successes, rollouts and the mean time to success [s] of each task."""
        times: dict[str, list[float]] = defaultdict(list)
        counts: dict[str, int] = defaultdict(int)
        for trial, success, time_s in self.trials:
            counts[trial.task] += 1
            times[trial.task] += [time_s] if success else []
        return {
            task: {
                "successes": len(times[task]),
                "rollouts": rollouts,
                "mean_time_s": round(statistics.fmean(times[task]), 2) if times[task] else None,
            }
            for task, rollouts in counts.items()
        }

    def success_rate(self) -> float:
        """Successes among all rollouts."""
        return sum(success for _, success, _ in self.trials) / max(len(self.trials), 1)

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "tasks": self.by_task(),
            "success_rate": round(self.success_rate(), 4),
            "ticks": self.ticks,
            "inference_ms": self.inference_ms,
            "wall_s": round(self.wall_s, 1),
        }


def plan(tasks: Sequence[str], rollouts: int, phrasings: str) -> list[Trial]:
    """`rollouts` trials of each task, over its phrasings in turn ("held-out": those that no demonstration used).

    The scenes are some in which no demonstration was recorded: `vla record-demo` refuses to come there.

    Raises:
        UserError: an unknown task.
    """
    from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

    trials = []
    for name in TRAINED_TASKS if list(tasks) == ["all"] else tasks:
        if name not in TASKS:
            raise UserError(f"task {name!r} is unknown; allowed: all, or any of {', '.join(TASKS)}")
        texts = TASKS[name].held_out if phrasings == "held-out" else TASKS[name].phrasings
        trials += [Trial(name, FIRST_EVALUATION_SEED + index, texts[index % len(texts)]) for index in range(rollouts)]
    return trials


def run(checkpoint: str, trials: Sequence[Trial], folder: Path, **options: Any) -> LiveResult:
    """Start simulator and policy, run the trials, end both. Logs go to `folder`/logs; options: see `attach`.

    Raises:
        UserError: the checkpoint does not fit or a process ended; the message holds the end of its log.
    """
    isolate()
    started_s = time.monotonic()
    with processes.ProcessGroup(folder / "logs") as group:
        group.start(*bringup.demo(checkpoint))
        result = attach("", trials, check=group.check, **options)
    return dataclasses.replace(result, wall_s=time.monotonic() - started_s)


def attach(
    namespace: str,
    trials: Sequence[Trial],
    *,
    film: Film | None = None,
    on_trial: Callable[[Trial, bool, float], None] = lambda *_: None,
    on_poll: Callable[[dict[str, bytes]], None] | None = None,
    check: Callable[[], None] = lambda: None,
    time_limit_s: float = TIME_LIMIT_S,
) -> LiveResult:
    """Run the trials with the simulator and the policy that are running.

    Args:
        on_trial: called after each trial; on_poll: called often, with the newest pictures.
        check: called often; raises when there is no point in going on.

    Raises:
        UserError: the policy cannot start, or simulator or policy do not answer.
    """
    from vla_ros.nodes.clients.rollouts import RolloutClient  # not before the environment is set: rclpy reads it once

    started_s, done = time.monotonic(), []
    with RolloutClient(namespace, watch=film is not None or on_poll is not None) as client:
        wait_for_policy(client, namespace, check)
        for trial in trials:
            rollout = client.rollout(
                trial.task, trial.seed, trial.command, time_limit_s, on_poll or (lambda _: None), check
            )
            if film is not None:
                film.add(trial.task, trial.command, rollout.success, rollout.time_s, rollout.frames)
            done.append((trial, rollout.success, rollout.time_s))
            on_trial(trial, rollout.success, rollout.time_s)
        state = client.final_policy_state()
    return LiveResult(done, state["ticks"], state["inference_ms"], time.monotonic() - started_s)


def wait_for_policy(client: Any, namespace: str, check: Callable[[], None]) -> None:
    """Until the policy is active: armed, with nothing to do. A policy that cannot be configured says why."""
    deadline = time.monotonic() + START_TIMEOUT_S
    disarmed_since_s: float | None = None
    while (state := client.policy_state()).get("state") not in ("waiting", "running", "stopping"):
        check()
        if state.get("reason") == "error":
            raise UserError(f"the policy node could not start: {state.get('detail')}")
        if state.get("state") != "disarmed":
            disarmed_since_s = None
        elif disarmed_since_s is None:
            disarmed_since_s = time.monotonic()
        elif time.monotonic() - disarmed_since_s > DISARMED_AFTER_S:
            service = "/" + "/".join(part for part in (namespace.strip("/"), "policy/arm") if part)
            raise UserError(
                "the policy is disarmed, so the arm would not move; arm it: "
                f'ros2 service call {service} std_srvs/srv/SetBool "{{data: true}}"'
            )
        if time.monotonic() > deadline:
            raise UserError(f"no policy node was ready within {START_TIMEOUT_S:.0f} s (its state: {state or 'none'})")
        time.sleep(0.05)
