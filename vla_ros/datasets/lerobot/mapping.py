# SPDX-License-Identifier: Apache-2.0
"""What the columns of a LeRobot data set mean, which LeRobot does not say.

meta/vla_ros.json does, beside the metadata: `vla convert` writes the file, and for other data sets a person does
(docs/data.md).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros import actions, schema
from vla_ros.datasets.errors import SourceError

MAPPING = Path("meta/vla_ros.json")

Floats = NDArray[np.float64]


def _from_matrix_columns(values: Floats) -> Rotation:
    first, second = values[:, :3], values[:, 3:]
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=2))


# How many columns there are, and how to read them.
_ROTATIONS: dict[str, tuple[int, Callable[[Floats], Rotation]]] = {
    "quaternion_xyzw": (4, Rotation.from_quat),
    "euler_xyz": (3, functools.partial(Rotation.from_euler, "xyz")),
    "rotation_vector": (3, Rotation.from_rotvec),
    "matrix_columns": (6, _from_matrix_columns),
}


@dataclasses.dataclass(frozen=True)
class PoseColumns:
    """The tool's pose in the robot's base frame.

    Attributes:
        position: columns of `feature`, in m.
        rotation: columns of `feature`.
        rotation_as: a quaternion x y z w, fixed-axis xyz Euler angles [rad], a rotation vector [rad], or the first two
            columns of the rotation matrix, one after the other.
    """

    feature: str
    position: tuple[int, int, int]
    rotation: tuple[int, ...]
    rotation_as: Literal["quaternion_xyzw", "euler_xyz", "rotation_vector", "matrix_columns"]

    def __post_init__(self) -> None:
        expected = _ROTATIONS[self.rotation_as][0]
        if len(self.rotation) != expected:
            raise SourceError(
                f"pose.rotation has {len(self.rotation)} columns of {self.feature}; {self.rotation_as} needs {expected}"
            )

    def poses(self, values: Floats) -> Floats:
        """Return poses (S, 7), position in m and quaternion x y z w, from the feature (S, D).

        Raises:
            ValueError: a rotation is invalid or not finite.
        """
        rotation = values[:, self.rotation]
        if not np.isfinite(rotation).all():
            raise ValueError("a rotation is not a finite number")
        rotations = _ROTATIONS[self.rotation_as][1](rotation)
        return np.concatenate([values[:, self.position], rotations.as_quat()], axis=1)


@dataclasses.dataclass(frozen=True)
class TwistColumns:
    """The commanded twist in the base frame during the step: six columns of `feature`, in m/s and rad/s."""

    feature: str
    columns: tuple[int, int, int, int, int, int]


@dataclasses.dataclass(frozen=True)
class OpeningColumn:
    """The gripper's opening: a column of `feature`, and its values when closed and when open."""

    feature: str
    column: int
    closed: float = 0.0
    open: float = 1.0

    def __post_init__(self) -> None:
        if self.closed == self.open:
            raise SourceError(
                f"closed and open of column {self.column} of {self.feature!r} are both {self.closed:g}; must be its "
                "values when the gripper is closed and when it is open"
            )

    def openings(self, values: Floats) -> Floats:
        """Return openings (S,) in [0, 1] from the feature (S, D)."""
        return actions.opening_from_value(values[:, self.column], self.closed, self.open)


@dataclasses.dataclass(frozen=True)
class FeatureMapping:
    """What the features of a data set mean.

    Without the commanded twist, labels are the measured motion of `pose` from one step to the next.
    """

    cameras: dict[str, str]  # our name -> the feature
    gripper: OpeningColumn  # commanded
    twist: TwistColumns | None = None
    pose: PoseColumns | None = None
    opening: OpeningColumn | None = None  # measured

    def __post_init__(self) -> None:
        if self.twist is None and self.pose is None:
            raise SourceError("twist and pose are both missing; labels are made from one of them")

    def columns(self) -> dict[str, int]:
        """Return the numeric features that are needed, and how many columns each must have at least."""
        uses = [(one.feature, one.column) for one in (self.gripper, self.opening) if one is not None]
        if self.twist is not None:
            uses.append((self.twist.feature, max(self.twist.columns)))
        if self.pose is not None:
            uses.append((self.pose.feature, max(*self.pose.position, *self.pose.rotation)))
        return {name: 1 + max(last for other, last in uses if other == name) for name, _ in uses}


def load_mapping(folder: Path) -> FeatureMapping:
    """Read the feature mapping of the data set in `folder`; SourceError if it is missing or malformed."""
    path = folder / MAPPING
    data = read_json(
        path,
        f"{path} is missing: LeRobot does not say what the columns of a data set mean; docs/data.md says what to "
        "write there",
    )
    try:
        return schema.parse(FeatureMapping, data, str(path), SourceError)
    except SourceError as error:
        text = str(error)
        raise SourceError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def read_json(path: Path, if_missing: str) -> Any:
    """Read a JSON file; raise SourceError, with the text `if_missing` if it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(if_missing) from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} can't be read as JSON: {error}") from None
