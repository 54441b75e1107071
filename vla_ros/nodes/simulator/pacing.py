# SPDX-License-Identifier: Apache-2.0
"""When the simulator's next step is due: against the wall clock, or against a clock of its own that it publishes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

# One step of the simulated world. Absolute multiples of it are the instants at which anything is captured, so that the
# control grid (a multiple of it) always finds a picture of exactly its instant.
STEP_NS = 20_000_000


@dataclasses.dataclass(frozen=True)
class Step:
    """The instant that the world shall stand at next, the steps of physics that lead there, and the time lost."""

    time_ns: int
    steps: int
    lost_ns: int


class WallPace:
    """Follows a real-time clock. A loop that falls behind by more than `patience_s` lets the world stand still for that
    time instead of running ahead to catch up: a burst of motion would be no robot."""

    def __init__(
        self, now_ns: Callable[[], int], sleep_s: Callable[[float], None] = time.sleep, *, patience_s: float = 0.1
    ) -> None:
        self._now_ns = now_ns
        self._sleep_s = sleep_s
        self._patience_ns = int(patience_s * 1e9)
        self.time_ns = now_ns() // STEP_NS * STEP_NS

    def wait(self) -> Step:
        """Sleep until the next instant is reached."""
        due_ns = self.time_ns + STEP_NS
        while (now_ns := self._now_ns()) < due_ns:
            self._sleep_s((due_ns - now_ns) / 1e9)
        reached_ns = now_ns // STEP_NS * STEP_NS
        steps = (reached_ns - self.time_ns) // STEP_NS
        lost_ns = 0
        if reached_ns - self.time_ns > self._patience_ns:
            lost_ns, steps = reached_ns - self.time_ns - STEP_NS, 1
        self.time_ns = reached_ns
        return Step(reached_ns, steps, lost_ns)


class OwnPace:
    """A clock of its own that runs `factor` times as fast as the wall clock, or slower where the machine can't follow:
    simulated time never jumps."""

    def __init__(
        self,
        start_ns: int,
        factor: float,
        steady_s: Callable[[], float] = time.monotonic,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_s = STEP_NS / 1e9 / factor
        self._steady_s = steady_s
        self._sleep_s = sleep_s
        self._due_s = steady_s()
        self.time_ns = start_ns // STEP_NS * STEP_NS

    def wait(self) -> Step:
        """Sleep until the next instant is due."""
        self._due_s += self._period_s
        late_s = self._steady_s() - self._due_s
        if late_s < 0:
            self._sleep_s(-late_s)
        else:
            self._due_s += late_s
        self.time_ns += STEP_NS
        return Step(self.time_ns, 1, int(max(late_s, 0.0) * 1e9))
