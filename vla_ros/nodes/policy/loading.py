# SPDX-License-Identifier: Apache-2.0
"""Check that a checkpoint fits the robot before its weights are loaded, and load it in the engine's thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.contract import ContractError, PolicyContract
from vla_ros.robot import Robot
from vla_ros.runtime.planning.planner import ChunkPolicy

if TYPE_CHECKING:
    from vla_ros.policy.inference import PolicyRunner

GRIPPER_TYPE = "std_msgs/msg/Float64MultiArray"

Value = Callable[[str], Any]  # of a parameter by its name
FindPolicy = Callable[[Value, Robot], tuple[PolicyContract, Callable[[], ChunkPolicy]]]


def from_parameters(value: Value, robot: Robot) -> tuple[PolicyContract, Callable[[], ChunkPolicy]]:
    """Return the contract of the checkpoint in the parameters, checked, and a function that loads its weights.

    Raises:
        ContractError, RobotError: see `load_contract`.
    """
    contract = load_contract(value("checkpoint"), robot)
    checkpoint, device, precision, compile, cpu_threads = (
        value(name) for name in ("checkpoint", "device", "precision", "compile", "cpu_threads")
    )
    return contract, lambda: load_runner(checkpoint, device, precision, compile, cpu_threads, contract=contract)


def load_contract(checkpoint: str, robot: Robot) -> PolicyContract:
    """Read the checkpoint's contract and check it against the robot.

    Raises:
        ContractError: no such checkpoint, or it does not fit the robot.
        RobotError: the robot's file lacks a stream that the policy or the governor needs.
    """
    if not checkpoint:
        raise ContractError("parameter checkpoint is empty; set it to the folder of a checkpoint")
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        raise ContractError(f"parameter checkpoint: no such folder: {checkpoint!r}")
    contract = PolicyContract.load(folder / "contract.json")
    check(contract, robot)
    return contract


def check(contract: PolicyContract, robot: Robot) -> None:
    """Raise ContractError or RobotError if a policy with this contract must not run on this robot."""
    if set(contract.camera_names) != set(robot.cameras):
        raise ContractError(
            f"the checkpoint's cameras are {', '.join(sorted(contract.camera_names))}, those of robot {robot.name!r} "
            f"are {', '.join(sorted(robot.cameras))}; they must match: use another checkpoint or robot file"
        )
    # The governor needs the tool's position for the workspace, even if the policy does not.
    for stream in (*contract.observation_spec.streams, "ee_pose"):
        robot.stream(stream)
    if contract.action.frame != "base":
        raise ContractError(
            f"the checkpoint's actions are in the {contract.action.frame} frame, but the node publishes twists in "
            f"{robot.base_frame!r}; train with actions in the base frame"
        )
    given = robot.gripper_command.type  # other types are for bags
    if given != GRIPPER_TYPE:
        raise ContractError(
            f"robot {robot.name!r}: gripper_command must have the type {GRIPPER_TYPE} for the node; got {given!r}"
        )


def load_runner(
    checkpoint: str,
    device: str = "auto",
    precision: str = "auto",
    compile: str = "auto",
    cpu_threads: int = 1,
    contract: PolicyContract | None = None,
) -> PolicyRunner:
    """Load the weights, in the thread that will use them.

    Args:
        checkpoint: its folder.
        device, precision, compile, contract: see `load_policy_for_inference`.
        cpu_threads: per operator on the CPU. A second one does not speed up a small policy, and makes it wait for a
            core that another process occupies: under load, steps of 8 ms occasionally take 900 ms.

    Raises:
        CheckpointError: the folder is not a valid checkpoint.
        AccelerationError: an explicit choice is not available here.
    """
    import torch

    from vla_ros.policy.inference import load_policy_for_inference

    torch.set_num_threads(cpu_threads)
    return load_policy_for_inference(Path(checkpoint).expanduser(), device, precision, compile, contract)
