# SPDX-License-Identifier: Apache-2.0
"""What was read of demonstrations, and what was not."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.parts import Decoded


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """What was read: frames and episodes, and (why, how many frames) for each reason to drop some, largest first.

    damage: what of the recordings could not be read, a sentence each, with the file's path in front.
    """

    frames: int
    episodes: int
    dropped: tuple[tuple[str, int], ...]
    damage: tuple[str, ...] = ()

    @classmethod
    def of(cls, episodes: Sequence[Episode], decoded: Decoded) -> ReadReport:
        """Count what is there beside what was decoded without becoming an episode."""
        counted = collections.Counter(decoded.dropped).most_common()
        dropped = tuple((why, count) for why, count in counted if count)
        return cls(sum(map(len, episodes)), len(episodes), dropped, decoded.damage)

    def dropped_text(self) -> str:
        """Return the reasons as one line for people."""
        return "; ".join(f"{why}: {count} frames" for why, count in self.dropped) or "nothing"

    def loss_text(self) -> str:
        """Return the reasons and the damage as one line, for where nothing is left."""
        return f"dropped: {self.dropped_text()}" + (f"; damaged: {'; '.join(self.damage)}" if self.damage else "")
