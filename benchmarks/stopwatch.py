# SPDX-License-Identifier: Apache-2.0
"""How long a call takes, and how much longer than another one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the ratio of two medians."""
    return statistics.median(one) / statistics.median(other)
