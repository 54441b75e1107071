# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ticked_guard import PERIOD_NS, TickedGuard

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.evaluation.closed_loop.config import delay_in_ticks
from vla_ros.observations.observation import Observation
from vla_ros.runtime.execution.commands import GripperSwitch
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.planning.engine import Engine
from vla_ros.runtime.rollout import UNLIMITED, EpisodeConfig, EpisodeResult, run_episode

PERIOD_S = PERIOD_NS / 1e9


def rollout(env, policy, max_time_s: float, **options) -> EpisodeResult:
    max_ticks = round(max_time_s / PERIOD_S)
    return run_episode(env, policy, env.reset(), EpisodeConfig("go", max_ticks, **options))


def contract(chunk: int = 4) -> PolicyContract:
    return PolicyContract(
        cameras=(Camera("static", 8, 8), Camera("wrist", 8, 8)),
        proprioception=Proprioception(("ee_x", "gripper_opening"), ("m", "1"), (0.0, 0.0), (1.0, 1.0)),
        language=Language("{command}", "none", 8),
        timing=Timing(10.0, 2, chunk),
        action=ActionSpace((-1.0,) * 6, (1.0,) * 6),
        provenance=Provenance("none", "0", "none", "none", "0"),
    )


class PointEnvironment:
    """A tool that moves as commanded; success at x >= 0.5 m."""

    control_hz = 10.0

    def reset(self):
        self.x, self.actions = 0.0, []
        return self._observation()

    def step(self, action):
        self.actions.append(np.array(action))
        self.x += action[0] * PERIOD_S
        return self._observation(), 0.0, False, False, {"success": self.x >= 0.5 - 1e-9}

    def _observation(self):
        image = np.full((16, 16, 3), 200, np.uint8)
        return {
            "static": image, "wrist": image, "ee_position": np.array([self.x, 0.0, 0.3]),
            "ee_quaternion": np.array([0.0, 0.0, 0.0, 1.0]), "opening": np.array([0.25]),
        }  # fmt: skip


class CountingPolicy:
    """Its action for tick k is vx = k/100, so executed actions show the tick they were planned for."""

    def __init__(self, opening: float = 1.0) -> None:
        self.contract = contract()
        self.opening = opening
        self.observations = []

    def reset(self, command):
        self.command = command

    def clear_history(self): ...

    def warm_up(self):
        return 0.0

    def step(self, observation):
        self.observations.append(observation)
        tick = self.contract.timing.grid.tick_at(observation.time_ns)
        chunk = np.zeros((self.contract.timing.chunk, 7))
        chunk[:, 0] = (tick + np.arange(len(chunk))) / 100
        chunk[:, 6] = self.opening
        return chunk


@pytest.mark.parametrize("control_hz", [10.0, 29.97, 30.0])
@pytest.mark.parametrize("delay_ticks", [0, 1, 2])
def test_every_executed_action_was_planned_for_its_tick_at_any_delay_and_rate(delay_ticks, control_hz):
    env, policy = PointEnvironment(), CountingPolicy()
    env.control_hz = control_hz
    policy.contract = dataclasses.replace(policy.contract, timing=Timing(control_hz, 2, 4))
    run_episode(env, policy, env.reset(), EpisodeConfig("go", 8, delay_ticks=delay_ticks))
    executed = [action[0] for action in env.actions]
    assert executed == pytest.approx([0.0] * delay_ticks + [tick / 100 for tick in range(delay_ticks, 8)])


def test_success_ends_the_episode_with_its_time():
    policy = CountingPolicy()
    policy.step = lambda observation: np.tile([1.0, 0, 0, 0, 0, 0, 1.0], (4, 1))
    result = rollout(PointEnvironment(), policy, max_time_s=3.0, delay_ticks=1)
    assert result.success
    assert result.time_s == pytest.approx(0.6)  # one tick of delay, five of 1 m/s


def test_the_policy_sees_the_node_s_observations_and_black_blank_cameras():
    policy = CountingPolicy()
    rollout(PointEnvironment(), policy, max_time_s=0.3, delay_ticks=1, blank=("wrist",))
    seen = policy.observations[0]
    assert policy.command == seen.command == "go"
    assert seen.images["static"].shape == (8, 8, 3)
    assert seen.images["static"].min() == 200 and seen.images["wrist"].max() == 0
    assert seen.proprioception == pytest.approx([0.0, 0.25])


def test_the_gripper_holds_until_the_policy_has_decided():
    env = PointEnvironment()
    policy, gripper = CountingPolicy(opening=0.9), GripperSwitch(debounce_ticks=3)
    rollout(env, policy, max_time_s=0.5, delay_ticks=1, gripper=gripper)
    assert [action[6] for action in env.actions] == [0.25, 0.25, 1.0, 1.0, 1.0]


def test_an_environment_at_another_rate_is_refused():
    env = PointEnvironment()
    env.control_hz = 20.0
    with pytest.raises(ValueError, match=r"20\.0 Hz.*control_hz=10\.0"):
        rollout(env, CountingPolicy(), max_time_s=1.0)


class DrivenClock:
    """Advances by sleeping and computing; the arm acts whenever it passes a tick."""

    def __init__(self, act) -> None:
        self._act, self._now_ns, self._tick = act, 0, 0

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, time_ns: int) -> bool:
        while self._tick * PERIOD_NS <= time_ns:
            self._act(self._tick)
            self._tick += 1
        self._now_ns = max(self._now_ns, time_ns)
        return True

    def close(self) -> None: ...


class AnsweringPolicy(CountingPolicy):
    """Its actions say which tick's observation they answer: vx = tick / 1000."""

    def __init__(self, compute) -> None:
        super().__init__()
        self.contract, self._compute = contract(chunk=12), compute

    def step(self, observation):
        chunk = np.zeros((12, 7))
        chunk[:, 0] = (observation.time_ns // PERIOD_NS) / 1000
        self._compute()
        return chunk


class Observing:
    """Observations without images, under the command "go"."""

    def push(self, stream: str, stamp_ns: int, value: str) -> None: ...

    def snapshot(self, time_ns: int) -> Observation:
        return Observation(time_ns, {}, {}, None, "go")


@pytest.mark.parametrize("executor", ["full_chunk", "receding_horizon", "first_action"])
@pytest.mark.parametrize("computing_ms", [0, 50, 100, 200, 400])
def test_the_emulated_engine_uses_the_observations_of_the_real_thread(executor, computing_ms):
    ticks, on_engine = 30, []

    def act(tick):
        on_engine.append(guard.vx(tick, engine.reason) or 0.0)
        if tick >= ticks:
            engine._stopping.set()

    guard = TickedGuard(make_executor(executor, horizon=3, decay=0.0), limits=UNLIMITED, stop_ticks=5)
    clock = DrivenClock(act)
    policy = AnsweringPolicy(lambda: clock.sleep_until_ns(clock.now_ns() + computing_ms * 1_000_000))
    engine = Engine(lambda: policy, Observing(), guard, clock)
    engine.set_command("go")
    engine.start(10.0)
    engine._thread.join(30.0)

    env, (delay_ticks, busy_ticks) = PointEnvironment(), delay_in_ticks(computing_ms, policy.contract.timing)
    rollout(
        env, AnsweringPolicy(lambda: None), max_time_s=ticks * PERIOD_S,
        delay_ticks=delay_ticks, busy_ticks=busy_ticks, executor=make_executor(executor, horizon=3, decay=0.0),
    )  # fmt: skip
    assert [action[0] for action in env.actions] == pytest.approx(on_engine[:ticks])
    assert len(set(on_engine)) > 3


@pytest.mark.parametrize("busy_ticks", [0, 1, 4])
def test_overlapping_chunks_or_an_idle_engine_are_refused(busy_ticks):
    with pytest.raises(ValueError, match=rf"busy_ticks must be 2 or 3 with delay_ticks = 3, .*; got {busy_ticks}"):
        rollout(
            PointEnvironment(), CountingPolicy(), max_time_s=1.0, delay_ticks=3,
            busy_ticks=busy_ticks,
        )  # fmt: skip
