# SPDX-License-Identifier: Apache-2.0
"""The ROS clock, simulated or not, as the runtime's clock; and a timer on the grid of that clock."""

from __future__ import annotations

import threading
from collections.abc import Callable

import rclpy.clock
from rclpy.duration import Duration
from rclpy.node import Node

_EVERY_JUMP = rclpy.clock.JumpThreshold(
    min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1), on_clock_change=True
)


class RosClock:
    """See `vla_ros.runtime.clock.Clock`.

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


class GridTimer:
    """Calls back at every multiple of `period_ns` of the node's ROS clock.

    An rclpy timer starts its period when it is made; this one is set anew at each call, so that it also finds the grid
    again after the clock has jumped.
    """

    def __init__(self, node: Node, period_ns: int, callback: Callable[[], None]) -> None:
        self._node = node
        self._period_ns = period_ns
        self._callback = callback
        self._timer = node.create_timer(period_ns / 1e9, self._on_timer)
        self.align()

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)

    def _on_timer(self) -> None:
        self.align()
        self._callback()

    def align(self) -> None:
        """Find the grid again, for instance after the clock was set back."""
        now_ns = self._node.get_clock().now().nanoseconds
        until_next_ns = self._period_ns - now_ns % self._period_ns
        if until_next_ns < self._period_ns // 2:
            # It came early: this call is for the multiple just ahead, the next one for the one after.
            until_next_ns += self._period_ns
        self._timer.timer_period_ns = until_next_ns
        self._timer.reset()
