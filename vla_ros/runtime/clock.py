# SPDX-License-Identifier: Apache-2.0
"""Time as the runtime sees it: injected, in integer nanoseconds, so that tests need not wait."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A clock that its owner can close; any thread may read it, sleep on it and close it."""

    def now_ns(self) -> int:
        """The time in nanoseconds."""
        ...

    def sleep_until_ns(self, time_ns: int) -> bool:
        """Sleep until `time_ns`. True: it is that time. False: the clock was closed, or set back, before."""
        ...

    def close(self) -> None:
        """Wake every sleeper; later sleeps return False at once."""
        ...


class SteadyClock:
    """Time since an arbitrary start; it never jumps. For watchdogs and for measuring how long something took."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_until_ns(self, time_ns: int) -> bool:
        while (remaining_ns := time_ns - self.now_ns()) > 0:
            if self._closed.wait(remaining_ns / 1e9):
                return False
        return not self._closed.is_set()

    def close(self) -> None:
        self._closed.set()


class SystemClock(SteadyClock):
    """Time since the epoch: what a ROS clock shows without simulated time."""

    def now_ns(self) -> int:
        return time.time_ns()
