# SPDX-License-Identifier: Apache-2.0
"""Replay demonstrations to a policy frame by frame, as on the robot, and compare what it would have done."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import ARM_AXES, ARM_UNITS
from vla_ros.datasets.episode import Episode, chunk_frames
from vla_ros.observations.observation import Observation
from vla_ros.runtime.planning.planner import ChunkPolicy

Array = NDArray[np.float64]
View = Callable[[Observation], Observation]

EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class ReplayedEpisode:
    """An episode of T frames, and what the policy planned."""

    episode: Episode
    chunks: Array  # (T, N, 7) in m/s, rad/s and opening probability
    inference_ms: Array  # (T,)


def replay(policy: ChunkPolicy, episode: Episode, names: Sequence[str], views: Sequence[View] = ()) -> ReplayedEpisode:
    """Step `policy` through `episode` from an empty history, as the robot's planner does.

    Args:
        names: Of the episode's proprioceptive values; must include those of the contract.
        views: Transform each observation before the policy sees it.
    """
    contract = policy.contract
    wanted = contract.observation_spec.proprioception
    columns = [list(names).index(name) for name in wanted]
    policy.reset(episode.command)
    chunks, inference_ms = [], []
    for index, tick in enumerate(episode.ticks.tolist()):
        observation = Observation(
            time_ns=contract.timing.grid.start_ns(tick),
            images={camera: np.array(episode.images[camera][index]) for camera in contract.camera_names},
            stamps_ns={},
            proprioception=episode.proprioception[index, columns] if wanted else None,
            command=episode.command,
        )
        for view in views:
            observation = view(observation)
        started_s = time.perf_counter()
        chunks.append(policy.step(observation))
        inference_ms.append(1e3 * (time.perf_counter() - started_s))
    return ReplayedEpisode(episode, np.stack(chunks), np.array(inference_ms))


def demonstrated_chunks(actions: Array, chunk: int) -> tuple[Array, NDArray[np.bool_]]:
    """Return what was demonstrated from each of the T frames on (T, N, 7), and which of it exists (T, N)."""
    frames, known = chunk_frames(np.arange(len(actions)), len(actions), chunk)
    return actions[frames], known


def open_loop_errors(replayed: Sequence[ReplayedEpisode]) -> dict[str, Any]:
    """Compare predicted and demonstrated actions, as plain types.

    `axes`: mean absolute error of the first action, and that of never moving; `horizon`: arm errors by step of the
    chunk, relative to never moving; `gripper`: frames by (demonstrated, predicted); `inference_ms`: percentiles.
    """
    demonstrated = np.concatenate([one.episode.actions for one in replayed])
    predicted = np.concatenate([one.chunks[:, 0] for one in replayed])
    error = np.abs(predicted[:, :6] - demonstrated[:, :6]).mean(axis=0)
    still = np.abs(demonstrated[:, :6]).mean(axis=0)
    opened, predicts_open = demonstrated[:, 6] > 0.5, predicted[:, 6] > 0.5
    words = {True: "open", False: "closed"}
    inference_ms = np.concatenate([one.inference_ms for one in replayed])
    return {
        "episodes": len(replayed),
        "frames": len(demonstrated),
        "axes": {
            axis: {"unit": unit, "error": float(e), "error_of_never_moving": float(s)}
            for axis, unit, e, s in zip(ARM_AXES, ARM_UNITS, error, still, strict=True)
        },
        "horizon": _errors_by_step(replayed),
        "gripper_accuracy": float((opened == predicts_open).mean()),
        "gripper": {
            f"{words[was]}, predicted {words[says]}": int(((opened == was) & (predicts_open == says)).sum())
            for was in words
            for says in words
        },
        "inference_ms": {f"p{q}": float(np.percentile(inference_ms, q)) for q in (50, 95, 99)},
    }


def _errors_by_step(replayed: Sequence[ReplayedEpisode]) -> list[dict[str, float]]:
    chunk = replayed[0].chunks.shape[1]
    sums = np.zeros((2, 2, chunk))  # linear and angular part; error and that of never moving
    for one in replayed:
        done, known = demonstrated_chunks(one.episode.actions, chunk)
        for index, part in enumerate((slice(0, 3), slice(3, 6))):
            for column, wrong in enumerate((one.chunks[..., part] - done[..., part], done[..., part])):
                sums[index, column] += np.where(known, np.linalg.norm(wrong, axis=-1), 0.0).sum(axis=0)
    linear, angular = sums[:, 0] / np.maximum(sums[:, 1], 1e-9)
    return [{"step": step, "linear": float(linear[step]), "angular": float(angular[step])} for step in range(chunk)]


def pick_examples(replayed: Sequence[ReplayedEpisode]) -> list[ReplayedEpisode]:
    """Return up to `EXAMPLES` of the episodes, spread evenly."""
    count = min(EXAMPLES, len(replayed))
    return [replayed[index] for index in np.unique(np.linspace(0, len(replayed) - 1, count).astype(int))]


def example_actions(replayed: Sequence[ReplayedEpisode]) -> list[dict[str, Any]]:
    """Return the examples' demonstrated and first predicted actions as plain types, for plots."""
    return [
        {
            "source": one.episode.source,
            "command": one.episode.command,
            "demonstrated": one.episode.actions.round(5).tolist(),
            "predicted": one.chunks[:, 0].round(5).tolist(),
        }
        for one in pick_examples(replayed)
    ]
