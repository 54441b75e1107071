# SPDX-License-Identifier: Apache-2.0
"""Whether the measured motion of the tool agrees with the commanded one. Plain Python; time is an argument."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WINDOW_S = 1.0
# A commanded displacement that a working arm cannot fail to show, and the part of it that it has to show.
COMMANDED_M = 0.03
FOLLOWED = 0.2
# A pose with new stamps and the very same numbers, while the arm was commanded this far.
FROZEN_S, FROZEN_COMMANDED_M = 0.5, 0.01
# Between two poses the tool cannot move faster than this multiple of its speed limit, plus noise of the estimate.
JUMP_FACTOR, JUMP_NOISE_M = 3.0, 0.02

NOT_FOLLOWING, FROZEN, JUMP = "arm_not_following", "pose_frozen", "pose_jump"


class MotionCheck:
    """Compares the commanded displacement of the tool with the measured one over the last second.

    Args:
        maximum_mps: The speed limit of the tool.
        ignore: Reasons that are switched off in the robot's file.
    """

    def __init__(self, maximum_mps: float, ignore: frozenset[str] = frozenset()) -> None:
        self._maximum_mps = maximum_mps
        self._ignore = ignore
        self.restart()

    def restart(self) -> None:
        """Forget the past: the arm stands, a person moves it, or the clock was set back."""
        # (time, displacement commanded until then, measured position)
        self._history: deque[tuple[float, Array, Array]] = deque()
        self._commanded = np.zeros(3)
        self._pose: Array | None = None
        self._pose_s = 0.0
        self._changed_s = 0.0
        self._commanded_m_since_change = 0.0
        self.detail = ""

    def moved(self, twist: Array | None, dt_s: float) -> None:
        """Note the twist (6,) [m/s, rad/s] that was sent for the last `dt_s`; None for silence."""
        if twist is not None:
            self._commanded = self._commanded + twist[:3] * dt_s
            self._commanded_m_since_change += float(np.linalg.norm(twist[:3])) * dt_s

    def measured(self, pose: Array, now_s: float) -> str | None:
        """Take a new pose (7,) [m, quaternion] of the tool; return what contradicts the commands, or None."""
        reason = self._jump(pose, now_s) or self._frozen(pose, now_s) or self._lag(pose[:3], now_s)
        return None if reason in self._ignore else reason

    def _jump(self, pose: Array, now_s: float) -> str | None:
        before, before_s = self._pose, self._pose_s
        self._pose, self._pose_s = pose.copy(), now_s
        if before is None or np.array_equal(before, pose):
            if before is None:
                self._changed_s = now_s
            return None
        self._changed_s, self._commanded_m_since_change = now_s, 0.0
        distance = float(np.linalg.norm(pose[:3] - before[:3]))
        allowed = JUMP_FACTOR * self._maximum_mps * (now_s - before_s) + JUMP_NOISE_M
        if distance <= allowed:
            return None
        self.detail = f"the pose jumped by {distance:.3f} m in {now_s - before_s:.3f} s"
        return JUMP

    def _frozen(self, pose: Array, now_s: float) -> str | None:
        since_s = now_s - self._changed_s
        if since_s <= FROZEN_S or self._commanded_m_since_change <= FROZEN_COMMANDED_M:
            return None
        self.detail = (
            f"the pose has not changed for {since_s:.1f} s, although {self._commanded_m_since_change * 1e3:.0f} mm of "
            "motion were commanded: its source repeats an old value"
        )
        return FROZEN

    def _lag(self, position: Array, now_s: float) -> str | None:
        self._history.append((now_s, self._commanded.copy(), position.copy()))
        while len(self._history) > 2 and now_s - self._history[1][0] >= WINDOW_S:
            self._history.popleft()
        first_s, first_commanded, first_position = self._history[0]
        commanded, measured = self._commanded - first_commanded, position - first_position
        length = float(np.linalg.norm(commanded))
        if now_s - first_s < WINDOW_S or length < COMMANDED_M:
            return None
        followed = float(measured @ commanded) / length**2
        if followed >= FOLLOWED:
            return None
        self.detail = (
            f"{length * 1e3:.0f} mm were commanded in {now_s - first_s:.1f} s, the tool moved {followed:.0%} of it: "
            "is the arm blocked, in another mode, or under another controller?"
        )
        return NOT_FOLLOWING
