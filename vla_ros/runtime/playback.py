# SPDX-License-Identifier: Apache-2.0
"""What was recorded in place of a policy: the demonstrated actions, one after the other, and slower if need be."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.observations.observation import Observation

LEAD_S = 0.5  # it stands still before the first action: a chunk needs a tick to arrive, and none may be lost on the way
REST_S = 0.5  # and after the last one, until the arm has come to rest
_GRIPPER_STAYS = 0.5  # between the thresholds of `runtime.execution.control.GripperSwitch`


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the robot's state was when recorded frame `frame`, a whole number or between two, was due: (P,)."""

    frame: float
    proprioception: NDArray[np.float64]


class Playback:
    """A `ChunkPolicy` that gives the actions (T, 7) of a recording, from `begin` on; until then the arm stands still.

    Each action holds for 1 / `speed` ticks, while a governor with that `speed_scale` makes its twist as much slower:
    the way is the recorded one. Which action is due depends on the tick alone, whenever its chunk has arrived.

    Args:
        contract: of the policy that is stood in for; `step` returns chunks as it has them.
        command: of the recording. Another one, once it has begun, means that somebody wants something else: it ends.

    Raises:
        ValueError: `speed` is not in (0, 1], or there are no actions.
    """

    max_delay_steps = 0

    def __init__(self, contract: PolicyContract, actions: NDArray[np.float64], command: str, speed: float) -> None:
        if not 0.0 < speed <= 1.0:
            raise ValueError(f"the speed is {speed}; allowed: above 0, up to 1")
        if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions):
            raise ValueError(f"the actions have shape {actions.shape}; expected (T, 7)")
        self.contract = contract
        self.command = command
        self.interrupted: str | None = None  # by which other command
        self.seen: list[Seen] = []  # since `begin`, and the newest one before it
        self.over = False
        self._actions, self._speed = actions, speed
        self._begun = threading.Event()
        self._start: int | None = None  # tick of the first action

    def begin(self) -> None:
        """Let it move, from `LEAD_S` after the next observation on; from any thread."""
        self._begun.set()

    def warm_up(self) -> float:
        return 0.0

    def clear_history(self) -> None: ...

    def reset(self, command: str) -> None:
        if self._begun.is_set() and command != self.command:
            self.interrupted = command

    def step(self, observation: Observation, committed: Any = None) -> NDArray[np.float64]:
        timing = self.contract.timing
        tick = observation.time_ns // timing.period_ns
        if self._start is None and self._begun.is_set():
            self._start = tick + round(LEAD_S * timing.control_hz)
        assert observation.proprioception is not None  # whoever makes the contract asks for the tool's pose
        state = observation.proprioception.astype(np.float64)
        if self._start is None:
            self.seen = [Seen(0.0, state)]
        if self._start is None or self.interrupted is not None:
            return np.tile([0.0] * 6 + [_GRIPPER_STAYS], (timing.chunk, 1))
        self.seen.append(Seen((tick - self._start) * self._speed, state))
        frames = np.floor((tick + np.arange(timing.chunk) - self._start) * self._speed).astype(int)
        last = len(self._actions) - 1
        chunk = self._actions[np.clip(frames, 0, last)].copy()
        chunk[(frames < 0) | (frames > last), :6] = 0.0
        end = self._start + (last + 1) / self._speed + REST_S * timing.control_hz
        self.over = self.over or tick >= end
        return chunk
