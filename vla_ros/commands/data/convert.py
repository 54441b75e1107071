# SPDX-License-Identifier: Apache-2.0
"""Write the episodes of bags as a data set for other software.

  vla convert bags --to lerobot --output datasets/drawer
  vla convert bags --to lerobot --output datasets/drawer --robot config/robots/mine.yaml --control-hz 15 --size 240x320

LeRobot (version 3): pictures as lossless video, twists and gripper as `action`, the tool's pose and the gripper's
opening as `observation.state`. Episodes are those that `vla fit` would train on; what is left out is printed. `vla fit`
reads the result too (format lerobot). It needs: pip install 'vla_ros[lerobot]'.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

from vla_ros.commands.data.inspect import SETTLE_S, known_proprioception
from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.shards import DecodeReport
from vla_ros.robot import Robot, load_robot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla convert`."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="a bag, or a folder of bags")
    parser.add_argument("--to", required=True, choices=["lerobot"], help="the format")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="the new data set's folder")
    parser.add_argument(
        "--robot", default="tabletop", help="name in config/robots, or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--control-hz", type=float, default=10.0, help="rate to sample at (default: %(default)s)")
    parser.add_argument("--size", default="256x256", help="height x width of the pictures (default: %(default)s)")
    parser.add_argument("--include-failures", action="store_true", help="take episodes that failed too")


def run(args: argparse.Namespace) -> int:
    """Convert `args.bags`."""
    from vla_ros.datasets.lerobot.writer import LeRobotWriter

    robot = load_robot(args.robot)
    spec, timing = sampling(robot, args.control_hz, *_size(args.size))
    parts = bag_shards(args.bags, robot, spec, timing, args.include_failures)
    dropped: Counter[str] = Counter()
    damage: list[str] = []
    rate_hz = Fraction(args.control_hz).limit_denominator(1000)
    try:
        with LeRobotWriter.create(args.output, rate_hz, spec.proprioception, robot.name) as writer:
            for part in parts:
                decoded = part.decode(writer.add)
                dropped.update(decoded.dropped)
                damage += decoded.damage
    except OSError as error:  # those of reading are errors of the bag by now
        raise SourceError(f"{args.output} can't be written: {error}") from None
    left_out = DecodeReport(dropped).dropped_text()
    print(f"{args.output}: {writer.episodes} episodes, {writer.frames} frames; left out: {left_out}")
    for text in damage:
        print(f"damaged: {text}")
    return 0


def sampling(robot: Robot, control_hz: float, height: int, width: int) -> tuple[ObservationSpec, Timing]:
    """Return how bags are sampled: all cameras at one size, and all that the robot's file knows of its state."""
    cameras = tuple(Camera(name, height, width, "pad") for name in robot.cameras)
    settle_s = min(SETTLE_S, 0.8 / control_hz) if control_hz > 0 else SETTLE_S
    return ObservationSpec(cameras, known_proprioception(robot)), Timing(control_hz, 1, 1, settle_s)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None or min(map(int, match.groups())) < 8:
        raise SourceError(f"--size is {text!r}; expected HEIGHTxWIDTH in pixels, such as 240x320, 8 or more each")
    return int(match[1]), int(match[2])
