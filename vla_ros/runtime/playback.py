# SPDX-License-Identifier: Apache-2.0
"""Plays back a recording in place of a policy, optionally slowed down."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.observations.observation import Observation

LEAD_S = 0.5  # stand still before the first action: a chunk takes a tick to arrive, and no action may be lost
REST_S = 0.5  # and after the last one, until the arm has come to rest
_KEEP_OPENING = 0.5  # between the thresholds of `runtime.execution.commands.GripperSwitch`


@dataclasses.dataclass(frozen=True)
class MeasuredState:
    """The robot's state (P,) when recorded frame `frame`, possibly fractional, was due."""

    frame: float
    proprioception: NDArray[np.float64]


class Playback:
    """A `ChunkPolicy` that plans the actions (T, 7) of a recording once `begin` is called, and stands still until then.

    Each action holds for 1 / `speed` ticks, and the governor's `speed_scale` slows its twist by as much, so the path is
    the recorded one. The action that is due depends on the tick alone, no matter when its chunk arrives.

    Args:
        contract: Of the policy that is replaced; determines the chunks.
        command: Of the recording; a different command after `begin` ends the playback.

    Raises:
        ValueError: `speed` is not in (0, 1], or there are no actions.
    """

    def __init__(self, contract: PolicyContract, actions: NDArray[np.float64], command: str, speed: float) -> None:
        if not 0.0 < speed <= 1.0:
            raise ValueError(f"speed must be in (0, 1]; got {speed}")
        if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions):
            raise ValueError(f"actions must have shape (T, 7) with T > 0; got {actions.shape}")
        self.contract = contract
        self.command = command
        self.interrupted: str | None = None  # by this command
        self.seen: list[MeasuredState] = []  # since `begin`, and the last one before it
        self.over = False
        self._actions, self._speed = actions, speed
        self._begun = threading.Event()
        self._start: int | None = None  # tick of the first action

    def begin(self) -> None:
        """Start moving `LEAD_S` after the next observation; call it from any thread."""
        self._begun.set()

    def warm_up(self) -> float:
        return 0.0

    def clear_history(self) -> None: ...

    def reset(self, command: str) -> None:
        if self._begun.is_set() and command != self.command:
            self.interrupted = command

    def step(self, observation: Observation) -> NDArray[np.float64]:
        timing = self.contract.timing
        tick = timing.grid.tick_at(observation.time_ns)
        if self._start is None and self._begun.is_set():
            self._start = tick + round(LEAD_S * timing.control_hz)
        assert observation.proprioception is not None  # the contract asks for the tool's pose
        state = observation.proprioception.astype(np.float64)
        if self._start is None:
            self.seen = [MeasuredState(0.0, state)]
        if self._start is None or self.interrupted is not None:
            return np.tile([0.0] * 6 + [_KEEP_OPENING], (timing.chunk, 1))
        self.seen.append(MeasuredState((tick - self._start) * self._speed, state))
        frames = np.floor((tick + np.arange(timing.chunk) - self._start) * self._speed).astype(int)
        last = len(self._actions) - 1
        chunk: NDArray[np.float64] = self._actions[np.clip(frames, 0, last)]
        chunk[(frames < 0) | (frames > last), :6] = 0.0
        end = self._start + (last + 1) / self._speed + REST_S * timing.control_hz
        self.over = self.over or tick >= end
        return chunk
