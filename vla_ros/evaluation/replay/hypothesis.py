# SPDX-License-Identifier: Apache-2.0
"""A policy's predictions against the demonstrations, with some mismatches undone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from vla_ros.datasets.agreement.corrections import tool_rotations
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay.disagreement import ActionFit, Array, Disagreement, disagreement
from vla_ros.evaluation.replay.mismatches import Mismatch
from vla_ros.evaluation.replay.open_loop import ReplayedEpisode, replay
from vla_ros.runtime.planning.planner import ChunkPolicy


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """Which mismatches there are (`undone`), and what policy and demonstrations look like without them."""

    replayed: Sequence[ReplayedEpisode]
    actions: Sequence[Array]  # demonstrated (T, 7) in each episode
    names: Sequence[str]  # of the episodes' proprioceptive values
    rotations: Sequence[Rotation] | None  # tool orientations of each episode; None if not recorded
    undone: tuple[Mismatch, ...] = ()

    @classmethod
    def healthy(cls, policy: ChunkPolicy, episodes: Sequence[Episode], names: Sequence[str]) -> Hypothesis:
        """Replay the episodes as they are."""
        rotations = [tool_rotations(names, episode.proprioception) for episode in episodes]
        known = [rotation for rotation in rotations if rotation is not None]
        return cls(
            [replay(policy, episode, names) for episode in episodes],
            [episode.actions.copy() for episode in episodes],  # those from a store are read-only
            names,
            known if len(known) == len(episodes) else None,
        )

    def undo(self, mismatch: Mismatch, policy: ChunkPolicy) -> Hypothesis:
        """Return the hypothesis that `mismatch` is there too; replays the policy if its observations change."""
        undone = (*self.undone, mismatch)
        if mismatch.view is not None:
            views = [one.view for one in undone if one.view is not None]
            replayed = [replay(policy, one.episode, self.names, views) for one in self.replayed]
            return dataclasses.replace(self, replayed=replayed, undone=undone)
        assert mismatch.relabel is not None
        rotations = self.rotations or [None] * len(self.actions)
        actions = [mismatch.relabel(one, rotation) for one, rotation in zip(self.actions, rotations, strict=True)]
        return dataclasses.replace(self, actions=actions, undone=undone)

    def subset(self, frames: int) -> Hypothesis:
        """Return the hypothesis for some episodes, spread over all, with at least `frames` frames."""
        lengths = np.array([len(actions) for actions in self.actions])
        order = np.argsort(np.arange(len(lengths)) * 0.6180339887 % 1.0)  # every prefix is spread evenly
        count = int(np.searchsorted(np.cumsum(lengths[order]), frames)) + 1
        chosen = sorted(order[:count].tolist())
        return dataclasses.replace(
            self,
            replayed=[self.replayed[index] for index in chosen],
            actions=[self.actions[index] for index in chosen],
            rotations=None if self.rotations is None else [self.rotations[index] for index in chosen],
        )

    def rescale(self, fit: ActionFit) -> Hypothesis:
        """Return the hypothesis with rescaled predictions."""
        replayed = [dataclasses.replace(one, chunks=fit.apply(one.chunks)) for one in self.replayed]
        return dataclasses.replace(self, replayed=replayed)

    @property
    def predicted(self) -> list[Array]:
        """First predicted actions (T, 7) of each episode: later ones are harder to predict and less telling."""
        return [one.chunks[:, 0] for one in self.replayed]

    @functools.cached_property
    def disagreement(self) -> Disagreement:
        """Between the first predicted actions and the demonstrated ones."""
        return disagreement(self.predicted, self.actions)

    @property
    def cost(self) -> float:
        """Cost of the disagreement."""
        return self.disagreement.cost
