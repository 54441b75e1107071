# SPDX-License-Identifier: Apache-2.0
"""When a new language command takes the place of the one that is followed. Pure: no ROS, no time but control ticks."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection

REPLACE, AFTER_CHUNK, AFTER_SUCCESS = "replace", "after_chunk", "after_success"
WAITING_AT_MOST = 100


def is_stop(text: str, stop_words: Collection[str]) -> bool:
    """Whether `text` says to stop: nothing at all, or one of `stop_words` alone, in whatever case and punctuation."""
    said = " ".join(re.sub(r"[^\w\s]", " ", text).casefold().split())
    return not said or said in {word.casefold() for word in stop_words}


class CommandQueue:
    """Commands in the order in which they are to be followed; to stop is never queued.

    Args:
        when: a new command is followed at once (replace), when the plan that is being carried out has come to its end
            (after_chunk), or when the task of the command before has succeeded (after_success).
        stop_words: commands that mean stop, beside the empty one.

    Raises:
        ValueError: there is no such `when`.
    """

    def __init__(self, when: str, stop_words: Collection[str]) -> None:
        if when not in (REPLACE, AFTER_CHUNK, AFTER_SUCCESS):
            allowed = ", ".join((REPLACE, AFTER_CHUNK, AFTER_SUCCESS))
            raise ValueError(f"on_new_command is {when!r}; allowed: {allowed}")
        self._when = when
        self._stop_words = tuple(stop_words)
        self._waiting: deque[str] = deque()
        # Since when `following` is followed, where a command before it was; and the tick with which its plan ends.
        self._since_tick: int | None = None
        self._ends_tick: int | None = None
        self.following = ""

    @property
    def waiting(self) -> tuple[str, ...]:
        """The commands that are still to come."""
        return tuple(self._waiting)

    def offer(self, text: str, plan: range | None) -> str | None:
        """Take a command; returns what to follow from now on, or None: nothing changes yet.

        Args:
            plan: the ticks that the newest plan has actions for, from the one whose observation it answers; None
                without a plan.

        Raises:
            OverflowError: `WAITING_AT_MOST` commands wait already.
        """
        if is_stop(text, self._stop_words):
            return self._follow("", forget=True)
        if self._when == REPLACE or not self.following:
            return self._follow(text, forget=True)
        if len(self._waiting) >= WAITING_AT_MOST:
            raise OverflowError(f"{WAITING_AT_MOST} commands are waiting; say stop, which forgets them")
        if not self._waiting and self._since_tick is None:
            self._ends_tick = None if plan is None else plan.stop
        self._waiting.append(text)
        return None

    def tick(self, tick: int, plan: range | None) -> str | None:
        """What to follow from this control tick on, or None: nothing changes. `plan`: as for `offer`."""
        if self._when != AFTER_CHUNK:
            return None
        if self._since_tick is not None:
            # The observation of the tick in which a command is taken up may still hold the one before.
            if plan is None or plan.start <= self._since_tick:
                return None
            self._since_tick, self._ends_tick = None, plan.stop
        if not self._waiting or (self._ends_tick is not None and tick < self._ends_tick):
            return None
        following = self._next()
        self._since_tick = tick
        return following

    def succeeded(self) -> str | None:
        """The task has succeeded; returns what to follow from now on, or None: nothing changes."""
        return self._next() if self._when == AFTER_SUCCESS and self._waiting else None

    def _next(self) -> str:
        return self._follow(self._waiting.popleft(), forget=False)

    def _follow(self, text: str, *, forget: bool) -> str:
        if forget:
            self._waiting.clear()
        self._since_tick = self._ends_tick = None
        self.following = text
        return text
