# SPDX-License-Identifier: Apache-2.0
"""Policies that get the scene state instead of camera features, for `ablations.py`: these test memory, not vision.

In place of camera features stand the block positions, whether it is dark, and which block glows now. Everything else is
the usual policy: fusion with proprioception, history, head, trained by `frozen_encoders.train`. Neither demonstrations
nor rollouts need images.
"""

from __future__ import annotations

import frozen_encoders
import numpy as np
import torch
from numpy.typing import NDArray
from tabletop_demonstrations import PERTURBATION
from torch import Tensor, nn

from vla_ros import actions
from vla_ros.contract import ObservationSpec
from vla_ros.datasets.episode import Episode
from vla_ros.observations.observation import proprioception
from vla_ros.policy.policy import Policy
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Perturbation
from vla_ros.sim.state import COLORS, SceneState
from vla_ros.sim.tasks import TASKS

CAMERA = "static"  # whose place it takes
MIDDLE_M, SPREAD_M = np.array([0.44, 0.0]), 0.13  # of blocks on the table
LONGEST_S, AFTER_SUCCESS_S = 12.0, 0.4


def features(state: SceneState) -> NDArray[np.float32]:
    """Return the scene state (10,): block positions, whether it is dark, whether and where one glows."""
    places = [(state.block_positions[color][:2] - MIDDLE_M) / SPREAD_M for color in COLORS]
    glow = places[COLORS.index(state.lit)] if state.lit else np.zeros(2)
    return np.concatenate([*places, [state.dark, bool(state.lit)], glow]).astype(np.float32)


def demonstrate(env: TabletopEnv, task: str, seed: int, spec: ObservationSpec) -> tuple[Episode, Tensor]:
    """Return an episode of the scripted expert, perturbed as in recording, without images, and its scene states."""
    seen, _ = env.reset(seed=seed, options={"task": task})
    expert, noise = Expert(TASKS[task]), Perturbation(np.random.default_rng(seed), PERTURBATION, env.control_hz)
    said, states, acts = [], [], []
    left = round(AFTER_SUCCESS_S * env.control_hz)
    for _ in range(round(LONGEST_S * env.control_hz)):
        action = expert.act(env.state())
        said.append(features(env.state()))
        states.append(_feel(seen, spec))
        acts.append(action)
        seen, _, done, _, _ = env.step(noise.apply(action))
        left -= done
        if not left:
            break
    nothing = np.zeros((len(acts), 1, 1, 3), np.uint8)
    episode = Episode(
        images={camera.name: nothing for camera in spec.cameras},
        proprioception=np.stack(states),
        actions=np.stack(acts),
        command=frozen_encoders.command(task),
        task=task,
        outcome="success" if left < round(AFTER_SUCCESS_S * env.control_hz) else "failure",
        source=f"{task}#{seed}",
        start_ns=0,
        ticks=np.arange(len(acts), dtype=np.int64),
    )
    return episode, torch.from_numpy(np.stack(said))


def demonstrations(task: str, count: int, spec: ObservationSpec) -> frozen_encoders.Encoded:
    """Return ``count`` demonstrations, of scenes 0 and up, and the scene states of their frames."""
    env = TabletopEnv(render=False)
    made = [demonstrate(env, task, seed, spec) for seed in range(count)]
    return frozen_encoders.Encoded([episode for episode, _ in made], {CAMERA: torch.cat([said for _, said in made])})


def use_scene_state(policy: Policy, size: int) -> None:
    """Replace the cameras of ``policy`` by ``size`` numbers of scene state."""
    first, cameras = policy.backbone.fuse[0], policy.backbone.cameras
    others = first.in_features - sum(encoder.output_size for encoder in cameras.values())
    policy.backbone.cameras = nn.ModuleDict({CAMERA: frozen_encoders.PassThrough()})
    policy.backbone.fuse[0] = nn.Linear(size + others, first.out_features)


@torch.inference_mode()
def roll_out(env: TabletopEnv, policy: Policy, task: str, seed: int, max_time_s: float) -> tuple[bool, bool]:
    """Return whether ``policy`` solves ``task`` in scene ``seed``, and whether the gripper ends at the lit block.

    It need not have moved it for that: no other block is nearer. Each first action is carried out a tick late.
    """
    seen, _ = env.reset(seed=seed, options={"task": task})
    lit, done = env.state().lit, False
    text = policy.encode_text(*policy.tokenize([frozen_encoders.command(task)]))
    space, spec = policy.contract.action, policy.contract.observation_spec
    action, history = np.array([0.0] * 6 + [1.0]), None
    for _ in range(round(max_time_s * env.control_hz)):
        views = {CAMERA: torch.from_numpy(features(env.state()))[None]}
        felt = torch.from_numpy(_feel(seen, spec))[None]
        (arm, gripper), history = policy.step(views, felt, text, history)
        seen, _, done, _, _ = env.step(action)
        if done:
            break
        # Planned for the tick that is over; the next one is in the chunk's second row.
        chunk = torch.cat([arm[0], gripper[0].sigmoid()[:, None]], dim=-1).numpy().astype(np.float64)
        action = actions.denormalize(chunk, space.low, space.high)[1]
        action[6] = round(action[6])
    hand, blocks = env.state().tcp_position, env.state().block_positions
    return done, lit == min(blocks, key=lambda color: float(np.linalg.norm((blocks[color] - hand)[:2])))


def _feel(seen: dict, spec: ObservationSpec) -> NDArray[np.float32]:
    pose = np.concatenate([seen["ee_position"], seen["ee_quaternion"]])
    return proprioception(spec.proprioception, pose, float(seen["opening"][0]))
