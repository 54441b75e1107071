# SPDX-License-Identifier: Apache-2.0
"""The priority of a thread that must not wait for others: Linux's SCHED_FIFO, as ros2_control takes it for its loop."""

from __future__ import annotations

import os


def take_real_time_priority(priority: int) -> str | None:
    """Have the calling thread run before all that are not real-time (sched(7), SCHED_FIFO); 0: leave it as it is.

    Returns:
        Why that was not possible, for people; None when it was, or was not asked for.
    """
    if priority == 0:
        return None
    if not hasattr(os, "sched_setscheduler"):
        return "this system has no SCHED_FIFO"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return f"this user may not; allow it with a line `@realtime - rtprio {priority}` in /etc/security/limits.conf"
    except OSError as error:
        return str(error)
    return None
