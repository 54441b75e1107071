# SPDX-License-Identifier: Apache-2.0
"""The policy contract: everything a policy assumes about the world, as plain data in its checkpoint.

Training writes the contract; the robot refuses a policy whose contract it does not meet. Both directions are strict: an
unknown or missing key is an error, so that nothing is assumed silently.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from vla_ros import schema
from vla_ros.errors import UserError
from vla_ros.files import is_plain_name, write_text
from vla_ros.grid import Grid

CONTRACT_VERSION = 2
CONTROL_HZ = (0.01, 1000.0)
RESIZE_MODES = ("stretch", "pad", "crop")
FRAMES = ("base", "tool")
GRIPPER_CONVENTION = "0 closed, 1 open"
ARM_AXES = ("vx", "vy", "vz", "wx", "wy", "wz")
ARM_UNITS = ("m/s", "m/s", "m/s", "rad/s", "rad/s", "rad/s")

# Names and units of proprioception values. The rotation is the first two columns of the tool's rotation matrix in the
# base frame (Zhou et al. 2019, arXiv:1812.07035): continuous, unlike a rotation vector near pi.
PROPRIOCEPTION_UNITS = {
    "ee_x": "m",
    "ee_y": "m",
    "ee_z": "m",
    **{f"ee_r{index}": "1" for index in range(6)},
    "gripper_opening": "1",
}


class ContractError(UserError):
    """A contract is malformed, or does not fit what it is used with."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """One image input, `height` x `width` pixels RGB; the network sees (value / 255 - mean) / std."""

    name: str
    height: int
    width: int
    resize: str = "stretch"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        _require(is_plain_name(self.name), "camera: name", self.name, "the name of a file, without / and \\")
        size = self.height, self.width
        _require(min(size) > 0, f"camera {self.name}: height and width", size, "positive")
        _require(self.resize in RESIZE_MODES, f"camera {self.name}: resize", self.resize, RESIZE_MODES)
        _require(all(value > 0 for value in self.std), f"camera {self.name}: std", self.std, "positive")


@dataclasses.dataclass(frozen=True)
class Proprioception:
    """The robot's own state: `names` in order, their units, and the statistics to normalise them."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in self.names:
            _require(name in PROPRIOCEPTION_UNITS, "proprioception.names", name, tuple(PROPRIOCEPTION_UNITS))
        expected = tuple(PROPRIOCEPTION_UNITS[name] for name in self.names)
        _require(self.units == expected, "proprioception.units", self.units, f"{expected}")
        lengths = (len(self.names), len(self.mean), len(self.std))
        _require(len(set(lengths)) == 1, "lengths of proprioception names, mean and std", lengths, "equal")
        _require(all(value > 0 for value in self.std), "proprioception.std", self.std, "positive")


@dataclasses.dataclass(frozen=True)
class Language:
    """How a command becomes tokens; `prompt_template` contains {command}, `tokenizer` identifies the token table."""

    prompt_template: str
    tokenizer: str
    max_tokens: int

    def __post_init__(self) -> None:
        template = self.prompt_template
        _require("{command}" in template, "language.prompt_template", template, "a text that contains {command}")
        _require(self.max_tokens > 0, "language.max_tokens", self.max_tokens, "positive")

    def prompt(self, command: str) -> str:
        """Return the text to tokenise for `command`, the same in training and on the robot."""
        return self.prompt_template.replace("{command}", " ".join(command.split()).lower())


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the policy observes and acts.

    Attributes:
        control_hz: ticks per second; `grid` has their times on the ROS clock.
        history: frames seen (W).
        chunk: actions predicted (N).
        settle_s: the observation of tick k is taken this long after the tick, from what was stamped until the tick, so
            that messages in flight count alike live and in a bag.
    """

    control_hz: float
    history: int
    chunk: int
    settle_s: float = 0.02

    def __post_init__(self) -> None:
        low, high = CONTROL_HZ
        _require(low <= self.control_hz <= high, "timing.control_hz", self.control_hz, f"in [{low:g}, {high:g}]")
        _require(self.history > 0, "timing.history", self.history, "positive")
        _require(self.chunk > 0, "timing.chunk", self.chunk, "positive")
        period_s = 1 / self.control_hz
        allowed = f"at least 0 and less than one control period, {period_s:.3g} s at {self.control_hz:g} Hz"
        _require(0 <= self.settle_s < period_s, "timing.settle_s", self.settle_s, allowed)

    @functools.cached_property
    def grid(self) -> Grid:
        """The control grid."""
        return Grid(self.control_hz)

    @property
    def settle_ns(self) -> int:
        return round(1e9 * self.settle_s)


@dataclasses.dataclass(frozen=True)
class ActionSpace:
    """The arm's six velocities and the gripper; physical [low, high] maps to the network's [-1, 1].

    The gripper's opening in [0 closed, 1 open] is not normalised.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...] = (*ARM_AXES, "gripper")
    units: tuple[str, ...] = (*ARM_UNITS, "1")
    frame: str = "base"
    gripper: str = GRIPPER_CONVENTION

    def __post_init__(self) -> None:
        names, units = (*ARM_AXES, "gripper"), (*ARM_UNITS, "1")
        _require(self.names == names, "action.names", self.names, f"{names}")
        _require(self.units == units, "action.units", self.units, f"{units}")
        _require(self.frame in FRAMES, "action.frame", self.frame, FRAMES)
        _require(self.gripper == GRIPPER_CONVENTION, "action.gripper", self.gripper, f"{GRIPPER_CONVENTION!r}")
        lengths = len(self.low), len(self.high)
        _require(lengths == (6, 6), "lengths of action.low and action.high", lengths, "six each")
        for axis, low, high in zip(ARM_AXES, self.low, self.high):
            _require(low < high, f"action bounds of {axis}", (low, high), "low < high")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where the policy comes from, for people and to refuse checkpoints of other code or data.

    `robots` are the names, in their robot files, of those that the demonstrations were recorded of; empty if nobody
    knows, as for data sets without a robot file.
    """

    backbone: str
    backbone_revision: str
    head: str
    data_digest: str
    package_version: str
    robots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = set(self.robots) - {""}
        _require(len(names) == len(self.robots), "provenance.robots", self.robots, "different names, none empty")


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """What turns streams into observations."""

    cameras: tuple[Camera, ...]
    proprioception: tuple[str, ...] = ()

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that an observation needs, including the language."""
        return (*(camera.name for camera in self.cameras), *proprioception_streams(self.proprioception), "language")


@dataclasses.dataclass(frozen=True)
class PolicyContract:
    """The whole contract; docs/contract.md shows one as JSON."""

    cameras: tuple[Camera, ...]
    proprioception: Proprioception | None
    language: Language
    timing: Timing
    action: ActionSpace
    provenance: Provenance
    version: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        _require(
            self.version == CONTRACT_VERSION,
            "version",
            self.version,
            f"1 to {CONTRACT_VERSION}; install the vla_ros that wrote it, or retrain",
        )
        _require(len(self.cameras) > 0, "cameras", self.cameras, "at least one")
        _require(len(set(self.camera_names)) == len(self.cameras), "names of cameras", self.camera_names, "unique")

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    @property
    def observation_spec(self) -> ObservationSpec:
        return ObservationSpec(self.cameras, self.proprioception.names if self.proprioception else ())

    def check_robot(self, robot: str, checkpoint: object, *, any_robot: bool, override: str) -> str:
        """Compare the names of the recordings' robots with the name of the one to run on.

        Args:
            robot: its name.
            checkpoint: the checkpoint's folder, for messages.
            any_robot: accept another robot than the recordings'.
            override: how a user sets `any_robot`, for the error.

        Returns:
            What a person should be told; empty if the names agree.

        Raises:
            ContractError: all recordings are of other robots.
        """
        recorded = self.provenance.robots
        if robot in recorded:
            return ""
        if not recorded:
            return f"checkpoint {checkpoint} does not say which robot its recordings were of; used on {robot!r}"
        names = " and ".join(map(repr, recorded))
        problem = f"checkpoint {checkpoint} was trained on recordings of robot {names}, but robot is {robot!r}"
        if not any_robot:
            raise ContractError(f"{problem}; use a checkpoint of that robot, or pass {override}")
        return f"{problem}; used anyway ({override})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, as written to contract.json."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the text of contract.json."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicyContract:
        """Inverse of `to_dict`, also of older versions; raises ContractError for unknown, missing or wrong values."""
        return schema.parse(cls, _migrated(data), "contract", ContractError, defaults=False)

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> PolicyContract:
        """Read contract.json; raises ContractError."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ContractError(
                f"{path} is missing, but every checkpoint folder contains one; export the checkpoint again"
            ) from None
        except ValueError as error:  # not JSON, or not even text
            raise ContractError(f"{path} is not JSON ({error}); export the checkpoint again") from None
        try:
            return cls.from_dict(data)
        except ContractError as error:
            raise ContractError(f"{path}: {error}") from None


def proprioception_streams(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the streams from which the named proprioception values are computed."""
    streams = []
    if any(name.startswith("ee_") for name in names):
        streams.append("ee_pose")
    if "gripper_opening" in names:
        streams.append("gripper_state")
    return tuple(streams)


def _name_robots(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 did not name the robots."""
    provenance = data.get("provenance")
    if not isinstance(provenance, dict):
        return data
    if "robots" in provenance:
        raise ContractError("contract: provenance: unknown key 'robots' in version 1; remove it, or set version to 2")
    return {**data, "provenance": {**provenance, "robots": []}}


MIGRATIONS = {1: _name_robots}  # from each older version to the next


def _migrated(data: Any) -> Any:
    """Return the data of an older contract in the form of this version; of anything else, as it is."""
    while isinstance(data, dict) and type(version := data.get("version")) is int and version in MIGRATIONS:
        data = {**MIGRATIONS[version](data), "version": version + 1}
    return data


def _require(condition: bool, what: str, value: Any, allowed: str | tuple[str, ...]) -> None:
    if not condition:
        required = allowed if isinstance(allowed, str) else f"one of {', '.join(map(repr, allowed))}"
        raise ContractError(f"{what} must be {required}; got {value!r}")
