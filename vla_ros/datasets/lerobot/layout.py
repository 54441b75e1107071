# SPDX-License-Identifier: Apache-2.0
"""What the columns of a LeRobot data set mean, which LeRobot does not say: meta/vla_ros.json beside its metadata.

`vla convert` writes it; for a data set of others a person does (docs/data.md).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros import actions, schema
from vla_ros.datasets.errors import SourceError
from vla_ros.geometry.rigid import rotation_from_6d

LAYOUT = Path("meta/vla_ros.json")

Floats = NDArray[np.float64]
RotationKind = Literal["quaternion_xyzw", "euler_xyz", "rotation_vector", "matrix_columns"]
_ROTATION_COLUMNS = {"quaternion_xyzw": 4, "euler_xyz": 3, "rotation_vector": 3, "matrix_columns": 6}


@dataclasses.dataclass(frozen=True)
class Pose:
    """The tool's pose in the robot's base frame: columns of `feature` with its position [m] and its rotation.

    rotation_as: a quaternion x y z w, fixed-axis xyz Euler angles [rad], a rotation vector [rad], or the first two
        columns of the rotation matrix, one after the other
    """

    feature: str
    position: tuple[int, int, int]
    rotation: tuple[int, ...]
    rotation_as: RotationKind

    def __post_init__(self) -> None:
        expected = _ROTATION_COLUMNS[self.rotation_as]
        if len(self.rotation) != expected:
            raise SourceError(
                f"pose.rotation: {len(self.rotation)} columns of {self.feature}; {self.rotation_as} takes {expected}"
            )


@dataclasses.dataclass(frozen=True)
class Twist:
    """The commanded twist in the base frame: six columns of `feature`, m/s and rad/s, over the step that they begin."""

    feature: str
    columns: tuple[int, int, int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Opening:
    """The gripper's opening: a column of `feature`, and its values when closed and when open."""

    feature: str
    column: int
    closed: float = 0.0
    open: float = 1.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """cameras: ours -> the feature; gripper: the commanded opening, opening: the measured one, if there is.

    Without `twist`, labels are the measured motion of `pose` from one step to the next.
    """

    cameras: dict[str, str]
    gripper: Opening
    twist: Twist | None = None
    pose: Pose | None = None
    opening: Opening | None = None

    def __post_init__(self) -> None:
        if self.twist is None and self.pose is None:
            raise SourceError("neither twist nor pose is given; labels are made from one of them")

    def columns(self) -> dict[str, int]:
        """Return for each numeric feature that is needed how many columns it has at least."""
        needed: dict[str, int] = {}
        uses = [(one.feature, [one.column]) for one in (self.gripper, self.opening) if one is not None]
        if self.twist is not None:
            uses.append((self.twist.feature, list(self.twist.columns)))
        if self.pose is not None:
            uses.append((self.pose.feature, [*self.pose.position, *self.pose.rotation]))
        for feature, columns in uses:
            needed[feature] = max([needed.get(feature, 0), *(column + 1 for column in columns)])
        return needed


def load_layout(folder: Path) -> Layout:
    """Read the layout of the data set in `folder`.

    Raises:
        SourceError: there is none, or it is malformed.
    """
    path = folder / LAYOUT
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{path} is missing: LeRobot does not say what the columns of a data set mean; docs/data.md says what to "
            "write there"
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} can't be read as JSON: {error}") from None
    try:
        return schema.parse(Layout, data, str(path), SourceError)
    except SourceError as error:
        text = str(error)
        raise SourceError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def save_layout(layout: Layout, folder: Path) -> None:
    """Write the layout of the data set in `folder`."""
    text = json.dumps(dataclasses.asdict(layout), indent=2) + "\n"
    (folder / LAYOUT).write_text(text, encoding="utf-8")


def poses(pose: Pose, values: Floats) -> Floats:
    """Return poses (S, 7), position m and quaternion x y z w, from a feature (S, D).

    Raises:
        ValueError: a rotation is none, or not finite.
    """
    rotation = values[:, pose.rotation]
    if not np.isfinite(rotation).all():
        raise ValueError("a rotation is not a finite number")
    if pose.rotation_as == "euler_xyz":
        quaternions = Rotation.from_euler("xyz", rotation).as_quat()
    elif pose.rotation_as == "rotation_vector":
        quaternions = Rotation.from_rotvec(rotation).as_quat()
    elif pose.rotation_as == "matrix_columns":
        quaternions = rotation_from_6d(rotation).as_quat()
    else:
        quaternions = Rotation.from_quat(rotation).as_quat()
    return np.concatenate([values[:, pose.position], quaternions], axis=1)


def openings(opening: Opening, values: Floats) -> Floats:
    """Return openings (S,) in [0, 1] from a feature (S, D)."""
    return actions.opening_from_value(values[:, opening.column], opening.closed, opening.open)
