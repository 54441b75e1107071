# SPDX-License-Identifier: Apache-2.0
"""What a policy is told of the actions that the arm carries out while it computes (the executor delay_aware).

After training-time real-time chunking (arXiv:2512.05964): the chunk goes on from these actions, so that the arm does
not notice when it is taken up. How many there are is foreseen from the ticks that recent chunks took; which they are is
looked up by absolute tick. A wrong guess therefore shifts nothing: a chunk that comes early repeats what it was told,
and one that comes late begins, like any other, with the action of the tick that is really next.

They are the actions as planned, before the robot's limits: that is what training's labels are, and the limits will be
put on the chunk that goes on from them, too. A policy that were told of speeds which the speed scale has halved already
would go on at half of them, to be halved again.

An arm that stands still (at the start, after a stop, unarmed, moved by hand) stays where it was seen until it moves. So
its chunk is laid out from its first motion on and not from the observation, and the policy is told of what comes after
that only: of nothing, D = 0, where nothing is planned. Of the zeros before it is not told. They would be as true, but
say something else: demonstrations begin with their first motion, so that zeros are those of a demonstrator who pauses,
and what follows on them in training are more zeros. Laid out from the observation, the chunk would begin with rows that
count on a motion which never was.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import UserError
from vla_ros.runtime.execution.executors import EXECUTORS
from vla_ros.runtime.execution.timeline import ActionTimeline

# The longest of so many chunks is what the next one may take: one that was slow is forgotten after some seconds.
RECENT_CHUNKS = 20


class ExecutorError(UserError):
    """The executor does not fit the policy."""


@dataclass(frozen=True)
class Delay:
    """How long chunks take, in control ticks.

    `ticks`: that the next one may take, from its observation until it is taken up. `told`: for how many of them the
    newest one knew what the arm does; `allowed`: at most; 0 for executors that tell nothing. `overdue`: chunks, so far,
    that took more ticks than they were told of while the arm moved.
    """

    ticks: int
    told: int
    allowed: int
    overdue: int

    @property
    def clamped(self) -> bool:
        """Whether chunks take longer than the policy can be told of."""
        return self.ticks > self.allowed > 0


def check_trained_for_delays(max_delay_steps: int) -> None:
    """Raise ExecutorError where a policy that can be told of so many actions can't be told of any."""
    if max_delay_steps < 1:
        others = ", ".join(name for name in EXECUTORS if name != "delay_aware")
        raise ExecutorError(
            "executor is 'delay_aware', but the checkpoint was trained without delays (max_delay_steps is 0) and can't "
            f"be told what the arm does meanwhile; use one of {others}, or train with policy.max_delay_steps of at "
            "least the ticks that a chunk takes (docs/policies.md)"
        )


class Commitment:
    """Looks up what is told, and learns from each chunk how long the next one may take. Call it from one thread.

    Args:
        timeline: what will be carried out; its executor says whether the policy is told at all.
        max_delay_steps: the most actions that the policy can be told of.

    Raises:
        ExecutorError: the executor tells the policy, which was not trained for it.
    """

    def __init__(self, timeline: ActionTimeline, max_delay_steps: int) -> None:
        if timeline.tells_policy:
            check_trained_for_delays(max_delay_steps)
        self._timeline = timeline
        self._allowed = max_delay_steps if timeline.tells_policy else 0
        self._recent: deque[int] = deque(maxlen=RECENT_CHUNKS)
        self._delay = Delay(0, 0, self._allowed, 0)

    def expect(self, ticks: int) -> None:
        """Take it that a chunk may take `ticks`, as the last one did."""
        self._recent.append(ticks)
        self._note(told=self._delay.told)

    def actions(self, tick: int) -> NDArray[np.float64]:
        """What the arm does from `tick`, or from its next motion, on until a chunk begun now is there: (D, 7)."""
        told = self._timeline.committed(tick, min(self._delay.ticks, self._allowed))
        self._note(told=len(told) and len(told) + self._timeline.stands_for)
        return told

    def arrived(self, tick: int) -> None:
        """The chunk of the observation of `tick` has just been posted, in time or not."""
        took = self._timeline.ticks_over(tick)
        overdue = self._delay.overdue + (0 < self._delay.told < took)
        self._recent.append(took)
        self._note(told=self._delay.told, overdue=overdue)

    @property
    def delay(self) -> Delay:
        """May be read by any thread."""
        return self._delay

    def _note(self, *, told: int, overdue: int | None = None) -> None:
        so_far = self._delay.overdue if overdue is None else overdue
        self._delay = Delay(max(self._recent, default=0), told, self._allowed, so_far)
