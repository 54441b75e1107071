# SPDX-License-Identifier: Apache-2.0
"""The ROS clock, simulated or not, as the runtime's clock; and a thread that ticks on the grid of a clock."""

from __future__ import annotations

import threading
from collections.abc import Callable

import rclpy.clock
from rclpy.duration import Duration

from vla_ros.runtime.planning.clock import Clock

_EVERY_JUMP = rclpy.clock.JumpThreshold(
    min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1), on_clock_change=True
)


class RosClock:
    """See `vla_ros.runtime.planning.clock.Clock`.

    With simulated time a sleeper is woken by the messages on /clock, so something has to spin the node.

    Args:
        clock: the node's.
        on_set_back: called, from the thread that spins, when simulated time goes back or the source of time changes.
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
                if now_ns < before_ns:  # the system's clock: no jump tells of it
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
    """Calls back at every multiple of `period_ns` of a clock, in a thread of its own.

    It finds the grid again after the clock has jumped.

    A timer of the executor would wait for whatever callback is at work, and for the executor to look at every
    subscription before it: milliseconds, with cameras.

    Args:
        clock: of the grid; `stop` closes it.
        callback: what it raises ends the thread, and is raised again by `check`.
        on_start: called first, in the thread.
    """

    def __init__(
        self, clock: Clock, period_ns: int, callback: Callable[[], None], on_start: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._on_start = on_start
        self._period_ns = period_ns
        self._callback = callback
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vla_control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when the callback that was at work, if any, has ended. Not from the callback."""
        self._stopping = True
        self._clock.close()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raise what the callback has raised, in the thread that asks."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self._on_start()
            while not self._stopping:
                now_ns = self._clock.now_ns()
                if self._clock.sleep_until_ns(now_ns - now_ns % self._period_ns + self._period_ns):
                    self._callback()
        except BaseException as error:
            self._error = error
