# SPDX-License-Identifier: Apache-2.0
"""One demonstration, sampled on the control grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

OUTCOMES = ("success", "failure", "unknown")


@dataclasses.dataclass(frozen=True)
class Episode:
    """T consecutive control ticks of one command: what was seen at each, and what was done from it on.

    images: camera -> (T, h, w, 3) uint8 RGB at the network's size; cameras in the contract's order
    proprioception: (T, P) float32 in physical units; P = 0 where the contract has none
    actions: (T, 7) float64, [vx vy vz wx wy wz] in m/s and rad/s averaged over the control period that begins at the
        tick, in the robot's base frame, and the gripper opening in [0 closed, 1 open]
    command: the language command in force; task: the task's name, equal to the command where nothing else is known
    outcome: "success", "failure" or "unknown" (nobody said)
    source: the recording and the episode in it; pieces of one recorded episode share it, so split by it
    start_ns: time of the first tick; ticks: (T,) int64, absolute numbers of the control grid
    phrasings: ways to say the command, itself among them; empty where there is only the one
    executed: (T, 7) float64, what moved the arm, where that was recorded beside what was meant by it (`actions`), in
        the same units: a demonstrator's noise (DART) is in here; None: `actions` did

    Raises:
        ValueError: an array has the wrong shape, type or length, a number is not finite, or the ticks have a gap.
    """

    images: Mapping[str, NDArray[np.uint8]]
    proprioception: NDArray[np.float32]
    actions: NDArray[np.float64]
    command: str
    task: str
    outcome: str
    source: str
    start_ns: int
    ticks: NDArray[np.int64]
    phrasings: tuple[str, ...] = ()
    executed: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        length = len(self.ticks)
        _require(length > 0, "ticks", self.ticks.shape, "at least one tick")
        for camera, images in self.images.items():
            shape = f"({length}, h, w, 3) uint8"
            valid = images.dtype == np.uint8 and images.ndim == 4 and images.shape[::3] == (length, 3)
            _require(valid, f"images[{camera!r}]", (images.shape, images.dtype), shape)
        _require_numbers("proprioception", self.proprioception, np.float32, (length, self.proprioception.shape[-1]))
        _require_numbers("actions", self.actions, np.float64, (length, 7))
        if self.executed is not None:
            _require_numbers("executed", self.executed, np.float64, (length, 7))
        opening = self.actions[:, 6]
        _require(bool(((opening >= 0) & (opening <= 1)).all()), "gripper opening", opening, "0 (closed) to 1 (open)")
        _require(bool((np.diff(self.ticks) == 1).all()), "ticks", self.ticks, "consecutive numbers")
        known = not self.phrasings or self.command in self.phrasings
        _require(known, "phrasings", self.phrasings, f"none, or {self.command!r} among them")
        _require(self.outcome in OUTCOMES, "outcome", self.outcome, OUTCOMES)

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def done(self) -> NDArray[np.float64]:
        """What moved the arm at each tick (T, 7), whatever was meant by it."""
        return self.actions if self.executed is None else self.executed

    @property
    def commands(self) -> tuple[str, ...]:
        """All ways to say what is done, the command that was in force first."""
        return (self.command, *(text for text in self.phrasings if text != self.command))


def _require_numbers(what: str, array: NDArray, dtype: type, shape: tuple[int, ...]) -> None:
    valid = array.dtype == dtype and array.shape == shape
    _require(valid, what, (array.shape, array.dtype), f"{shape} {np.dtype(dtype).name}")
    _require(bool(np.isfinite(array).all()), what, "a number that is not finite", "finite numbers")


def _require(condition: bool, what: str, value: object, allowed: object) -> None:
    if not condition:
        raise ValueError(f"episode {what}: got {value}; expected {allowed}")
