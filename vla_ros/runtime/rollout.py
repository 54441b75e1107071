# SPDX-License-Identifier: Apache-2.0
"""Run one episode in process: the node's buffer, planner, timeline, governor and gripper switch, without waiting.

Time is simulated: a control tick is one environment step. Latency is emulated in whole ticks: a chunk takes effect
`delay_ticks` after its observation, and an engine that computes one chunk at a time takes an observation every
`busy_ticks`. With any executor, these are the observations that the real engine's thread would take.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.grid import Grid
from vla_ros.observations.observation import ObservationBuffer
from vla_ros.robot import Limits, ObservationLimits
from vla_ros.runtime.execution.commands import GripperSwitch
from vla_ros.runtime.execution.executors import Executor
from vla_ros.runtime.execution.plans import Plan as GuardPlan
from vla_ros.runtime.execution.plans import PlannerStatus
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.planner import ChunkPolicy, Plan, Planner
from vla_ros.runtime.safety.governor import SafetyGovernor
from vla_ros.runtime.safety.guard import Guard, GuardSettings
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover
from vla_ros.runtime.safety.plausibility import MotionCheck

# In process, every stream is captured at the tick itself.
ALWAYS_FRESH = ObservationLimits(max_age_s=1.0, max_skew_s=1.0, frozen_s=None)
UNLIMITED = Limits(*(math.inf,) * 6, (-math.inf,) * 3, (math.inf,) * 3)

OnFrame = Callable[[int, Mapping[str, Any]], None]


class Environment(Protocol):
    """The part of a Gymnasium environment that an episode needs.

    Observations: (H, W, 3) uint8 for each camera under its name, "ee_position" (3,) [m], "ee_quaternion" (4,) xyzw and
    "opening" (1,) in [0, 1]. `step` takes (7,): twist [m/s, rad/s] in the base frame and opening; info has "success".
    """

    @property
    def control_hz(self) -> float: ...

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
    """How to run one episode.

    Attributes:
        command: Language command.
        max_ticks: Give up after this many control ticks.
        delay_ticks: Ticks from an observation until its chunk takes effect: 0 is an infinitely fast robot; 1 is what
            the node achieves while inference takes less than a period.
        busy_ticks: Ticks between observations that the policy takes, 1 to max(1, `delay_ticks`). None is
            max(1, `delay_ticks` - 1), the node's behaviour if inference takes whole periods: the settle time adds one.
        blank: Cameras to black out.
        limits: Robot limits; None leaves only those of the environment.
        executor: A new executor; None is the node's default.
        gripper: A new gripper switch; None is the node's default.
    """

    command: str
    max_ticks: int
    delay_ticks: int = 1
    busy_ticks: int | None = None
    blank: Collection[str] = ()
    limits: Limits | None = None
    executor: Executor | None = None
    gripper: GripperSwitch | None = None


@dataclasses.dataclass(frozen=True)
class EpisodeResult:
    """How an episode went.

    Attributes:
        time_s: Until success, or until the episode was given up.
        inference_ms: One entry for each chunk.
    """

    success: bool
    time_s: float
    inference_ms: Sequence[float]
    ticks: int
    ticks_missed: int


def run_episode(
    env: Environment,
    policy: ChunkPolicy,
    observation: Mapping[str, Any],
    config: EpisodeConfig,
    on_frame: OnFrame | None = None,
) -> EpisodeResult:
    """Run `policy`, starting without history, on `env` in its current state until success.

    Args:
        observation: The environment's latest observation.
        on_frame: Called at every tick with the tick and the environment's observation.

    Raises:
        ValueError: The environment's rate differs from the contract's, `blank` names an unknown camera, or
            `busy_ticks` does not fit `delay_ticks`.
    """
    contract = policy.contract
    _check_environment(env, contract, config.blank)
    grid = contract.timing.grid
    buffer = ObservationBuffer(contract.observation_spec, ALWAYS_FRESH)
    buffer.push("language", 0, config.command)
    guard = _make_guard(config, grid)
    engine = _EmulatedEngine(policy, buffer, guard, config)
    opening = _opening(observation)
    success, tick = False, 0
    for tick in range(config.max_ticks):
        if on_frame is not None:
            on_frame(tick, observation)
        now_ns = grid.start_ns(tick)
        now_s = now_ns / 1e9
        push_observation(buffer, observation, contract.observation_spec.streams, now_ns, config.blank)
        engine.before(tick)
        guard.hear_status(PlannerStatus(command=config.command, reason=engine.reason), now_s)
        guard.measured(_pose(observation), now_s)
        acted = guard.tick(now_ns, now_s, observation["ee_position"])
        engine.after(tick)
        opening = opening if acted.opening is None else acted.opening
        twist = np.zeros(6) if acted.twist is None else acted.twist
        observation, _, _, _, info = env.step(np.append(twist, opening))
        success = bool(info["success"])
        if success:
            break
    ticks, inference_ms = tick + 1, [round(ms, 3) for ms in engine.inference_ms]
    return EpisodeResult(success, grid.start_ns(ticks) / 1e9, inference_ms, ticks, guard.ticks_missed)


def _make_guard(config: EpisodeConfig, grid: Grid) -> Guard:
    """Return the guard that the robot has, armed, without operators, at the control rate."""
    limits = config.limits or UNLIMITED
    guard = Guard(
        GuardSettings(grid.period_ns, resume_within_s=math.inf),
        ActionTimeline(config.executor),
        SafetyGovernor(limits, period_s=grid.period_s),
        config.gripper or GripperSwitch(),
        stops=EmergencyStops({}),
        deadman=Deadman(required=False),
        takeover=Takeover(),
        motion=MotionCheck(limits.linear_mps),
    )
    guard.arm(True, 0)
    return guard


class _EmulatedEngine:
    """Plans at the ticks at which the real engine would, and posts chunks when it would.

    The arm acts at the start of a tick, the engine afterwards. A chunk that takes effect at tick k is posted between
    k - 1 and k, and an engine that is free by then immediately takes the observation of k - 1.
    """

    def __init__(self, policy: ChunkPolicy, buffer: ObservationBuffer, guard: Guard, config: EpisodeConfig) -> None:
        shortest, longest = max(1, config.delay_ticks - 1), max(1, config.delay_ticks)
        self._busy_ticks = shortest if config.busy_ticks is None else config.busy_ticks
        if not shortest <= self._busy_ticks <= longest:
            raise ValueError(
                f"busy_ticks must be {shortest} or {longest} with delay_ticks = {config.delay_ticks}, since the engine "
                f"computes one chunk at a time; got {config.busy_ticks}"
            )
        self._planner = Planner(policy, buffer.snapshot)
        self._grid = policy.contract.timing.grid
        self._guard = guard
        self._delay_ticks = config.delay_ticks
        self._planned_tick: int | None = None
        self._pending: Plan | None = None
        self.reason: str | None = None  # why the arm must not move, in the engine's words
        self.inference_ms: list[float] = []

    def before(self, tick: int) -> None:
        """Run the engine right before the arm acts at `tick`: only an infinitely fast robot plans here."""
        if self._delay_ticks == 0:
            self._plan(tick)
            self._post()

    def after(self, tick: int) -> None:
        """Run the engine from the arm's action at `tick` until the next tick."""
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
        self._pending = self._planner.plan(self._grid.start_ns(tick))
        if self._pending.inference_ms is not None:
            self.inference_ms.append(self._pending.inference_ms)

    def _post_if_due(self, tick: int) -> None:
        if self._planned_tick is not None and tick + 1 - self._planned_tick >= self._delay_ticks:
            self._post()

    def _post(self) -> None:
        plan, first_tick = self._pending, self._planned_tick
        if plan is None or first_tick is None:
            return
        self._pending = None
        self.reason = plan.reason
        if plan.reason == "policy_error":
            raise RuntimeError(plan.detail)
        if plan.actions is not None:
            stamp_ns = self._grid.start_ns(first_tick)
            self._guard.hear_plan(GuardPlan(stamp_ns, self._grid.period_ns, plan.actions), stamp_ns)


@dataclasses.dataclass(frozen=True)
class _DecodedImage:
    """A decoded image for a buffer that expects images to decode themselves."""

    pixels: NDArray[np.uint8]

    def rgb(self) -> NDArray[np.uint8]:
        return self.pixels

    def fingerprint(self) -> bytes:
        return self.pixels.tobytes()


def push_observation(
    buffer: ObservationBuffer,
    observation: Mapping[str, Any],
    streams: Collection[str],
    time_ns: int,
    blank: Collection[str] = (),
) -> None:
    """Push the environment's observation into `buffer` as if every stream had arrived at `time_ns`."""
    for stream in streams:
        if stream == "ee_pose":
            value: Any = _pose(observation)
        elif stream == "gripper_state":
            value = _opening(observation)
        elif stream == "language":
            continue
        else:
            pixels = np.asarray(observation[stream])
            value = _DecodedImage(np.zeros_like(pixels) if stream in blank else pixels)
        buffer.push(stream, time_ns, value)


def _pose(observation: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.concatenate([observation["ee_position"], observation["ee_quaternion"]]).astype(np.float64)


def _opening(observation: Mapping[str, Any]) -> float:
    return float(np.asarray(observation["opening"]).reshape(-1)[0])


def _check_environment(env: Environment, contract: PolicyContract, blank: Collection[str]) -> None:
    if not math.isclose(env.control_hz, contract.timing.control_hz):
        raise ValueError(
            f"the environment steps at {env.control_hz} Hz, but the checkpoint was trained at "
            f"{contract.timing.control_hz} Hz; create it with control_hz={contract.timing.control_hz}"
        )
    for name in blank:
        if name not in contract.camera_names:
            raise ValueError(f"blank must be among {', '.join(contract.camera_names)}; got {name!r}")
