# SPDX-License-Identifier: Apache-2.0
"""Replay a recorded episode on a running robot, slowly, and check that it moves as recorded.

vla replay-onto-robot CKPT bags/mine --robot my_robot.yaml          episode 0, at a quarter of its speed
vla replay-onto-robot CKPT bags/mine --episode 3 --speed 0.5 --arm  another one, armed by this command
vla replay-onto-robot CKPT bags/mine --json replayed.json           machine-readable results

Verifies units, frames, signs and rate all the way from a recorded twist to the arm's motion, before a policy moves it.
Only the rate, cameras and frame of the checkpoint are used. Twists take the same path as the policy's, through a guard
with the same limits, deadman, emergency stops and takeover. The node is called `replay`. Nothing moves until the
service `guard/arm` is called, or while another node commands the arm.

Move the arm to where the episode begins, and keep a hand on the emergency stop. The measured path is compared with the
recorded one, axis by axis from the start, and differences are diagnosed.

Exit status: 0, or 1 if the motion differs from the recording or was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vla_ros import bringup
from vla_ros.commands.ros.process_group import ProcessGroup
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace, place
from vla_ros.contract import PROPRIOCEPTION_UNITS, ObservationSpec, PolicyContract, Proprioception
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Source, dropped_text, load_source
from vla_ros.errors import UserError
from vla_ros.evaluation.replay.motion import Motion, compare_motion, pose_distance
from vla_ros.files import write_json
from vla_ros.robot import Robot, load_robot
from vla_ros.runtime.playback import Playback

if TYPE_CHECKING:
    from vla_ros.nodes.policy.replay import ReplayResult

START_M, START_RAD = 0.05, 0.2  # largest distance of the tool from where the episode begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, help="checkpoint folder")
    add("bags", nargs="+", help="bags, or folders of bags")
    add("--robot", default="tabletop", help="robot file with topics and limits (default %(default)s)")
    add("--any-robot", action="store_true", help="accept a checkpoint of a robot of another name")
    add("--episode", type=int, default=0, metavar="N", help="episode to replay, from 0 (default %(default)s)")
    add("--speed", type=float, default=0.25, metavar="X", help="fraction of the recorded speed (default %(default)s)")
    add("--arm", action="store_true", help="arm the robot; otherwise wait for a call of guard/arm")
    add("--patience", type=float, default=60.0, metavar="S", help="seconds to wait for that call (default %(default)g)")
    add("--anywhere", action="store_true", help="replay from wherever the arm is; keep its workspace clear")
    add("--require-enable", action="store_true", help="move only while the deadman switch is held")
    add("--use-sim-time", action="store_true", help="the robot is simulated and publishes /clock")
    add("--store", type=Path, metavar="FOLDER", help="cache of decoded bags (default: .vla_store beside the bags)")
    add("--json", type=Path, metavar="FILE", help="also write the results to a JSON file")
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if not 0.0 < args.speed <= 1.0:
        raise UserError(f"--speed must be in (0, 1]; got {args.speed:g}")
    robot = load_robot(args.robot)
    contract = PolicyContract.load(args.checkpoint / "contract.json")
    contract.check_robot(robot.name, args.checkpoint, any_robot=args.any_robot, override="--any-robot")
    contract = with_state(contract, robot)
    names = contract.observation_spec.proprioception
    episode = read_episode(args, robot, contract)
    recorded = episode.proprioception.astype(np.float64)
    playback = Playback(contract, episode.actions, episode.command, args.speed)
    seconds = len(episode.actions) / contract.timing.control_hz
    print(f'{episode.source}: "{episode.command}", {seconds:.1f} s, replayed in {seconds / args.speed:.1f} s')

    def check_start(state: NDArray[np.float64]) -> None:
        distance_m, turn_rad = pose_distance(names, recorded[0], state)
        if not args.anywhere and (distance_m > START_M or turn_rad > START_RAD):
            raise UserError(
                f"the tool is {distance_m:.3f} m and {turn_rad:.2f} rad from where the episode begins, beyond "
                f"{START_M} m and {START_RAD} rad; move it there, or use --anywhere"
            )

    result = _replay(args, playback, check_start)
    frames = np.array([seen.frame for seen in playback.seen])
    try:
        motion = compare_motion(names, recorded, frames, np.stack([seen.proprioception for seen in playback.seen]))
    except ValueError as error:
        raise UserError(f"the replay stopped ({result.reason}) before the arm moved: {error}") from None
    _print(result, motion)
    if args.json:
        replayed = {"episode": episode.source, "speed": args.speed, "stopped": result.reason, "detail": result.detail}
        ticks = {"ticks": result.ticks, "ticks_limited": result.ticks_limited}
        write_json(args.json, {**replayed, **ticks, **dataclasses.asdict(motion)})
    return 0 if result.reason is None and not motion.mismatches else 1


def _replay(
    args: argparse.Namespace, playback: Playback, check_start: Callable[[NDArray[np.float64]], None]
) -> ReplayResult:
    from vla_ros.nodes.policy.replay import replay  # rclpy reads the environment once

    shared = {"robot": str(args.robot), "use_sim_time": args.use_sim_time}
    guard = bringup.guard(**shared, autostart=True, speed_scale=args.speed, require_enable=args.require_enable)
    namespace = find_namespace(args.namespace, args.ros_args)
    with tempfile.TemporaryDirectory(prefix="vla_replay_") as logs, ProcessGroup(Path(logs)) as group:
        group.start(*place([guard], namespace, args.ros_args))
        return replay(
            playback,
            parameters={**shared, "checkpoint": str(args.checkpoint), "any_robot": args.any_robot},
            namespace=namespace,
            ros_arguments=args.ros_args,
            arm=args.arm,
            timeout_s=args.patience,
            check_start=check_start,
            check_guard=group.check,
            report=functools.partial(print, flush=True),
        )


def with_state(contract: PolicyContract, robot: Robot) -> PolicyContract:
    """Return the contract with the tool's pose, and the gripper's opening if the robot publishes it, as inputs.

    Raises:
        UserError: the robot has no pose.
    """
    if robot.ee_pose is None:
        raise UserError(f"robot {robot.name!r} has no ee_pose, which is needed to measure how the tool moves")
    names = tuple(name for name in PROPRIOCEPTION_UNITS if name.startswith("ee_") or robot.gripper_state is not None)
    units = tuple(PROPRIOCEPTION_UNITS[name] for name in names)
    state = Proprioception(names, units, (0.0,) * len(names), (1.0,) * len(names))
    return dataclasses.replace(contract, proprioception=state)


def read_episode(args: argparse.Namespace, robot: Robot, contract: PolicyContract) -> Episode:
    """Return the episode with the commanded twists, not the demonstrated ones, which may have noise added.

    Raises:
        UserError: no such episode.
    """
    moved = dataclasses.replace(robot, demonstrated_twist=robot.twist_command)
    # The images are not used, but an episode must have some.
    cameras = (dataclasses.replace(contract.cameras[0], height=8, width=8),)
    spec = ObservationSpec(cameras, contract.observation_spec.proprioception)
    loaded = load_source(Source("the bags", "bags", args.bags, moved), spec, contract.timing, store=args.store)
    if not 0 <= args.episode < len(loaded.episodes):
        skipped = f" (skipped: {dropped_text(loaded.report.dropped)})" if loaded.report.dropped else ""
        raise UserError(f"--episode must be between 0 and {len(loaded.episodes) - 1}{skipped}; got {args.episode}")
    episode: Episode = loaded.episodes[args.episode]
    return episode


def _print(result: ReplayResult, motion: Motion) -> None:
    table = Table("axis", "recorded", "measured", "measured / recorded")
    for axis in motion.axes:
        share = "barely moved" if axis.gain is None else f"{axis.gain:.2f}"
        table.add_row(axis.name, f"{axis.recorded:.4f} {axis.unit}", f"{axis.measured:.4f} {axis.unit}", share)
    Console().print(table)
    print(
        f"deviation from the recorded path: {1e3 * motion.position_error_m:.1f} mm (max {1e3 * motion.largest_m:.1f}), "
        f"{motion.rotation_error_rad:.3f} rad (max {motion.largest_rad:.3f}); the robot's limits modified "
        f"{result.ticks_limited} of {result.ticks} twists"
    )
    if result.reason is not None:
        print(f"stopped early: {result.reason} {result.detail}".rstrip())
    for name, detail in motion.mismatches:
        print(f"mismatch, {name}: {detail}")
    if not motion.mismatches:
        print("no mismatch found: units, frames and signs match the recording")
