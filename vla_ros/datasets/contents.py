# SPDX-License-Identifier: Apache-2.0
"""What a data set has by its own account, and whether that is what a contract requires."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from fractions import Fraction

from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec, Timing
from vla_ros.datasets.errors import SourceError


@dataclasses.dataclass(frozen=True)
class Contents:
    """Cameras, states and rate of a data set.

    Attributes:
        read_as: which layout its files are read by.
        states: names of proprioception.
    """

    name: str
    read_as: str
    rate_hz: Fraction
    cameras: tuple[str, ...]
    states: tuple[str, ...]


def states_of(pose: bool, opening: bool) -> tuple[str, ...]:
    """Return the states that follow from the tool's pose and from the gripper's measured opening."""
    return tuple(name for name in PROPRIOCEPTION_UNITS if (pose if name.startswith("ee_") else opening))


def mismatches(contents: Contents, spec: ObservationSpec, timing: Timing) -> list[tuple[str, str | None]]:
    """Return what a contract requires and the data set lacks, and the recipe's setting that resolves it, if any."""
    found: list[tuple[str, str | None]] = []
    if timing.grid.rate_hz > contents.rate_hz:
        text = (
            f"contract.control_hz is {timing.control_hz:g}, but {contents.name} was recorded at "
            f"{float(contents.rate_hz):g} Hz; it can't be higher"
        )
        found.append((text, f"contract.control_hz={float(contents.rate_hz):.12g}"))
    present = [camera for camera in spec.cameras if camera.name in contents.cameras]
    missing = [camera.name for camera in spec.cameras if camera.name not in contents.cameras]
    if missing:
        text = f"{contents.name} has no camera {missing[0]!r}; it has {', '.join(contents.cameras) or 'none'}"
        others = [dataclasses.replace(spec.cameras[0], name=name) for name in contents.cameras]
        cameras = [_as_in_a_recipe(camera) for camera in present or others]
        found.append((text, f"contract.cameras={_compact(cameras)}" if cameras else None))
    lacking = [name for name in spec.proprioception if name not in contents.states]
    if lacking:
        kept = [name for name in spec.proprioception if name in contents.states]
        setting = f"contract.proprioception={_compact(kept)}"
        streams = dict.fromkeys("ee pose" if name.startswith("ee_") else "gripper state" for name in lacking)
        text = f"{contents.name} has no {' and no '.join(streams)}; train with {setting}, or without this source"
        found.append((text, setting))
    return found


def require_recorded(contents: Contents, spec: ObservationSpec, timing: Timing) -> None:
    """Raise SourceError if the contract requires a camera, a state or a rate that a data set lacks."""
    for text, _ in mismatches(contents, spec, timing):
        raise SourceError(text)


def _as_in_a_recipe(camera: Camera) -> dict[str, object]:
    """Return the fields of a camera that are not at their defaults."""
    values = {field.name: (getattr(camera, field.name), field.default) for field in dataclasses.fields(camera)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _compact(values: Collection[object]) -> str:
    return json.dumps(values, separators=(",", ":"))
