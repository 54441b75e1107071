# SPDX-License-Identifier: Apache-2.0
"""The queue of language commands: decides which one is followed, and when a new one takes over.

Pure: no ROS, no time but control ticks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection

REPLACE, AFTER_CHUNK, AFTER_SUCCESS = "replace", "after_chunk", "after_success"
MAX_WAITING = 100
STOP_WORDS = ["stop", "halt", "freeze", "abort", "cancel", "wait", "no", "e-stop"]
# A sentence of up to this many words stops if it contains a stop word: "stop please", "no, wait".
STOP_SENTENCE_WORDS = 5
MAX_CHARACTERS = 2000


class CommandTooLong(ValueError):
    """A text that cannot be a command."""


def is_stop(text: str, stop_words: Collection[str]) -> bool:
    """Return whether `text` is empty, or a short sentence with one of `stop_words`, ignoring case and punctuation."""
    words = _normalized(text)
    if not words or len(words) > STOP_SENTENCE_WORDS:
        return not words
    sentence = f" {' '.join(words)} "
    return any(f" {' '.join(stop)} " in sentence for stop in map(_normalized, stop_words) if stop)


def _normalized(text: str) -> list[str]:
    return re.sub(r"[\W_]", " ", text).casefold().split()


class CommandQueue:
    """Commands in the order in which they will be followed; a stop is never queued.

    Args:
        when: a new command is followed at once (replace), at the end of the plan being executed (after_chunk), or once
            the current task has succeeded (after_success).
        stop_words: commands that mean stop, besides the empty one.

    Attributes:
        following: the command being followed; empty for none.

    Raises:
        ValueError: unknown `when`.
    """

    def __init__(self, when: str, stop_words: Collection[str]) -> None:
        if when not in (REPLACE, AFTER_CHUNK, AFTER_SUCCESS):
            allowed = ", ".join((REPLACE, AFTER_CHUNK, AFTER_SUCCESS))
            raise ValueError(f"on_new_command must be one of {allowed}; got {when!r}")
        self._when = when
        self._stop_words = tuple(stop_words)
        self._waiting: deque[str] = deque()
        # When `following` took over from another command, and the tick at which its plan ends.
        self._since_tick: int | None = None
        self._ends_tick: int | None = None
        self.following = ""

    def is_stop(self, text: str) -> bool:
        """Return whether `text` means stop."""
        return is_stop(text, self._stop_words)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The commands to follow next."""
        return tuple(self._waiting)

    def offer(self, text: str, plan: range | None) -> str | None:
        """Add a command; return the command to follow from now on, None for no change.

        `plan`: ticks covered by the newest plan, from that of its observation; None without a plan.

        Raises:
            OverflowError: `MAX_WAITING` commands are waiting already.
        """
        if len(text) > MAX_CHARACTERS:
            self._follow("", forget=True)
            raise CommandTooLong(f"a command may have {MAX_CHARACTERS} characters; this one has {len(text)}: stopping")
        if is_stop(text, self._stop_words):
            return self._follow("", forget=True)
        if self._when == REPLACE or not self.following:
            return self._follow(text, forget=True)
        if len(self._waiting) >= MAX_WAITING:
            raise OverflowError(f"{MAX_WAITING} commands are waiting already; a stop command clears the queue")
        if not self._waiting and self._since_tick is None:
            self._ends_tick = None if plan is None else plan.stop
        self._waiting.append(text)
        return None

    def tick(self, tick: int, plan: range | None) -> str | None:
        """Return the command to follow from this control tick on; None for no change. `plan`: as for `offer`."""
        if self._when != AFTER_CHUNK:
            return None
        if self._since_tick is not None:
            # The observation of the tick at which a command takes over may still hold the previous one.
            if plan is None or plan.start <= self._since_tick:
                return None
            self._since_tick, self._ends_tick = None, plan.stop
        if not self._waiting or (self._ends_tick is not None and tick < self._ends_tick):
            return None
        following = self._next()
        self._since_tick = tick
        return following

    def succeeded(self) -> str | None:
        """Report that the task has succeeded; return the command to follow from now on, None for no change."""
        return self._next() if self._when == AFTER_SUCCESS and self._waiting else None

    def _next(self) -> str:
        return self._follow(self._waiting.popleft(), forget=False)

    def _follow(self, text: str, *, forget: bool) -> str:
        if forget:
            self._waiting.clear()
        self._since_tick = self._ends_tick = None
        self.following = text
        return text
