# SPDX-License-Identifier: Apache-2.0
"""Play a recorded episode back onto a running robot, slowly, and say whether it moves as the recorded one did.

vla replay-onto-robot CKPT bags/mine --robot my_robot.yaml          episode 0, at a quarter of its speed
vla replay-onto-robot CKPT bags/mine --episode 3 --speed 0.5 --arm  another one; nobody else has to arm it
vla replay-onto-robot CKPT bags/mine --json replayed.json           the figures, for a machine

It proves units, frames, signs and rate of everything between a recorded twist and the arm's motion, before a policy
moves it. Of the checkpoint only rate, cameras and frame are used. Twists go the way of the policy node's: the same
governor with the robot's limits, deadman, emergency stop and takeover. The node is called `replay`; it moves nothing
until somebody has called its service `replay/arm`, and refuses to while another node commands the arm.

Put the arm where the episode begins, and a hand on the emergency stop. The measured way is compared with the recorded
one, axis by axis from the start, and what explains a difference is named.

Exit status: 0, or 1 when it moved otherwise than recorded, or was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vla_ros.contract import PROPRIOCEPTION_UNITS, ObservationSpec, PolicyContract, Proprioception
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Source, load_source
from vla_ros.errors import UserError
from vla_ros.evaluation.replay.motion import Motion, apart, compare
from vla_ros.robot import Robot, load_robot
from vla_ros.runtime.playback import Playback

START_M, START_RAD = 0.05, 0.2  # how far from where the episode begins the tool may be


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla replay-onto-robot``."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("bags", nargs="+", help="bag folders, or folders of them")
    parser.add_argument("--robot", default="tabletop", help="robot file with topics and limits (default: %(default)s)")
    parser.add_argument("--episode", type=int, default=0, metavar="N", help="which, from 0 on (default: %(default)s)")
    parser.add_argument("--speed", type=float, default=0.25, help="of the recorded one (default: %(default)s)")
    parser.add_argument("--arm", action="store_true", help="arm it here; otherwise somebody calls replay/arm")
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="S", help="for that, in seconds (default: %(default)g)"
    )
    parser.add_argument(
        "--anywhere", action="store_true", help="go the recorded way from wherever the arm is; keep its workspace free"
    )
    parser.add_argument("--require-enable", action="store_true", help="move only while the deadman says so")
    parser.add_argument("--use-sim-time", action="store_true", help="the robot is a simulated one with its own clock")
    parser.add_argument("--namespace", default="", help="of the robot")
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="where to keep decoded bags (default: .vla_store beside them)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> int:
    """Run ``vla replay-onto-robot``."""
    if not 0.0 < args.speed <= 1.0:
        raise UserError(f"--speed is {args.speed:g}; allowed: above 0, up to 1")
    robot = load_robot(args.robot)
    contract = with_state(PolicyContract.load(args.checkpoint / "contract.json"), robot)
    names = contract.observation_spec.proprioception
    episode = read_episode(args, robot, contract)
    recorded = episode.proprioception.astype(np.float64)
    playback = Playback(contract, episode.actions, episode.command, args.speed)
    seconds = len(episode.actions) / contract.timing.control_hz
    print(
        f'{episode.source}: "{episode.command}", {seconds:.1f} s; {seconds / args.speed:.1f} s at {args.speed:g} of it'
    )

    def check_start(state: NDArray[np.float64]) -> None:
        distance_m, turn_rad = apart(names, recorded[0], state)
        if not args.anywhere and (distance_m > START_M or turn_rad > START_RAD):
            raise UserError(
                f"the tool is {distance_m:.3f} m and {turn_rad:.2f} rad from where the episode begins; allowed: "
                f"{START_M} m and {START_RAD} rad: put it there, or say --anywhere"
            )

    from vla_ros.nodes.policy.replay import replay  # rclpy reads the environment once

    ended = replay(
        playback,
        parameters={
            "checkpoint": str(args.checkpoint),
            "robot": str(args.robot),
            "speed_scale": args.speed,
            "require_enable": args.require_enable,
            "use_sim_time": args.use_sim_time,
        },
        namespace=args.namespace,
        arm=args.arm,
        patience_s=args.patience,
        check_start=check_start,
        tell=lambda text: print(text, flush=True),
    )
    figures: dict[str, Any] = {
        "episode": episode.source,
        "speed": args.speed,
        "stopped": ended.reason,
        "detail": ended.detail,
        "ticks": ended.ticks,
        "ticks_limited": ended.ticks_limited,
    }
    seen = playback.seen
    frames = np.array([one.frame for one in seen])
    try:
        motion = compare(names, recorded, frames, np.stack([one.proprioception for one in seen]))
    except ValueError as error:
        raise UserError(f"it was stopped ({ended.reason}) before it moved: {error}") from None
    figures |= dataclasses.asdict(motion)
    _print(figures, motion)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if ended.reason is None and not motion.mismatches else 1


def with_state(contract: PolicyContract, robot: Robot) -> PolicyContract:
    """Return the contract of a policy that also sees the tool's pose, and the gripper where the robot has it.

    Raises:
        UserError: the robot has no pose.
    """
    if robot.ee_pose is None:
        raise UserError(f"robot {robot.name!r} has no ee_pose; without it nobody knows how the tool moves")
    names = tuple(name for name in PROPRIOCEPTION_UNITS if name.startswith("ee_") or robot.gripper_state is not None)
    units = tuple(PROPRIOCEPTION_UNITS[name] for name in names)
    state = Proprioception(names, units, (0.0,) * len(names), (1.0,) * len(names))
    return dataclasses.replace(contract, proprioception=state)


def read_episode(args: argparse.Namespace, robot: Robot, contract: PolicyContract) -> Episode:
    """Return the episode with what was commanded: a demonstrator may have meant something else, with noise on purpose.

    Raises:
        UserError: there is no such episode.
    """
    moved = dataclasses.replace(robot, demonstrated_twist=robot.twist_command)
    # No picture is looked at, but episodes have one.
    cameras = (dataclasses.replace(contract.cameras[0], height=8, width=8),)
    spec = ObservationSpec(cameras, contract.observation_spec.proprioception)
    loaded = load_source(Source("the bags", "bags", args.bags, moved), spec, contract.timing, store=args.store)
    if not 0 <= args.episode < len(loaded.episodes):
        left_out = f"; left out: {loaded.report.dropped_text()}" if loaded.report.dropped else ""
        raise UserError(f"--episode is {args.episode}; allowed: 0 to {len(loaded.episodes) - 1}{left_out}")
    return loaded.episodes[args.episode]


def _print(figures: dict[str, Any], motion: Motion) -> None:
    table = Table("axis", "recorded", "measured", "share of the recorded way")
    for axis in motion.axes:
        share = "hardly moved" if axis.gain is None else f"{axis.gain:.2f}"
        table.add_row(axis.name, f"{axis.recorded:.4f} {axis.unit}", f"{axis.measured:.4f} {axis.unit}", share)
    Console().print(table)
    print(
        f"from the recorded way: {1e3 * motion.position_error_m:.1f} mm (at most {1e3 * motion.largest_m:.1f}), "
        f"{motion.rotation_error_rad:.3f} rad (at most {motion.largest_rad:.3f}); the robot's limits changed "
        f"{figures['ticks_limited']} of {figures['ticks']} twists"
    )
    if figures["stopped"] is not None:
        print(f"it was stopped before its end: {figures['stopped']} {figures['detail']}".rstrip())
    for name, detail in motion.mismatches:
        print(f"mismatch, {name}: {detail}")
    if not motion.mismatches:
        print("no mismatch found: units, frames and signs are the recorded ones")
