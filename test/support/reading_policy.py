# SPDX-License-Identifier: Apache-2.0
"""A robot whose images and state encode its next action exactly, and a policy that decodes it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.observations.observation import Observation, rotation_6d

NAMES = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)), "gripper_opening")
UNITS = ("m",) * 3 + ("1",) * 7
CHUNK, MEMORY = 4, 0.75
# Axis -> where in which image it is encoded: rows, columns, colour.
PLACES = [
    ("static", slice(0, 4), slice(0, 4), 0),
    ("static", slice(0, 4), slice(4, 12), 1),
    ("static", slice(8, 12), slice(0, 4), 2),
    ("wrist", slice(0, 3), slice(0, 3), 0),
    ("wrist", slice(0, 3), slice(5, 8), 1),
    ("wrist", slice(5, 8), slice(0, 5), 2),
]


def contract_of(mean: tuple[float, ...] | None = None) -> PolicyContract:
    return PolicyContract(
        cameras=(Camera("static", 12, 12), Camera("wrist", 8, 8)),
        proprioception=Proprioception(NAMES, UNITS, mean or (0.45, 0.0, 0.1, *(0.0,) * 7), (0.1,) * 3 + (1.0,) * 7),
        language=Language("{command}", "none", 8),
        timing=Timing(10.0, 2, CHUNK),
        action=ActionSpace((-0.3,) * 3 + (-1.0,) * 3, (0.3,) * 3 + (1.0,) * 3),
        provenance=Provenance("none", "0", "none", "none", "0"),
    )


def remembered(random: np.random.Generator, length: int, size: int) -> np.ndarray:
    """Signals (length, size) of which the best guess i steps later is MEMORY ** i times what they are now."""
    signal = np.zeros((length, size))
    signal[0] = random.normal(0, 1, size)
    for index in range(1, length):
        signal[index] = MEMORY * signal[index - 1] + np.sqrt(1 - MEMORY**2) * random.normal(0, 1, size)
    return signal


def make_episode(seed: int, length: int = 40) -> Episode:
    random = np.random.default_rng(seed)
    written = np.clip(remembered(random, length, 6) / 3, -1, 1)  # in the images
    position = remembered(random, length, 3)  # in standard deviations of the contract
    opening = np.repeat(random.integers(0, 2, -(-length // 10)), 10)[:length].astype(float)
    angles = np.stack(
        [np.pi + random.normal(0, 0.1, length), random.normal(0, 0.1, length), remembered(random, length, 1)[:, 0]],
        axis=1,
    )
    rotation = Rotation.from_euler("xyz", angles)
    canvases = {"static": np.full((length, 12, 12, 3), 127.0), "wrist": np.full((length, 8, 8, 3), 127.0)}
    for axis, (camera, rows, columns, colour) in enumerate(PLACES):
        canvases[camera][:, rows, columns, colour] += 120 * written[:, axis, None, None]
    state = np.concatenate(
        [0.1 * position + [0.45, 0.0, 0.1], [rotation_6d(*one) for one in rotation.as_quat()], opening[:, None]], axis=1
    )
    contract = contract_of()
    chunk = _decided(written, position, opening)
    return Episode(
        images={name: frames.round().astype(np.uint8) for name, frames in canvases.items()},
        proprioception=state.astype(np.float32),
        actions=actions.denormalize(chunk, contract.action.low, contract.action.high),
        command="go",
        task="go",
        outcome="success",
        source=f"bag#{seed}",
        start_ns=0,
        ticks=np.arange(length, dtype=np.int64),
    )


def _decided(written: np.ndarray, position: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Normalised actions (T, 7): of what is written, where the tool is, and how open the gripper."""
    arm = 0.9 * written
    arm[:, :3] += 0.1 * position
    arm[:, 2] += 0.5 * (opening - 0.5)
    gripper = (written[:, 0] + opening - 0.5 > 0).astype(float)
    return np.concatenate([np.clip(arm, -1, 1), gripper[:, None]], axis=1)


class ReadingPolicy:
    """Reads what `make_episode` has written, with some doubt; contract: which statistics it believes."""

    def __init__(self, contract: PolicyContract, doubt: float = 0.03) -> None:
        self.contract = contract
        self._doubt = doubt
        self.steps = 0

    def reset(self, command: str) -> None:
        self._random = np.random.default_rng(0)

    def clear_history(self) -> None: ...

    def warm_up(self) -> float:
        return 0.0

    def step(self, observation: Observation) -> np.ndarray:
        self.steps += 1
        for camera in self.contract.cameras:
            assert observation.images[camera.name].shape == (camera.height, camera.width, 3)
        written = np.array(
            [
                (observation.images[camera][rows, columns, colour].mean() - 127.0) / 120
                for camera, rows, columns, colour in PLACES
            ]
        )
        known = self.contract.proprioception
        z = np.clip((observation.proprioception - np.array(known.mean)) / np.array(known.std), -8, 8)
        action = _decided(written[None], z[None, :3], z[None, 9])[0]
        action[:6] += self._random.normal(0, self._doubt, 6)
        chunk = np.repeat(action[None], CHUNK, axis=0)
        chunk[:, :6] *= MEMORY ** np.arange(CHUNK)[:, None]
        return actions.denormalize(chunk, self.contract.action.low, self.contract.action.high)
