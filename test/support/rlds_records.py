# SPDX-License-Identifier: Apache-2.0
"""Records of the RLDS data sets that the catalogue knows, with the same motion in the names and units of each."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation
from tiny_datasets import picture, png

from vla_ros.datasets.rlds.catalogue import DATASETS

STEPS = 13


def quaternions(rate_hz: float) -> np.ndarray:
    """A tool that points down and turns about the base's z at 0.5 rad/s."""
    turns = Rotation.from_rotvec(np.outer(0.5 * np.arange(STEPS) / rate_hz, [0, 0, 1]))
    return (turns * Rotation.from_rotvec([np.pi, 0, 0])).as_quat()


def positions(rate_hz: float) -> np.ndarray:
    """0.1 m/s along x, 0.2 m/s down."""
    return np.array([0.4, 0, 0.5]) + np.outer(np.arange(STEPS) / rate_hz, [0.1, 0, -0.2])


def euler(rate_hz: float) -> np.ndarray:
    return Rotation.from_quat(quaternions(rate_hz)).as_euler("xyz")


# The gripper closes at step 4 and opens at step 9, whatever it is called.
OPENING = np.array([1.0] * 4 + [0.0] * 5 + [1.0] * 4)
CHANGES = np.array([0.0] * 4 + [1.0] + [0.0] * 4 + [-1.0] + [0.0] * 3)


def steps(name: str, text: str = " Pick the cup ") -> dict[str, list]:
    """The features of a record of the data set, as far as they matter, by hand."""
    rate = float(DATASETS[name].rate_hz)
    xyz, angles, quaternion = positions(rate), euler(rate), quaternions(rate)
    zeros = np.zeros((STEPS, 8))
    static = [png(picture(step)) for step in range(STEPS)]
    wrist = [png(picture(step + 100)) for step in range(STEPS)]
    words = [text.encode()] * STEPS
    old_words = {"steps/observation/natural_language_instruction": words}
    pose = np.hstack([xyz, quaternion])
    if name == "bridge_dataset" or name == "bridge":
        moving = OPENING.copy()
        moving[3] = 0.5  # closing already: belongs to what is decided next
        features = {
            "observation/state": np.hstack([xyz, angles, OPENING[:, None]]),
            "action": np.hstack([zeros[:, :6], moving[:, None]]),
        }
        return flat(features) | {"steps/observation/image_0": static, "steps/language_instruction": words}
    if name == "bridge (first release)":
        features = {"observation/state": np.hstack([xyz, angles, OPENING[:, None]])}
        opened = {"steps/action/open_gripper": [int(value) for value in OPENING]}
        return flat(features) | opened | {"steps/observation/image": static} | old_words
    if name == "fractal20220817_data":
        features = {
            "observation/base_pose_tool_reached": pose,
            "observation/gripper_closed": 1 - OPENING,
            "action/gripper_closedness_action": CHANGES,
        }
        return flat(features) | {"steps/observation/image": static} | old_words
    if name == "droid":
        features = {
            "observation/cartesian_position": np.hstack([xyz, angles]),
            "observation/gripper_position": 1 - OPENING,
            "action_dict/gripper_position": 1 - OPENING,
        }
        texts = {"steps/language_instruction": [b""] * STEPS, "steps/language_instruction_2": words}
        pictures = {"exterior_image_1_left": static, "wrist_image_left": wrist}
        return flat(features) | texts | {f"steps/observation/{key}": value for key, value in pictures.items()}
    if name == "taco_play":
        state = np.hstack([xyz, angles, 0.08 * OPENING[:, None], zeros])
        features = {
            "observation/robot_obs": state,
            "action/rel_actions_world": np.hstack([zeros[:, :6], 2 * OPENING[:, None] - 1]),
        }
        return (
            flat(features)
            | {"steps/observation/rgb_static": static, "steps/observation/rgb_gripper": wrist}
            | old_words
        )
    if name == "berkeley_autolab_ur5":
        state = np.hstack([zeros[:, :6], pose, 1 - OPENING[:, None], zeros[:, :1]])
        features = {"observation/robot_state": state, "action/gripper_closedness_action": CHANGES}
        swapped = [png(picture(step + 100)[:, :, ::-1]) for step in range(STEPS)]  # blue where red belongs
        return flat(features) | {"steps/observation/image": static, "steps/observation/hand_image": swapped} | old_words
    assert name == "jaco_play"
    features = {"observation/end_effector_cartesian_pos": pose, "action/gripper_closedness_action": CHANGES}
    return flat(features) | {"steps/observation/image": static, "steps/observation/image_wrist": wrist} | old_words


def flat(features: dict[str, np.ndarray]) -> dict[str, list]:
    return {f"steps/{name}": values.ravel().tolist() for name, values in features.items()}
