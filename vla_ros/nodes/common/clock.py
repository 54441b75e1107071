# SPDX-License-Identifier: Apache-2.0
"""The ROS clock, simulated or not, as the runtime's clock, and a thread that ticks on a clock's grid."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import rclpy.clock
from rclpy.duration import Duration

from vla_ros.grid import Grid
from vla_ros.runtime.planning.engine import Clock

_EVERY_JUMP = rclpy.clock.JumpThreshold(
    min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1), on_clock_change=True
)


def steady_clock() -> rclpy.clock.Clock:
    """Return a clock that neither stops nor jumps, whatever ROS time does."""
    return rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)  # type: ignore[attr-defined]  # Humble


class RosClock:
    """A `vla_ros.runtime.planning.engine.Clock`.

    With simulated time, messages on /clock wake sleepers, so the node must be spun.

    Args:
        clock: the node's.
        on_set_back: called in the spinning thread when simulated time goes back or the source of time changes.
    """

    def __init__(self, clock: rclpy.clock.ROSClock, on_set_back: Callable[[], None] | None = None) -> None:
        self._clock = clock
        self._on_set_back = on_set_back
        self._changed = threading.Condition()
        self._times_set_back = 0
        self._closed = False
        self._jumps = clock.create_jump_callback(_EVERY_JUMP, post_callback=self._on_jump)

    def now_ns(self) -> int:
        return int(self._clock.now().nanoseconds)

    def sleep_until_ns(self, time_ns: int) -> bool:
        with self._changed:
            times_set_back, before_ns = self._times_set_back, self.now_ns()
            while not self._closed and self._times_set_back == times_set_back:
                now_ns = self.now_ns()
                remaining_ns = time_ns - now_ns
                if remaining_ns <= 0:
                    return True
                if now_ns < before_ns:  # the system clock causes no jump callback
                    return False
                before_ns = now_ns
                self._changed.wait(None if self._clock.ros_time_is_active else remaining_ns / 1e9)
            return False

    def close(self) -> None:
        self._jumps.unregister()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _on_jump(self, jump: rclpy.clock.TimeJump) -> None:
        unchanged = (rclpy.clock.ClockChange.ROS_TIME_NO_CHANGE, rclpy.clock.ClockChange.SYSTEM_TIME_NO_CHANGE)
        set_back = jump.delta.nanoseconds < 0 or jump.clock_change not in unchanged
        with self._changed:
            self._times_set_back += set_back
            self._changed.notify_all()
        if set_back and self._on_set_back is not None:
            self._on_set_back()


class GridThread:
    """Calls back at every tick of a grid on a clock, in its own thread, also after the clock has jumped.

    An executor's timer would wait for the callback being executed, and for the executor to poll every subscription
    before it: milliseconds, with cameras.

    `stop` closes the clock. An exception in `callback` ends the thread, and `check` raises it again. `on_start` is
    called first, in the thread.
    """

    def __init__(
        self, clock: Clock, grid: Grid, callback: Callable[[], None], on_start: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._on_start = on_start
        self._grid = grid
        self._callback = callback
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vla_control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the callback being executed, if any. Do not call it from the callback."""
        self._stopping = True
        self._clock.close()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raise what the callback has raised, in the calling thread."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self._on_start()
            while not self._stopping:
                next_tick = self._grid.tick_at(self._clock.now_ns()) + 1
                if self._clock.sleep_until_ns(self._grid.start_ns(next_tick)):
                    self._callback()
        except BaseException as error:
            self._error = error


def take_real_time_priority(priority: int) -> str | None:
    """Give the calling thread real-time priority (Linux's SCHED_FIFO, see sched(7)), as ros2_control does.

    Returns why it was refused, for people; None on success. A `priority` of 0 changes nothing.
    """
    if priority == 0:
        return None
    if not hasattr(os, "sched_setscheduler"):
        return "this system has no SCHED_FIFO"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return f"permission denied; add the line `@realtime - rtprio {priority}` to /etc/security/limits.conf"
    except OSError as error:
        return str(error)
    return None
