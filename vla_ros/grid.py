# SPDX-License-Identifier: Apache-2.0
"""The time grid of a rate: the same ticks in bags, on the robot, in evaluation and in checkpoints."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

SECOND_NS = 1_000_000_000
# Rates are given as decimals or floats; 29.97 is 2997/100 Hz, and 29.97002997002997 is 30000/1001 Hz.
MAX_DENOMINATOR = 1_000_000

_Numbers = TypeVar("_Numbers", int, NDArray[np.int64])


class Grid:
    """Tick k is at round(k / rate_hz), in ns since the epoch, halves rounded up.

    Each time follows from its number alone, so rounding never adds up. A tick lasts until the next one: at rates whose
    period is no whole number of nanoseconds, ticks differ by 1 ns.

    Numbers and times may be ints or int64 arrays, also negative.

    Args:
        rate_hz: Ticks per second, taken as the nearest fraction with a denominator of up to `MAX_DENOMINATOR`.

    Raises:
        ValueError: `rate_hz` is not a positive number.

    Attributes:
        rate_hz: Exactly.
        period_s: Of one tick [s].
        period_ns: Of one tick, rounded [ns]. Never multiply it by a number of ticks: that is what drifts.
    """

    def __init__(self, rate_hz: float | Fraction) -> None:
        self.rate_hz = Fraction(rate_hz).limit_denominator(MAX_DENOMINATOR)
        if self.rate_hz <= 0:
            raise ValueError(f"rate_hz must be positive; got {rate_hz}")
        self.period_s = float(1 / self.rate_hz)
        # The period in ns is _whole + _rest / _parts. For rates of up to 1 kHz, no product below overflows 64 bits.
        period_ns = SECOND_NS / self.rate_hz
        self._parts = period_ns.denominator
        self._whole, self._rest = divmod(period_ns.numerator, self._parts)
        self.period_ns = round(period_ns)

    def start_ns(self, tick: _Numbers) -> _Numbers:
        """Return when `tick` begins."""
        parts, rest = self._parts, self._rest
        return tick * self._whole + tick // parts * rest + (2 * (tick % parts) * rest + parts) // (2 * parts)

    def tick_at(self, time_ns: _Numbers) -> _Numbers:
        """Return the tick that `time_ns` lies in: the newest that begins at or before it."""
        near = self._near(time_ns)
        return near + (self.start_ns(near + 1) <= time_ns) - (self.start_ns(near) > time_ns)

    def first_from(self, time_ns: _Numbers) -> _Numbers:
        """Return the first tick that begins at or after `time_ns`."""
        return self.tick_at(time_ns - 1) + 1

    def _near(self, time_ns: _Numbers) -> _Numbers:
        """Return the tick of `time_ns`, or one next to it; exactly, its product overflows 64 bits."""
        if isinstance(time_ns, np.ndarray):
            return np.floor(time_ns / (SECOND_NS / float(self.rate_hz))).astype(np.int64)
        return time_ns * self._parts // (self._whole * self._parts + self._rest)
