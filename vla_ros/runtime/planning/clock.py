# SPDX-License-Identifier: Apache-2.0
"""Time as the runtime sees it: injected, in integer nanoseconds, so that tests need not wait."""

from __future__ import annotations

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
