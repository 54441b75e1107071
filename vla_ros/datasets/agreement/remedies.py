# SPDX-License-Identifier: Apache-2.0
"""The way out of a contradiction: which key of the robot file, or of a data set's layout, resolves it."""

from __future__ import annotations

from vla_ros.datasets.agreement import corrections, gripper, motion
from vla_ros.datasets.agreement.agreement import Agreement
from vla_ros.datasets.agreement.tracks import Contradiction
from vla_ros.robot import Robot
from vla_ros.robot_streams import GripperCommand, GripperState

_MOTION = "set labels: {arm: motion} in the robot file to learn the measured motion"
_BAGS = {
    corrections.FRAME: "say the frame of the twists in the robot file: demonstrated_twist: {frame: tool} (or base)",
    corrections.SWAPPED_AXES: f"{_MOTION}, and correct the axes of the teleoperation",
    corrections.UNITS: f"{_MOTION}, and record twists in m/s and rad/s, poses in m",
    corrections.ROTATION: f"{_MOTION}, and record angular velocities (REP-103)",
    motion.DELAY: "set latency_s of demonstrated_twist or ee_pose in the robot file, or synchronise the clocks",
    motion.NOT_COMMANDED: f"correct the topic of demonstrated_twist in the robot file, or {_MOTION}",
    motion.UNRELATED: "check the topics of demonstrated_twist and ee_pose in the robot file: are they of one arm?",
    gripper.NEVER_LABELLED: "correct gripper_command (topic, closed, open), or set labels: {gripper: state}",
    gripper.NEVER_MOVES: "check gripper_state (topic, joints) in the robot file",
    corrections.GRIPPER: "exchange closed and open of gripper_command or gripper_state in the robot file",
}
_NO_TWIST = "set twist: null in meta/vla_ros.json to learn the measured motion of pose"
_LEROBOT = {
    corrections.FRAME: _NO_TWIST,
    corrections.SWAPPED_AXES: "correct the columns of twist or pose in meta/vla_ros.json",
    corrections.UNITS: _NO_TWIST + "; its positions must be in m",
    corrections.ROTATION: _NO_TWIST + "; check its rotation_as, too",
    motion.DELAY: _NO_TWIST,
    motion.NOT_COMMANDED: f"correct the columns of twist, or {_NO_TWIST}",
    motion.UNRELATED: "check the columns of twist and pose in meta/vla_ros.json",
    gripper.NEVER_LABELLED: "correct column, closed and open of gripper in meta/vla_ros.json",
    gripper.NEVER_MOVES: "check the column of opening in meta/vla_ros.json",
    corrections.GRIPPER: "exchange closed and open of gripper or opening in meta/vla_ros.json",
}
_PUBLISHED = "the data are not as published: compare the copy with its source, or leave it out"
# CALVIN's actions lead the tool by design: targets that it has not reached when the next one is given.
_BY_DESIGN = {"calvin": (corrections.UNITS, motion.DELAY)}


def remedy(found: Contradiction, agreement: Agreement, format: str, robot: Robot | None = None) -> str:
    """Return what resolves a contradiction in a source of this `format`."""
    if format == "lerobot":
        return _LEROBOT[found.name]
    if format != "bags":
        return _PUBLISHED
    by_state = robot is not None and robot.labels.gripper == "state"
    if found.name == gripper.NEVER_LABELLED and by_state and agreement.gripper is not None and robot is not None:
        return _thresholds(agreement.gripper, robot)
    return _BAGS[found.name]


def refuses(found: Contradiction, format: str) -> bool:
    """Return whether to refuse to train on what contradicts itself so."""
    return found.clear and found.name not in _BY_DESIGN.get(format, ())


def raw_value(opening: float, stream: GripperState | GripperCommand) -> float:
    """Return the actuator's value of an opening."""
    return stream.closed + opening * (stream.open - stream.closed)


def _thresholds(found: gripper.GripperAgreement, robot: Robot) -> str:
    """Return which threshold to set, so that the measured openings are told apart."""
    low, high = found.measured
    middle = round((low + high) / 2, 2)
    key, limit, side = ("closed_below", low, "above") if found.labelled[0] > 0.5 else ("open_above", high, "below")
    raw = f"; raw {raw_value(limit, robot.gripper_state):.4g}" if robot.gripper_state is not None else ""
    now = getattr(robot.labels, key)
    return f"set labels: {{{key}: {middle:g}}} in the robot file, {side} {limit:.2f}{raw} (now {now:g})"
