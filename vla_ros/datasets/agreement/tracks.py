# SPDX-License-Identifier: Apache-2.0
"""What was commanded in an episode, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from vla_ros.datasets.agreement.corrections import OPENING, POSITION, ROTATION_6D, Array, tool_path
from vla_ros.datasets.episode import Episode


@dataclasses.dataclass(frozen=True)
class Track:
    """T control periods: actions (T, 7) as in `Episode`, and what was measured at the beginning of each, if recorded.

    Attributes:
        positions: (T, 3) [m] of the tool in the base frame; None without a pose, like `rotations`.
        rotations: T orientations of the tool in the base frame.
        openings: (T,) of the gripper, in [0 closed, 1 open].
    """

    actions: Array
    positions: Array | None
    rotations: Rotation | None
    openings: Array | None

    @classmethod
    def of(cls, episode: Episode, names: Sequence[str]) -> Track:
        """Return an episode's track; `names` are those of its proprioceptive values."""
        positions = rotations = openings = None
        if {*POSITION, *ROTATION_6D} <= set(names):
            positions, rotations = tool_path(names, episode.proprioception)
        if OPENING in names:
            openings = episode.proprioception[:, list(names).index(OPENING)].astype(np.float64)
        return cls(
            episode.actions.copy(), positions, rotations, openings
        )  # a store's are read-only, which SciPy refuses

    def __len__(self) -> int:
        return len(self.actions)


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """What is wrong between commanded and measured motion.

    Attributes:
        name: The kind, such as `corrections.FRAME`.
        detail: What contradicts what, with the figures.
        clear: Whether labels are certainly wrong, rather than doubtful.
    """

    name: str
    detail: str
    clear: bool
