# SPDX-License-Identifier: Apache-2.0
"""Fakes for the runtime: a clock that tests turn, and a policy that says which tick and command it planned for."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Provenance, Timing
from vla_ros.observations.observation import Observation

DEADLINE_S = 10.0


class FakeClock:
    """A clock that stands still until a test turns it; `turn_to_ns` returns when the sleeper is asleep again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now_ns = 0
        self._sleeping_until_ns: int | None = None
        self._closed = False

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, time_ns: int) -> bool:
        with self._changed:
            self._sleeping_until_ns = time_ns
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._now_ns >= time_ns or self._sleeping_until_ns is None)
            woken_early = self._sleeping_until_ns is None
            self._sleeping_until_ns = None
            return not self._closed and not woken_early

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_for_sleeper(self) -> None:
        """Until somebody sleeps for a time that has not come."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: self._sleeping_until_ns is not None and self._sleeping_until_ns > self._now_ns, DEADLINE_S
            ), "nobody came back to sleep"

    def set_ns(self, time_ns: int) -> None:
        """Turn the clock and do not wait for anybody; turning it back wakes the sleeper."""
        with self._changed:
            if time_ns < self._now_ns:
                self._sleeping_until_ns = None
            self._now_ns = time_ns
            self._changed.notify_all()

    def turn_to_ns(self, time_ns: int) -> None:
        self.wait_for_sleeper()
        self.set_ns(time_ns)
        self.wait_for_sleeper()


def make_contract(chunk: int = 4, control_hz: float = 10.0) -> PolicyContract:
    return PolicyContract(
        cameras=(Camera("static", 8, 8),),
        proprioception=None,
        language=Language("{command}", "none", 8),
        timing=Timing(control_hz, 2, chunk),
        action=ActionSpace((-1.0,) * 6, (1.0,) * 6),
        provenance=Provenance("none", "0", "none", "none", "0"),
    )


class FakePolicy:
    """vx of its action for tick k is k / 1000; it notes what was asked of it, and from which thread."""

    def __init__(self, contract: PolicyContract | None = None) -> None:
        self.contract = contract or make_contract()
        self.warm_up_s = 0.0
        self.calls: list[tuple] = []
        self.threads: set[int] = set()
        self.before_step = lambda observation: None
        self.spoil = lambda chunk: chunk

    def _note(self, *call) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())

    def warm_up(self) -> float:
        self._note("warm_up")
        return self.warm_up_s

    def reset(self, command: str) -> None:
        self._note("reset", command)

    def clear_history(self) -> None:
        self._note("clear_history")

    def step(self, observation: Observation):
        tick = self.contract.timing.grid.tick_at(observation.time_ns)
        self._note("step", tick)
        self.before_step(observation)
        chunk = np.zeros((self.contract.timing.chunk, 7))
        chunk[:, 0] = (tick + np.arange(len(chunk))) / 1000
        return self.spoil(chunk)

    @property
    def ticks(self) -> list[int]:
        return [call[1] for call in self.calls if call[0] == "step"]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def policy():
    return FakePolicy()


@pytest.fixture
def contract():
    return make_contract()
