# SPDX-License-Identifier: Apache-2.0
"""Which samples of a stream any tick takes: the others need not be read.

A tick takes, of what was received until it had settled, the newest sample stamped at or before it. So of the samples
that the same tick could take first, only the newest is ever taken: where that one is there, all others of them are too.
The observation buffer decides, as on the robot; here is only said what makes no difference to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.observations.observation import KEPT_NS, KEPT_SAMPLES


def taken(
    time_ns: NDArray[np.int64],
    receive_ns: NDArray[np.int64],
    ticks: NDArray[np.int64] | None,
    period_ns: int,
    settle_ns: int,
) -> NDArray[np.bool_]:
    """Say which samples (n,), of these times and in the order of receipt, the buffer has to be given.

    ticks: ascending, those at which it is asked; None: any.
    """
    if not _forgets_nothing_needed(time_ns, receive_ns, settle_ns):
        return np.ones(len(time_ns), bool)
    first = np.maximum(-(-time_ns // period_ns), -(-(receive_ns - settle_ns) // period_ns))
    if ticks is not None:
        index = np.searchsorted(ticks, first)
        first = np.append(ticks, np.iinfo(np.int64).max)[index]
    # By the tick, then by the time; of equal times the one that was received first counts.
    order = np.lexsort((-np.arange(len(first)), time_ns, first))
    newest = np.append(first[order][1:] != first[order][:-1], True)[: len(first)]
    result = np.zeros(len(first), bool)
    result[order[newest]] = True
    return result & (first != np.iinfo(np.int64).max)


def _forgets_nothing_needed(
    time_ns: NDArray[np.int64], receive_ns: NDArray[np.int64], settle_ns: int
) -> bool:  # fmt: skip
    """Whether the buffer, given all samples, never forgets one that a tick would take.

    It forgets what is `KEPT_NS` older than a sample, or more than `KEPT_SAMPLES` before it. A tick would take
    that where stamps lie that far in the future (two clocks), or samples come that fast.
    """
    ahead_ns = int((time_ns - receive_ns).max(initial=0)) + settle_ns
    fastest = receive_ns[KEPT_SAMPLES:] - receive_ns[:-KEPT_SAMPLES]
    return ahead_ns < KEPT_NS and bool((fastest > 2 * KEPT_NS).all())
