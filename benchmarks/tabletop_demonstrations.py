# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the simulated arm, made in process for benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import ObservationSpec
from vla_ros.datasets.episode import Episode
from vla_ros.imaging import images
from vla_ros.observations.observation import proprioception
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Perturbation
from vla_ros.sim.tasks import TASKS

PERTURBATION = 0.4  # as in `vla record-demo`
_LONGEST_S = 15.0
_AFTER_SUCCESS_S = 0.4


def demonstrate(env: TabletopEnv, task: str, seed: int, spec: ObservationSpec) -> Episode:
    """Return the scripted expert's episode of `task` in the scene of `seed`.

    Actions are perturbed as in recorded demonstrations, and images pass through JPEG as on their way into a bag.
    """
    phrasings = TASKS[task].phrasings
    command = phrasings[seed % len(phrasings)]
    observation, _ = env.reset(seed=seed, options={"task": task, "command": command})
    expert = Expert(TASKS[task])
    perturbation = Perturbation(np.random.default_rng(seed), PERTURBATION, env.control_hz)
    frames: list[dict[str, Any]] = []
    states, actions = [], []
    left, info = round(_AFTER_SUCCESS_S * env.control_hz), {"success": False}
    for _ in range(round(_LONGEST_S * env.control_hz)):
        action = expert.act(env.state())
        frames.append({camera.name: _through_jpeg(observation[camera.name]) for camera in spec.cameras})
        pose = np.concatenate([observation["ee_position"], observation["ee_quaternion"]])
        states.append(proprioception(spec.proprioception, pose, float(observation["opening"][0])))
        actions.append(action)
        observation, _, _, _, info = env.step(perturbation.apply(action))
        left -= info["success"]
        if not left:
            break
    return Episode(
        images={
            camera.name: np.stack([images.resize(frame[camera.name], camera) for frame in frames])
            for camera in spec.cameras
        },
        proprioception=np.stack(states),
        actions=np.stack(actions),
        command=command,
        task=task,
        outcome="success" if info["success"] else "failure",
        source=f"{task}#{seed}",
        start_ns=0,
        ticks=np.arange(len(frames), dtype=np.int64),
    )


def _through_jpeg(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images.decode_image_file(images.encode_jpeg(rgb))
