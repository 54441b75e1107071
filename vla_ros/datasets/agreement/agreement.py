# SPDX-License-Identifier: Apache-2.0
"""Compare commanded with measured motion for all recordings of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from vla_ros.datasets.agreement.gripper import GripperAgreement, compare_gripper
from vla_ros.datasets.agreement.motion import PartAgreement, compare_motion
from vla_ros.datasets.agreement.tracks import Contradiction, Track
from vla_ros.datasets.episode import Episode


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The verdicts on the arm's motion, by "linear" and "angular", empty without poses, and on the gripper."""

    motion: Mapping[str, PartAgreement]
    gripper: GripperAgreement | None

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """All that was found."""
        found = [one for part in self.motion.values() for one in part.contradictions]
        return (*found, *(self.gripper.contradictions if self.gripper is not None else ()))


def compare(tracks: Sequence[Track], period_s: float) -> Agreement:
    """Compare what was commanded with what was measured in the tracks of one recording, or of several."""
    return Agreement(compare_motion(tracks, period_s), compare_gripper(tracks, period_s))


def compare_recordings(episodes: Sequence[Episode], names: Sequence[str], period_s: float) -> dict[str, Agreement]:
    """Compare each recording of a source, and all together if each alone says nothing.

    Args:
        names: Of the episodes' proprioceptive values.

    Returns:
        The verdicts that contradict, by recording; "" stands for all together.
    """
    tracks: dict[str, list[Track]] = {}
    for episode in episodes:
        tracks.setdefault(episode.source.rpartition("#")[0] or episode.source, []).append(Track.of(episode, names))
    found = {name: compare(some, period_s) for name, some in tracks.items()}
    if len(tracks) > 1 and not any(one.contradictions for one in found.values()):
        found = {"": compare([track for some in tracks.values() for track in some], period_s)}
    return {name: one for name, one in found.items() if one.contradictions}
