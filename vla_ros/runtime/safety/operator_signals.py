# SPDX-License-Identifier: Apache-2.0
"""Signals of people as events: deadman, emergency stops, takeover by hand. Plain Python; time is an argument.

A level that the last writer wins loses what one person said as soon as another speaks. So every `false` of a deadman
counts for a while, each emergency stop keeps its own state, and a takeover that breaks off is not a handover.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DEADMAN_MAX_AGE_S = 0.5
DEADMAN_HOLD_S = 0.5
TAKEOVER_MAX_AGE_S = 0.3
# A stamp further ahead than this comes from another clock.
TAKEOVER_MAX_AHEAD_S = 0.3


class Deadman:
    """The `enable` topic: true must repeat within `max_age_s`; every false holds the arm for `hold_s`.

    Args:
        required: Whether the arm may only move while the deadman is held.
    """

    def __init__(self, *, required: bool, max_age_s: float = DEADMAN_MAX_AGE_S, hold_s: float = DEADMAN_HOLD_S) -> None:
        self.required = required
        self._max_age_s = max_age_s
        self._hold_s = hold_s
        self._held_s: float | None = None
        self._released_s: float | None = None

    def hear(self, held: bool, now_s: float) -> None:
        """Take one message."""
        if held:
            self._held_s = now_s
        else:
            self._released_s = now_s

    def reason(self, now_s: float) -> str | None:
        """Return `disabled` (released), `operator_lost` (silent after it was held), or None."""
        if not self.required:
            return None
        if self._held_s is None or (self._released_s is not None and now_s - self._released_s <= self._hold_s):
            return "disabled"
        if now_s - self._held_s <= self._max_age_s:
            return None
        return "disabled" if self._released_s is not None and self._released_s >= self._held_s else "operator_lost"


@dataclasses.dataclass
class _Button:
    heartbeat_s: float | None
    pressed: bool = False
    heard_s: float | None = None
    publishers: int = 0
    problem: str | None = None


class EmergencyStops:
    """Every emergency stop of the robot's file with its own state; one of them is enough to stop the arm.

    A press is latched until every button is released and a person resets. A button whose publisher disappears, or whose
    heartbeat stops, counts as pressed.

    Args:
        heartbeats_s: For each topic the longest silence, or None for a button that only speaks when it changes.
    """

    def __init__(self, heartbeats_s: dict[str, float | None]) -> None:
        self._buttons = {topic: _Button(heartbeat) for topic, heartbeat in heartbeats_s.items()}
        self._latched = ""

    @property
    def latched(self) -> str:
        """Why the arm was stopped: names the topic; empty if nothing is latched."""
        return self._latched

    def hear(self, topic: str, pressed: bool, now_s: float) -> bool:
        """Take one message; return whether this is a new stop, to be acted on at once."""
        button = self._buttons[topic]
        button.pressed, button.heard_s = pressed, now_s
        return pressed and self._latch(f"{topic} was pressed")

    def look(self, topic: str, publishers: int, problem: str | None, now_s: float) -> bool:
        """Take what the ROS graph shows; return whether this is a new stop.

        Args:
            publishers: How many publish on the topic.
            problem: Why messages of one of them cannot arrive (type or QoS mismatch), or None.
        """
        button = self._buttons[topic]
        vanished = publishers < button.publishers and publishers == 0
        button.publishers, button.problem = publishers, problem
        if vanished:
            return self._latch(f"the publisher of {topic} is gone")
        if self._silent(button, now_s):
            return self._latch(f"{topic} has been silent for more than {button.heartbeat_s:g} s")
        return False

    def reset(self, now_s: float) -> str | None:
        """Release the latch; return why that is not possible, or None."""
        for topic, button in self._buttons.items():
            if button.pressed:
                return f"{topic} is still pressed: release it, then reset"
            if self._silent(button, now_s):
                return f"{topic} sends no heartbeat: restart its publisher, then reset"
            if button.publishers > 1:  # one may hide that another is still pressed
                return f"{topic} has {button.publishers} publishers: end all but one, then reset"
        self._latched = ""
        return None

    def summary(self, now_s: float) -> dict[str, str]:
        """Return what each button says, for diagnostics."""
        return {topic: self._word(button, now_s) for topic, button in self._buttons.items()}

    def problems(self) -> list[str]:
        """Return which buttons cannot be heard, and why."""
        return [f"{topic}: {button.problem}" for topic, button in self._buttons.items() if button.problem is not None]

    def _word(self, button: _Button, now_s: float) -> str:
        if button.pressed or self._silent(button, now_s):
            return "pressed" if button.pressed else "silent"
        if button.publishers == 0:
            return "no publisher"
        return "released" if button.heard_s is not None else "nothing heard yet"

    def reason(self, now_s: float) -> tuple[str, str] | None:
        """Return (reason, detail) of what keeps the arm from moving, or None."""
        if self._latched:
            return "emergency_stop", self._latched
        for topic, button in self._buttons.items():
            if button.problem is not None:
                return "emergency_stop_unheard", f"{topic}: {button.problem}"
            if button.publishers > 1:
                text = f"{topic} has {button.publishers} publishers: give each button its own topic in the robot's file"
                return "emergency_stop_ambiguous", text
            if button.heartbeat_s is not None and button.heard_s is None:
                return "emergency_stop_unheard", f"{topic}: no heartbeat yet, expected every {button.heartbeat_s:g} s"
        return None

    @staticmethod
    def _silent(button: _Button, now_s: float) -> bool:
        heard = button.heartbeat_s is not None and button.heard_s is not None
        return heard and now_s - button.heard_s > button.heartbeat_s  # type: ignore[operator]  # both are set

    def _latch(self, why: str) -> bool:
        new = not self._latched
        self._latched = self._latched or why
        return new


class Takeover:
    """A person moves the arm by hand: twists on `takeover_twist` take precedence over the plan.

    A stream that ends with a zero twist was handed back; one that breaks off has lost its operator.
    """

    def __init__(self, max_age_s: float = TAKEOVER_MAX_AGE_S) -> None:
        self._max_age_s = max_age_s
        self._twist: NDArray[np.float64] | None = None
        self._heard_s = -math.inf
        self._opening: tuple[float, float] | None = None

    def hear(self, twist: Iterable[float], stamp_age_s: float | None, now_s: float) -> str | None:
        """Take one twist (6,) [m/s, rad/s] in the base frame; return why it was dropped, or None.

        Args:
            stamp_age_s: Age of the message's stamp on our clock; None if it carries no stamp.
        """
        values = np.array(list(twist), dtype=np.float64)
        if not np.isfinite(values).all():
            return "it is not finite"
        if stamp_age_s is not None and stamp_age_s > self._max_age_s:
            return (
                f"its stamp is {stamp_age_s:.2f} s old (limit {self._max_age_s:g} s): the link lags, or clocks differ"
            )
        if stamp_age_s is not None and stamp_age_s < -TAKEOVER_MAX_AHEAD_S:
            return f"its stamp is {-stamp_age_s:.2f} s ahead: synchronise the clocks"
        self._twist, self._heard_s = values, now_s
        return None

    def hear_gripper(self, opening: float, now_s: float) -> None:
        """Take a gripper opening in [0 closed, 1 open]; it counts only during a takeover."""
        self._opening = opening, now_s

    def opening(self, now_s: float) -> float | None:
        """Return an opening that arrived within `max_age_s`, once; None without one."""
        opening, self._opening = self._opening, None
        return opening[0] if opening is not None and now_s - opening[1] <= self._max_age_s else None

    def twist(self, now_s: float) -> NDArray[np.float64] | None:
        """Return the newest twist while the takeover lasts, or None."""
        return self._twist if self._twist is not None and now_s - self._heard_s <= self._max_age_s else None

    def ended(self, now_s: float) -> str | None:
        """Return, once, how a takeover ended: `handed_back` or `operator_lost`; None while it lasts or without one."""
        if self._twist is None or now_s - self._heard_s <= self._max_age_s:
            return None
        last, self._twist = self._twist, None
        return "operator_lost" if last.any() else "handed_back"
