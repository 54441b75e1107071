# SPDX-License-Identifier: Apache-2.0
"""What the data sets of Open X-Embodiment call things, and which way their grippers count.

All have the tool's pose at each step, in metres and in the robot's base frame. The labels are made from it: the motion
from one step to the next. Their commands come in units that differ and are partly written down nowhere, and that
BridgeData's and DROID's controllers do not reach; Octo (arXiv:2405.12213) labels BridgeData anew for that reason. The
last step of an episode therefore has no label and is left out.

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
class Layout:
    """Where a data set has what. Names are relative to `steps/`.

    rate_hz: steps per second; cameras: ours -> name of the image; commands: names of the text; of
        several that say something, the first is the command and the others are more ways to say it
    numbers: name -> how many it has at each step
    poses: -> (S, 7) position m, quaternion x y z w; grippers: -> (S,) commanded openings 0 or 1; openings: -> (S,)
        measured openings in [0, 1], or None
    first_step: 1 where the first one is a dummy
    cameras_in_bgr: ours whose images were encoded with blue where red belongs
    """

    rate_hz: Fraction
    cameras: Mapping[str, str]
    commands: tuple[str, ...]
    numbers: Mapping[str, int]
    poses: Callable[[Numbers], Floats]
    grippers: Callable[[Numbers], Floats]
    openings: Callable[[Numbers], Floats] | None
    first_step: int = 0
    cameras_in_bgr: tuple[str, ...] = ()


def openings_from_changes(closing: Floats) -> Floats:
    """Return commanded openings (S,) from changes (S,): above 0.1 closes, below -0.1 opens, else it stays as it is.

    What was before the first change is its opposite; a gripper that is never changed is open.
    """
    decided = np.where(closing < -0.1, 1.0, np.where(closing > 0.1, 0.0, np.nan))
    changes = np.flatnonzero(~np.isnan(decided))
    if not len(changes):
        return np.ones(len(closing))
    last = np.searchsorted(changes, np.arange(len(closing)), side="right") - 1
    result: Floats = np.where(last < 0, 1 - decided[changes[0]], decided[changes[np.maximum(last, 0)]])
    return result


def _euler_poses(name: str) -> Callable[[Numbers], Floats]:
    """Poses from x, y, z and fixed-axis xyz Euler angles."""

    def poses(numbers: Numbers) -> Floats:
        values = numbers[name]
        return np.concatenate([values[:, :3], Rotation.from_euler("xyz", values[:, 3:6]).as_quat()], axis=1)

    return poses


def _unit(values: Floats) -> Floats:
    return np.clip(values, 0, 1)


_TEXT = "observation/natural_language_instruction"
_CLOSING = "action/gripper_closedness_action"

# BridgeData V2 as its authors give it out, and as TensorFlow Datasets has it under "bridge" by now. The gripper's
# command is 1 open, 0 closed, with values between while it moves.
_BRIDGE = Layout(
    rate_hz=Fraction(5),
    cameras={"static": "observation/image_0"},
    commands=("language_instruction",),
    numbers={"observation/state": 7, "action": 7},
    poses=_euler_poses("observation/state"),
    grippers=lambda numbers: actions.binarize_gripper(numbers["action"][:, 6]),
    openings=lambda numbers: _unit(numbers["observation/state"][:, 6]),
)

LAYOUTS: dict[str, Layout] = {
    "bridge_dataset": _BRIDGE,
    "bridge": _BRIDGE,
    # The first release in Open X-Embodiment: told from the others by `action/open_gripper`.
    "bridge (first release)": Layout(
        rate_hz=Fraction(5),
        cameras={"static": "observation/image"},
        commands=(_TEXT,),
        numbers={"observation/state": 7, "action/open_gripper": 1},
        poses=_euler_poses("observation/state"),
        grippers=lambda numbers: (numbers["action/open_gripper"][:, 0] > 0.5).astype(np.float64),
        openings=lambda numbers: _unit(numbers["observation/state"][:, 6]),
        first_step=1,
    ),
    "fractal20220817_data": Layout(
        rate_hz=Fraction(3),
        cameras={"static": "observation/image"},
        commands=(_TEXT,),
        numbers={"observation/base_pose_tool_reached": 7, "observation/gripper_closed": 1, _CLOSING: 1},
        poses=lambda numbers: numbers["observation/base_pose_tool_reached"],
        grippers=lambda numbers: openings_from_changes(numbers[_CLOSING][:, 0]),
        openings=lambda numbers: 1 - _unit(numbers["observation/gripper_closed"][:, 0]),
    ),
    "droid": Layout(
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
    "taco_play": Layout(
        rate_hz=Fraction(15),
        cameras={"static": "observation/rgb_static", "wrist": "observation/rgb_gripper"},
        commands=(_TEXT,),
        numbers={"observation/robot_obs": 15, "action/rel_actions_world": 7},
        poses=_euler_poses("observation/robot_obs"),
        grippers=lambda numbers: (numbers["action/rel_actions_world"][:, 6] > 0).astype(np.float64),
        openings=lambda numbers: _unit(numbers["observation/robot_obs"][:, 6] / 0.08),
    ),
    "berkeley_autolab_ur5": Layout(
        rate_hz=Fraction(5),
        cameras={"static": "observation/image", "wrist": "observation/hand_image"},
        commands=(_TEXT,),
        numbers={"observation/robot_state": 15, _CLOSING: 1},
        poses=lambda numbers: numbers["observation/robot_state"][:, 6:13],
        grippers=lambda numbers: openings_from_changes(numbers[_CLOSING][:, 0]),
        openings=lambda numbers: 1 - _unit(numbers["observation/robot_state"][:, 13]),
        cameras_in_bgr=("wrist",),
    ),
    "jaco_play": Layout(
        rate_hz=Fraction(10),
        cameras={"static": "observation/image", "wrist": "observation/image_wrist"},
        commands=(_TEXT,),
        numbers={"observation/end_effector_cartesian_pos": 7, _CLOSING: 1},
        poses=lambda numbers: numbers["observation/end_effector_cartesian_pos"],
        grippers=lambda numbers: openings_from_changes(numbers[_CLOSING][:, 0]),
        openings=None,  # joint_pos has the fingers, in a unit that nobody states
    ),
}
FIRST_BRIDGE = "bridge (first release)"
