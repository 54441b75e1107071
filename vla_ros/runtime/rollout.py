# SPDX-License-Identifier: Apache-2.0
"""One episode in process: the same buffer, planner, timeline, governor and gripper switch as the node, without waiting.

Time is simulated: a control tick is one step of the environment. What the node's latency does to the policy is emulated
by whole ticks: a chunk is under way for so many, and the engine, which computes one chunk after the other, is busy with
it for nearly as many. Whatever the executor, the next observation is the one that the engine's thread would take.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.observations.observation import ObservationBuffer
from vla_ros.robot import Limits, ObservationLimits
from vla_ros.runtime.execution.control import ControlLoop
from vla_ros.runtime.execution.executors import Executor
from vla_ros.runtime.execution.gripper import GripperSwitch
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.commitment import Commitment
from vla_ros.runtime.planning.planner import ChunkPolicy, Plan, Planner
from vla_ros.runtime.safety.governor import SafetyGovernor

# In process every stream is captured at the tick itself.
EVERYTHING_IS_FRESH = ObservationLimits(max_age_s=1.0, max_skew_s=1.0, frozen_s=None)


class Environment(Protocol):
    """The part of a Gymnasium environment that a rollout uses.

    Observations: (H, W, 3) uint8 for each camera under its name, "ee_position" (3,) [m], "ee_quaternion" (4,) xyzw and
    "opening" (1,) in [0, 1]. `step` takes (7,): twist [m/s, rad/s] in the base frame and opening; info has "success".
    """

    @property
    def control_hz(self) -> float: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...


@dataclass(frozen=True)
class RolloutResult:
    """How an episode went: `time_s` until success, or until it was given up; `inference_ms` of every tick."""

    success: bool
    time_s: float
    ticks: int
    ticks_missed: int
    stops: Counter[str]
    inference_ms: list[float] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class _Picture:
    """A decoded image where the buffer expects one that decodes itself."""

    pixels: NDArray[np.uint8]

    def rgb(self) -> NDArray[np.uint8]:
        return self.pixels

    def fingerprint(self) -> bytes:
        return self.pixels.tobytes()


def rollout(
    env: Environment,
    runner: ChunkPolicy,
    *,
    seed: int,
    task: str,
    command: str,
    max_time_s: float,
    delay_ticks: int = 1,
    busy_ticks: int | None = None,
    blank: Collection[str] = (),
    governor: SafetyGovernor | None = None,
    gripper: GripperSwitch | None = None,
    executor: Executor | None = None,
    on_frame: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> RolloutResult:
    """Reset `env` to the scene of `seed` and `task`, and run `runner` on it as `pursue` does, until `max_time_s`."""
    check_environment(env, runner.contract, blank)
    observation, _ = env.reset(seed=seed, options={"task": task, "command": command})
    return pursue(
        env,
        runner,
        observation,
        command=command,
        max_ticks=max(1, math.floor(max_time_s * runner.contract.timing.control_hz)),
        delay_ticks=delay_ticks,
        busy_ticks=busy_ticks,
        blank=blank,
        governor=governor,
        gripper=gripper,
        executor=executor,
        on_frame=on_frame,
    )


def pursue(
    env: Environment,
    runner: ChunkPolicy,
    observation: Mapping[str, Any],
    *,
    command: str,
    max_ticks: int,
    delay_ticks: int = 1,
    busy_ticks: int | None = None,
    blank: Collection[str] = (),
    governor: SafetyGovernor | None = None,
    gripper: GripperSwitch | None = None,
    executor: Executor | None = None,
    on_frame: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> RolloutResult:
    """Run `runner`, without any history, on `env` as it is, with the language `command`, until success.

    Args:
        env: steps at the contract's control rate.
        observation: what it showed last.
        max_ticks: when to give up.
        delay_ticks: an observation's chunk is available this many ticks after it; 0 is an infinitely fast robot, 1 is
            what the node does as long as inference takes less than a period.
        busy_ticks: every so many ticks the policy can take an observation, 1 to the longer one of 1 and `delay_ticks`.
            None: one less than `delay_ticks`, but at least 1: what the node does where inference takes whole periods,
            of which the settle time before it makes one more.
        blank: cameras whose images are black, to see how much they matter.
        governor: armed, new for this episode; None: no limits beside the environment's own.
        gripper, executor: None: the node's default.
        on_frame: called with the tick and the environment's observation, for videos.

    Raises:
        ValueError: the environment steps at another rate than the contract's, `blank` names no camera of it, or the
            policy would have more than one chunk under way.
        ExecutorError: the executor tells the policy what the arm does meanwhile, and it was not trained for that.
    """
    contract = runner.contract
    check_environment(env, contract, blank)
    period_ns = contract.timing.period_ns
    buffer = ObservationBuffer(contract.observation_spec, EVERYTHING_IS_FRESH)
    governor = governor or SafetyGovernor(_no_limits(), period_s=period_ns / 1e9, armed=True)
    control = ControlLoop(ActionTimeline(executor), governor, gripper or GripperSwitch(), period_ns=period_ns)
    inference = _Inference(runner, buffer, control.timeline, delay_ticks, busy_ticks)
    opening = float(np.asarray(observation["opening"]).reshape(-1)[0])
    buffer.push("language", 0, command)
    success, tick = False, 0
    for tick in range(max_ticks):
        time_ns = tick * period_ns
        if on_frame is not None:
            on_frame(tick, observation)
        push(buffer, observation, contract.observation_spec.streams, time_ns, blank)
        inference.before(tick)
        acted = control.tick(time_ns, inference.reason, observation["ee_position"])
        inference.after(tick)
        opening = opening if acted.opening is None else acted.opening
        twist = np.zeros(6) if acted.twist is None else acted.twist
        observation, _, _, _, info = env.step(np.concatenate([twist, [opening]]))
        if info["success"]:
            success = True
            break
    ticks = tick + 1
    return RolloutResult(
        success, ticks * period_ns / 1e9, ticks, control.ticks_missed, governor.stops, inference.spent_ms
    )


class _Inference:
    """The engine's part of a rollout: plans at the ticks that the engine would, and posts when it would.

    The arm acts at the very beginning of a tick, the engine after that: a chunk that takes effect `delay_ticks` after
    its observation is posted between that tick and the one before, and an engine that is free by then goes on with the
    observation of the latter at once.
    """

    def __init__(
        self,
        runner: ChunkPolicy,
        buffer: ObservationBuffer,
        timeline: ActionTimeline,
        delay_ticks: int,
        busy_ticks: int | None,
    ) -> None:
        self._busy_ticks = max(1, delay_ticks - 1) if busy_ticks is None else busy_ticks
        if not max(1, delay_ticks - 1) <= self._busy_ticks <= max(1, delay_ticks):
            raise ValueError(
                f"busy_ticks is {busy_ticks} with delay_ticks = {delay_ticks}; allowed: {max(1, delay_ticks - 1)} or "
                f"{max(1, delay_ticks)}, since the engine computes one chunk after the other"
            )
        self._commitment = Commitment(timeline, runner.max_delay_steps)
        self._commitment.expect(delay_ticks)
        self._planner = Planner(runner, buffer.snapshot, self._commitment)
        self._period_ns = runner.contract.timing.period_ns
        self._timeline = timeline
        self._delay_ticks = delay_ticks
        self._planned_tick: int | None = None
        self._under_way: Plan | None = None
        self.reason: str | None = None  # what speaks against moving, as the engine would say
        self.spent_ms: list[float] = []

    def before(self, tick: int) -> None:
        """What happens right before the arm acts at `tick`: an infinitely fast robot plans."""
        if self._delay_ticks == 0:
            self._plan(tick)
            self._post()

    def after(self, tick: int) -> None:
        """What happens after the arm has acted at `tick`, until the next one."""
        if self._delay_ticks == 0:
            return
        self._post_if_due(tick)
        if self._planned_tick is None or tick - self._planned_tick >= self._busy_ticks:
            self._plan(tick)
            self._post_if_due(tick)

    def _plan(self, tick: int) -> None:
        if self._planned_tick is not None and tick - 1 != self._planned_tick:
            self._planner.interrupt()
        self._planned_tick = tick
        self._under_way = self._planner.plan(tick * self._period_ns)
        if self._under_way.inference_ms is not None:
            self.spent_ms.append(self._under_way.inference_ms)

    def _post_if_due(self, tick: int) -> None:
        if self._planned_tick is not None and tick + 1 - self._planned_tick >= self._delay_ticks:
            self._post()

    def _post(self) -> None:
        plan, first_tick = self._under_way, self._planned_tick
        if plan is None or first_tick is None:
            return
        self._under_way = None
        self.reason = plan.reason
        if plan.reason == "policy_error":
            raise RuntimeError(plan.detail)
        if plan.actions is None:
            self._timeline.clear()
        else:
            self._timeline.post(first_tick, plan.actions)
            self._commitment.arrived(first_tick)


def push(
    buffer: ObservationBuffer,
    observation: Mapping[str, Any],
    streams: Collection[str],
    time_ns: int,
    blank: Collection[str],
) -> None:
    """Put the environment's observation into the buffer, as if every stream had just been received."""
    for stream in streams:
        if stream == "ee_pose":
            value: Any = np.concatenate([observation["ee_position"], observation["ee_quaternion"]])
        elif stream == "gripper_state":
            value = float(np.asarray(observation["opening"]).reshape(-1)[0])
        elif stream == "language":
            continue
        else:
            pixels = np.asarray(observation[stream])
            value = _Picture(np.zeros_like(pixels) if stream in blank else pixels)
        buffer.push(stream, time_ns, value)


def check_environment(env: Environment, contract: PolicyContract, blank: Collection[str] = ()) -> None:
    """Raise ValueError where `env` steps at another rate than the contract's, or `blank` names no camera of it."""
    if not math.isclose(env.control_hz, contract.timing.control_hz):
        raise ValueError(
            f"the environment steps at {env.control_hz} Hz, the checkpoint was trained for {contract.timing.control_hz}"
            f" Hz; create the environment with control_hz={contract.timing.control_hz}"
        )
    unknown = [name for name in blank if name not in contract.camera_names]
    if unknown:
        raise ValueError(f"blank names {unknown[0]!r}; the checkpoint's cameras are {', '.join(contract.camera_names)}")


def _no_limits() -> Limits:
    infinity = math.inf
    return Limits(*(infinity,) * 6, (-infinity,) * 3, (infinity,) * 3)
