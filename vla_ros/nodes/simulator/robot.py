# SPDX-License-Identifier: Apache-2.0
"""The simulated robot as an object of one thread, and the clocks that pace it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vla_ros.sim.env import TabletopEnv

# As on a real driver, the arm stops when commands cease.
COMMAND_TIMEOUT_NS = 200_000_000
# One step of the simulation. Everything is captured at absolute multiples of it, so that each tick of the control grid
# (a multiple of it) has an image of exactly that time.
STEP_NS = 20_000_000
PATIENCE_NS = 100_000_000


class SimulatedRobot:
    """The environment with a command watchdog. Create, use and close it in one thread (the renderer's)."""

    def __init__(self, height: int, width: int) -> None:
        # Its scenes are those of an evaluation without ROS; it renders only when asked for images.
        self.env = TabletopEnv(height=height, width=width, render=False, render_mode="rgb_array")
        self.opening = 1.0  # of the gripper, 0 closed ... 1 open
        self._twist = np.zeros(6)
        self._twist_ns: int | None = None
        self.state = self.env.state()

    def reset(self, task: str, seed: int) -> None:
        """Start an episode in a new scene with the gripper open."""
        self.env.reset(seed=seed, options={"task": task})
        self._twist_ns, self.opening = None, 1.0
        self.state = self.env.state()

    def set_twist(self, twist: NDArray[np.float64], time_ns: int) -> None:
        """Set the twist (6,) [m/s, rad/s] in base_link until the next one, for at most 0.2 s."""
        self._twist, self._twist_ns = twist, time_ns

    def advance(self, duration_s: float, time_ns: int) -> None:
        """Run the physics for `duration_s`, up to `time_ns`."""
        moving = self._twist_ns is not None and time_ns - self._twist_ns <= COMMAND_TIMEOUT_NS
        self.env.sim.set_command(self._twist if moving else np.zeros(6), self.opening)
        self.env.sim.advance(duration_s)
        self.state = self.env.state()


@dataclasses.dataclass(frozen=True)
class Step:
    """The time to advance to, the physics steps to get there, and the time lost."""

    time_ns: int
    steps: int
    lost_ns: int


class RealTimePace:
    """Follows a real-time clock. After a delay longer than `PATIENCE_NS`, the robot has stood still in the meantime: it
    does not catch up with a burst of motion, which no real robot would show."""

    def __init__(self, now_ns: Callable[[], int], sleep_s: Callable[[float], None] = time.sleep) -> None:
        self._now_ns, self._sleep_s = now_ns, sleep_s
        self.time_ns = now_ns() // STEP_NS * STEP_NS

    def wait(self) -> Step:
        """Sleep until the next step is due."""
        due_ns = self.time_ns + STEP_NS
        while (now_ns := self._now_ns()) < due_ns:
            self._sleep_s((due_ns - now_ns) / 1e9)
        reached_ns = now_ns // STEP_NS * STEP_NS
        elapsed_ns, self.time_ns = reached_ns - self.time_ns, reached_ns
        if elapsed_ns > PATIENCE_NS:
            return Step(reached_ns, 1, elapsed_ns - STEP_NS)
        return Step(reached_ns, elapsed_ns // STEP_NS, 0)


class SimulatedPace:
    """A simulated clock at `factor` times real time, or slower if the machine cannot keep up; it never jumps."""

    def __init__(
        self,
        start_ns: int,
        factor: float,
        steady_s: Callable[[], float] = time.monotonic,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_s = STEP_NS / 1e9 / factor
        self._steady_s, self._sleep_s = steady_s, sleep_s
        self._due_s = steady_s()
        self.time_ns = start_ns // STEP_NS * STEP_NS

    def wait(self) -> Step:
        """Sleep until the next step is due."""
        self._due_s += self._period_s
        late_s = self._steady_s() - self._due_s
        if late_s < 0:
            self._sleep_s(-late_s)
        else:
            self._due_s += late_s
        self.time_ns += STEP_NS
        return Step(self.time_ns, 1, int(max(late_s, 0.0) * 1e9))
