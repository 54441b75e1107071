# SPDX-License-Identifier: Apache-2.0
"""What the people and the machines around the policy say about moving, as one reason or none. Time is given, in s."""

from __future__ import annotations

# A deadman that does not repeat itself has been let go, and so has a takeover.
ENABLE_MAX_AGE_S = 0.5
TAKEOVER_MAX_AGE_S = 0.3


class Interlocks:
    """The newest word of each who may stop the arm. Call it from one thread at a time.

    Args:
        require_enable: whether the arm may only move while `enable(True)` is repeated within `ENABLE_MAX_AGE_S`.

    `publishers` is how many publish on the command topic, the policy itself included. `unheard`: the reason why
    somebody who could stop the arm would not be heard (a button, a stop word, a hand whose messages cannot arrive).
    `sink` says why what carries the commands out (MoveIt Servo, the gripper's action server) is not ready, or None.
    """

    def __init__(self, *, require_enable: bool) -> None:
        self.publishers = 1
        self.unheard: str | None = None
        self.sink: str | None = None
        self._require_enable = require_enable
        self._enabled_s: float | None = None
        # An emergency stop was pressed, and nobody has reset it since.
        self.emergency = False
        self._pressed = False
        self._takeover_s: float | None = None

    def enable(self, enabled: bool, now_s: float) -> None:
        """The deadman: true holds for `ENABLE_MAX_AGE_S`, false at once."""
        self._enabled_s = now_s if enabled else None

    def emergency_stop(self, pressed: bool) -> None:
        """The emergency stop; it holds until it has been released and then `reset`."""
        self._pressed = pressed
        self.emergency = self.emergency or pressed

    def takeover(self, now_s: float) -> None:
        """Somebody moves the arm by hand now."""
        self._takeover_s = now_s

    def reset(self) -> bool:
        """Leave an emergency stop; False: its button is still pressed."""
        self.emergency = self._pressed
        return not self._pressed

    def taken_over(self, now_s: float) -> bool:
        """Whether somebody has moved the arm by hand within `TAKEOVER_MAX_AGE_S`."""
        return self._takeover_s is not None and now_s - self._takeover_s <= TAKEOVER_MAX_AGE_S

    def reason(self, now_s: float) -> str | None:
        """What speaks against any motion, whoever commands it; the gravest first."""
        if self.emergency:
            return "emergency_stop"
        if self.unheard is not None:
            return self.unheard
        if self.publishers > 1:
            return "second_publisher"
        if self._require_enable and (self._enabled_s is None or now_s - self._enabled_s > ENABLE_MAX_AGE_S):
            return "disabled"
        return self.sink
