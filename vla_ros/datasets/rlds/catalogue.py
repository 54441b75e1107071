# SPDX-License-Identifier: Apache-2.0
"""The data sets of Open X-Embodiment: what they call their features, and the signs of their grippers.

All have the tool's pose at each step, in metres and in the robot's base frame, and labels are made from it: the motion
from one step to the next. Their commands are not used: units differ and are partly undocumented, and BridgeData's and
DROID's controllers do not reach what was commanded, which is why Octo (arXiv:2405.12213) relabels BridgeData likewise.
The last step of an episode therefore has no label and is left out.

Sources: the feature texts of the TensorFlow Datasets catalog, the data sets' own pages, and Octo's transforms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros import actions

Floats = NDArray[np.float64]
Numbers = Mapping[str, Floats]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Where a data set keeps what. Names are relative to `steps/`."""

    rate_hz: Fraction
    cameras: Mapping[str, str]  # our name -> name of the image
    commands: tuple[str, ...]  # the first text that is not empty is the command, the others are phrasings of it
    numbers: Mapping[str, int]  # name -> how many it has at each step
    poses: Callable[[Numbers], Floats]  # (S, 7): position in m, quaternion x y z w
    grippers: Callable[[Numbers], Floats]  # the commanded openings (S,), 0 or 1
    openings: Callable[[Numbers], Floats] | None  # the measured openings (S,) in [0, 1]
    first_step: int = 0  # 1 if the first step is a dummy
    cameras_in_bgr: tuple[str, ...] = ()  # our cameras whose images were encoded with red and blue exchanged


def openings_from_changes(closing: Floats) -> Floats:
    """Return commanded openings (S,) from changes (S,): above 0.1 closes, below -0.1 opens, anything else keeps it.

    Before its first change the gripper is in the opposite state; if it never changes, it is open.
    """
    decided = np.where(closing < -0.1, 1.0, np.where(closing > 0.1, 0.0, np.nan))
    changes = np.flatnonzero(~np.isnan(decided))
    if not len(changes):
        return np.ones(len(closing))
    last = np.searchsorted(changes, np.arange(len(closing)), side="right") - 1
    result: Floats = np.where(last < 0, 1 - decided[changes[0]], decided[changes[np.maximum(last, 0)]])
    return result


def _euler_poses(name: str) -> Callable[[Numbers], Floats]:
    """Return what computes poses from x, y, z and fixed-axis xyz Euler angles."""

    def poses(numbers: Numbers) -> Floats:
        values = numbers[name]
        return np.concatenate([values[:, :3], Rotation.from_euler("xyz", values[:, 3:6]).as_quat()], axis=1)

    return poses


def _unit(values: Floats) -> Floats:
    return np.clip(values, 0, 1)


_TEXT = "observation/natural_language_instruction"
_CLOSING = "action/gripper_closedness_action"

# BridgeData V2 as its authors publish it, and as TensorFlow Datasets now has it under "bridge". The gripper's command
# is 1 open, 0 closed, and in between while it moves.
_BRIDGE = DatasetSpec(
    rate_hz=Fraction(5),
    cameras={"static": "observation/image_0"},
    commands=("language_instruction",),
    numbers={"observation/state": 7, "action": 7},
    poses=_euler_poses("observation/state"),
    grippers=lambda numbers: actions.binarize_gripper(numbers["action"][:, 6]),
    openings=lambda numbers: _unit(numbers["observation/state"][:, 6]),
)

DATASETS: dict[str, DatasetSpec] = {
    "bridge_dataset": _BRIDGE,
    "bridge": _BRIDGE,
    # The first release in Open X-Embodiment, recognised by `action/open_gripper`.
    "bridge (first release)": DatasetSpec(
        rate_hz=Fraction(5),
        cameras={"static": "observation/image"},
        commands=(_TEXT,),
        numbers={"observation/state": 7, "action/open_gripper": 1},
        poses=_euler_poses("observation/state"),
        grippers=lambda numbers: (numbers["action/open_gripper"][:, 0] > 0.5).astype(np.float64),
        openings=lambda numbers: _unit(numbers["observation/state"][:, 6]),
        first_step=1,
    ),
    "fractal20220817_data": DatasetSpec(
        rate_hz=Fraction(3),
        cameras={"static": "observation/image"},
        commands=(_TEXT,),
        numbers={"observation/base_pose_tool_reached": 7, "observation/gripper_closed": 1, _CLOSING: 1},
        poses=lambda numbers: numbers["observation/base_pose_tool_reached"],
        grippers=lambda numbers: openings_from_changes(numbers[_CLOSING][:, 0]),
        openings=lambda numbers: 1 - _unit(numbers["observation/gripper_closed"][:, 0]),
    ),
    "droid": DatasetSpec(
        rate_hz=Fraction(15),
        cameras={"static": "observation/exterior_image_1_left", "wrist": "observation/wrist_image_left"},
        commands=("language_instruction", "language_instruction_2", "language_instruction_3"),
        numbers={
            "observation/cartesian_position": 6,
            "observation/gripper_position": 1,
            "action_dict/gripper_position": 1,
        },
        poses=_euler_poses("observation/cartesian_position"),
        grippers=lambda numbers: actions.binarize_gripper(1 - numbers["action_dict/gripper_position"][:, 0]),
        openings=lambda numbers: 1 - _unit(numbers["observation/gripper_position"][:, 0]),
    ),
    # The catalog's text says that -1 opens; the data's own page, Octo and OpenVLA say that 1 does.
    "taco_play": DatasetSpec(
        rate_hz=Fraction(15),
        cameras={"static": "observation/rgb_static", "wrist": "observation/rgb_gripper"},
        commands=(_TEXT,),
        numbers={"observation/robot_obs": 15, "action/rel_actions_world": 7},
        poses=_euler_poses("observation/robot_obs"),
        grippers=lambda numbers: (numbers["action/rel_actions_world"][:, 6] > 0).astype(np.float64),
        openings=lambda numbers: _unit(numbers["observation/robot_obs"][:, 6] / 0.08),
    ),
    "berkeley_autolab_ur5": DatasetSpec(
        rate_hz=Fraction(5),
        cameras={"static": "observation/image", "wrist": "observation/hand_image"},
        commands=(_TEXT,),
        numbers={"observation/robot_state": 15, _CLOSING: 1},
        poses=lambda numbers: numbers["observation/robot_state"][:, 6:13],
        grippers=lambda numbers: openings_from_changes(numbers[_CLOSING][:, 0]),
        openings=lambda numbers: 1 - _unit(numbers["observation/robot_state"][:, 13]),
        cameras_in_bgr=("wrist",),
    ),
    "jaco_play": DatasetSpec(
        rate_hz=Fraction(10),
        cameras={"static": "observation/image", "wrist": "observation/image_wrist"},
        commands=(_TEXT,),
        numbers={"observation/end_effector_cartesian_pos": 7, _CLOSING: 1},
        poses=lambda numbers: numbers["observation/end_effector_cartesian_pos"],
        grippers=lambda numbers: openings_from_changes(numbers[_CLOSING][:, 0]),
        openings=None,  # joint_pos has the fingers, in an undocumented unit
    ),
}
FIRST_BRIDGE = "bridge (first release)"

# What the files are called where that is not the data set's name.
NAMES = {
    "r2d2_faceblur": "droid",  # droid/1.0.0 and droid_100/1.0.0
    "droid_101": "droid",  # droid/1.0.1
    "droid_100": "droid",
    "bridge_data_v2": "bridge_dataset",
    "bridge_orig": "bridge_dataset",  # OpenVLA's names for the authors' release and for the first one
    "bridge_oxe": "bridge",
}
