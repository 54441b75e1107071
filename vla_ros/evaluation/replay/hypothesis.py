# SPDX-License-Identifier: Apache-2.0
"""A policy's predictions beside demonstrated actions, with some mismatches undone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay.agreement import Agreement, measure
from vla_ros.evaluation.replay.calibration import Fit
from vla_ros.evaluation.replay.mismatches import Array, Mismatch, tool_rotations
from vla_ros.evaluation.replay.open_loop import Replayed, replay
from vla_ros.observations.observation import Observation
from vla_ros.runtime.planning.planner import ChunkPolicy


@dataclasses.dataclass(frozen=True)
class Finding:
    """A mismatch by name, in words, and the cost (`agreement`) with it and without it."""

    name: str
    detail: str
    cost: float
    cost_undone: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the policy predicts (`replayed`) and what counts as done (`actions`, (T, 7) of each episode).

    names: of the episodes' proprioceptive values; rotations: the tool's, of each episode, None where nobody knows.
    """

    replayed: Sequence[Replayed]
    actions: Sequence[Array]
    names: Sequence[str]
    rotations: Sequence[Rotation] | None
    undone: tuple[Mismatch, ...] = ()

    @classmethod
    def start(cls, policy: ChunkPolicy, episodes: Sequence[Episode], names: Sequence[str]) -> Trial:
        """Replay episodes as they are."""
        rotations = [tool_rotations(names, episode.proprioception) for episode in episodes]
        known = [rotation for rotation in rotations if rotation is not None]
        return cls(
            [replay(policy, episode, names) for episode in episodes],
            [episode.actions.copy() for episode in episodes],  # out of a store they can not be written to
            names,
            known if len(known) == len(episodes) else None,
        )

    def undo(self, mismatch: Mismatch, policy: ChunkPolicy) -> Trial:
        """Return the trial without `mismatch`; the policy runs again where it sees something else then."""
        undone = (*self.undone, mismatch)
        if mismatch.view is not None:
            view = _composed([one.view for one in undone if one.view is not None])
            replayed: Sequence[Replayed] = [replay(policy, one.episode, self.names, view) for one in self.replayed]
            return dataclasses.replace(self, replayed=replayed, undone=undone)
        relabel = mismatch.relabel
        assert relabel is not None
        rotations = self.rotations or [None] * len(self.actions)
        actions = [relabel(one, rotation) for one, rotation in zip(self.actions, rotations, strict=True)]
        return dataclasses.replace(self, actions=actions, undone=undone)

    def some(self, frames: int) -> Trial:
        """Return the trial of some episodes only, spread over all, with so many frames or a little more."""
        lengths = np.array([len(actions) for actions in self.actions])
        order = np.argsort(np.arange(len(lengths)) * 0.6180339887 % 1.0)  # any prefix is spread evenly
        count = int(np.searchsorted(np.cumsum(lengths[order]), frames)) + 1
        chosen = sorted(order[:count].tolist())
        return dataclasses.replace(
            self,
            replayed=[self.replayed[index] for index in chosen],
            actions=[self.actions[index] for index in chosen],
            rotations=None if self.rotations is None else [self.rotations[index] for index in chosen],
        )

    def rescaled(self, fit: Fit) -> Trial:
        """Return the trial with the predictions as `fit` has them."""
        replayed = [
            dataclasses.replace(one, chunks=chunks)
            for one, chunks in zip(self.replayed, fit.apply([one.chunks for one in self.replayed]), strict=True)
        ]
        return dataclasses.replace(self, replayed=replayed)

    @property
    def predicted(self) -> list[Array]:
        """The first actions (T, 1, 7) of each episode: later ones are harder to foresee and tell less."""
        return [one.chunks[:, :1] for one in self.replayed]

    @property
    def demonstrated(self) -> list[Array]:
        """The same, as demonstrated."""
        return [actions[:, None] for actions in self.actions]

    @functools.cached_property
    def agreement(self) -> Agreement:
        """How well they agree."""
        known: list[NDArray[np.bool_]] = [np.ones((len(actions), 1), bool) for actions in self.actions]
        return measure(self.predicted, self.demonstrated, known)


def _composed(views: Sequence[Callable[[Observation], Observation]]) -> Callable[[Observation], Observation]:
    def view(seen: Observation) -> Observation:
        for one in views:
            seen = one(seen)
        return seen

    return view
