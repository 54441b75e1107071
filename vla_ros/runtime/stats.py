# SPDX-License-Identifier: Apache-2.0
"""Statistics in constant memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Percentiles and maximum of the recent values, and the `count` of all values so far."""

    count: int
    p50: float
    p95: float
    p99: float
    maximum: float


class RecentValues:
    """The last `kept` values of a quantity. Thread-safe."""

    def __init__(self, kept: int = 1000) -> None:
        self._lock = threading.Lock()
        self._values: deque[float] = deque(maxlen=kept)
        self._count = 0

    def add(self, value: float) -> None:
        with self._lock:
            self._values.append(value)
            self._count += 1

    def summary(self) -> Summary | None:
        """Return None before the first value."""
        with self._lock:
            values, count = list(self._values), self._count
        if not values:
            return None
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        return Summary(count, float(p50), float(p95), float(p99), max(values))


class StreamRate:
    """The recent message rate of a stream, and the number of messages lost according to their stamps. Thread-safe.

    A gap of more than 1.5 median intervals between stamps counts as lost messages.
    """

    def __init__(self, kept: int = 60) -> None:
        self._lock = threading.Lock()
        self._stamps: deque[int] = deque(maxlen=kept)
        self.received = 0
        self.lost = 0

    def add(self, stamp_ns: int) -> None:
        with self._lock:
            if self._stamps and stamp_ns <= self._stamps[-1]:
                return
            interval_ns = _interval_ns(self._stamps, minimum=5)
            if interval_ns is not None:
                gap_ns = stamp_ns - self._stamps[-1]
                if gap_ns > 1.5 * interval_ns:
                    self.lost += round(gap_ns / interval_ns) - 1
            self._stamps.append(stamp_ns)
            self.received += 1

    def newest_at(self, time_ns: int) -> int | None:
        """Return the newest stamp at or before `time_ns`, as an observation at that time uses; None if forgotten."""
        with self._lock:
            return next((stamp_ns for stamp_ns in reversed(self._stamps) if stamp_ns <= time_ns), None)

    def clear(self) -> None:
        """Forget the stamps, for instance after the clock jumped back or an intended pause; keep the counts."""
        with self._lock:
            self._stamps.clear()

    @property
    def rate_hz(self) -> float | None:
        """Messages per second by their stamps; None with fewer than two."""
        with self._lock:
            interval_ns = _interval_ns(self._stamps, minimum=1)
        return None if interval_ns is None else 1e9 / interval_ns

    @property
    def newest_ns(self) -> int | None:
        with self._lock:
            return self._stamps[-1] if self._stamps else None


def _interval_ns(stamps_ns: Collection[int], minimum: int) -> float | None:
    """Return the median interval, or None with `minimum` stamps or fewer."""
    if len(stamps_ns) <= minimum:
        return None
    return float(np.median(np.diff(np.array(stamps_ns, dtype=np.int64))))
