# SPDX-License-Identifier: Apache-2.0
"""A policy shown a demonstration, frame by frame as on the robot, and what it would have done beside what was done."""

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

SHOWN_EPISODES = 8


@dataclasses.dataclass(frozen=True)
class Replayed:
    """An episode of T frames, the chunks (T, N, 7) that the policy planned at each, in m/s, rad/s and opening
    probability, and how long each took (T,) [ms]."""

    episode: Episode
    chunks: Array
    inference_ms: Array


def replay(
    policy: ChunkPolicy, episode: Episode, names: Sequence[str], view: View = lambda observation: observation
) -> Replayed:
    """Step `policy` through `episode` from an empty history, as the robot's planner does.

    Args:
        names: of the episode's proprioceptive values; those of the contract are among them.
        view: what the policy sees instead of an observation.
    """
    contract = policy.contract
    wanted = contract.observation_spec.proprioception
    columns = [list(names).index(name) for name in wanted]
    policy.reset(episode.command)
    chunks, inference_ms = [], []
    for index, tick in enumerate(episode.ticks.tolist()):
        observation = view(
            Observation(
                time_ns=tick * contract.timing.period_ns,
                images={camera: np.array(episode.images[camera][index]) for camera in contract.camera_names},
                stamps_ns={},
                proprioception=episode.proprioception[index, columns] if wanted else None,
                command=episode.command,
            )
        )
        started_s = time.perf_counter()
        chunks.append(policy.step(observation))
        inference_ms.append(1e3 * (time.perf_counter() - started_s))
    return Replayed(episode, np.stack(chunks), np.array(inference_ms))


def demonstrated_chunks(actions: Array, chunk: int) -> tuple[Array, NDArray[np.bool_]]:
    """Return what was done from each of the T frames on, (T, N, 7), and which of it is known, (T, N)."""
    frames, known = chunk_frames(np.arange(len(actions)), len(actions), chunk)
    return actions[frames], known


def compare(replayed: Sequence[Replayed]) -> dict[str, Any]:
    """Return the figures of open-loop replay as plain data.

    `axes`: mean absolute error of the first action by axis, beside that of never moving; `horizon`: the same over the
    arm's axes by step of the chunk, as a share of never moving; `gripper`: frames by (demonstrated, predicted);
    `inference_ms`.
    """
    demonstrated = np.concatenate([one.episode.actions for one in replayed])
    predicted = np.concatenate([one.chunks[:, 0] for one in replayed])
    error = np.abs(predicted[:, :6] - demonstrated[:, :6]).mean(axis=0)
    still = np.abs(demonstrated[:, :6]).mean(axis=0)
    was_open, says_open = demonstrated[:, 6] > 0.5, predicted[:, 6] > 0.5
    latency = np.concatenate([one.inference_ms for one in replayed])
    return {
        "episodes": len(replayed),
        "frames": len(demonstrated),
        "axes": {
            axis: {"unit": unit, "error": float(e), "error_of_never_moving": float(s)}
            for axis, unit, e, s in zip(ARM_AXES, ARM_UNITS, error, still, strict=True)
        },
        "horizon": _by_step(replayed),
        "gripper_accuracy": float((was_open == says_open).mean()),
        "gripper": {
            f"{_word(was)}, predicted {_word(says)}": int(((was_open == was) & (says_open == says)).sum())
            for was in (True, False)
            for says in (True, False)
        },
        "inference_ms": {f"p{q}": float(np.percentile(latency, q)) for q in (50, 95, 99)},
    }


def shown(replayed: Sequence[Replayed]) -> list[Replayed]:
    """Return up to `SHOWN_EPISODES` of the episodes, spread evenly."""
    count = min(SHOWN_EPISODES, len(replayed))
    return [replayed[index] for index in np.unique(np.linspace(0, len(replayed) - 1, count).astype(int))]


def shown_actions(replayed: Sequence[Replayed]) -> list[dict[str, Any]]:
    """Return those that are `shown`, with both sides' first actions, for plots."""
    return [
        {
            "source": one.episode.source,
            "command": one.episode.command,
            "demonstrated": one.episode.actions.round(5).tolist(),
            "predicted": one.chunks[:, 0].round(5).tolist(),
        }
        for one in shown(replayed)
    ]


def _by_step(replayed: Sequence[Replayed]) -> list[dict[str, float]]:
    """Errors by step of the chunk, the linear and the angular part each as a share of never moving."""
    chunk = replayed[0].chunks.shape[1]
    sums = np.zeros((chunk, 4))
    for one in replayed:
        done, known = demonstrated_chunks(one.episode.actions, chunk)
        for column, part in ((0, slice(0, 3)), (2, slice(3, 6))):
            wrong = np.linalg.norm(one.chunks[..., part] - done[..., part], axis=-1)
            sums[:, column] += np.where(known, wrong, 0.0).sum(axis=0)
            sums[:, column + 1] += np.where(known, np.linalg.norm(done[..., part], axis=-1), 0.0).sum(axis=0)
    linear, angular = (sums[:, i] / np.maximum(sums[:, i + 1], 1e-9) for i in (0, 2))
    return [
        {"step": step, "linear": float(linear[step]), "angular": float(angular[step])} for step in range(chunk)
    ]  # fmt: skip


def _word(is_open: bool) -> str:
    return "open" if is_open else "closed"
