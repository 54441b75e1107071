# SPDX-License-Identifier: Apache-2.0
"""Convert the episodes of bags to a data set for other software.

  vla convert bags --to lerobot --output datasets/drawer
  vla convert bags --to lerobot --output datasets/drawer --robot config/robots/mine.yaml --control-hz 15 --size 240x320

LeRobot (version 3): images as lossless video, twist and gripper as `action`, the tool's pose and the gripper's opening
as `observation.state`. It contains the episodes that `vla fit` would train on, and what is left out is printed. `vla
fit` also reads the result (format lerobot). Needs: pip install 'vla_ros[lerobot]'.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.inspection.inspection import everything
from vla_ros.datasets.sources import dropped_text
from vla_ros.files import absolute
from vla_ros.robot import load_robot


class Arguments(argparse.Namespace):
    bags: list[Path]
    output: Path
    robot: str
    control_hz: float
    size: str
    include_failures: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla convert`."""
    parser.add_argument("bags", nargs="+", type=absolute, metavar="BAG", help="a bag, or a folder of bags")
    parser.add_argument("--to", required=True, choices=["lerobot"], help="the format")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder of the new data set")
    parser.add_argument(
        "--robot", default="tabletop", help="name in config/robots, or YAML file (default: %(default)s)"
    )
    parser.add_argument("--control-hz", type=float, default=10.0, help="sampling rate in Hz (default: %(default)s)")
    parser.add_argument("--size", default="256x256", help="height x width of the images (default: %(default)s)")
    parser.add_argument("--include-failures", action="store_true", help="also convert episodes marked as failed")


def run(args: Arguments) -> int:
    """Convert `args.bags`."""
    from vla_ros.datasets.lerobot.writer import LeRobotWriter

    robot = load_robot(args.robot)
    spec, timing = everything(robot, args.control_hz, *_size(args.size))
    dropped: Counter[str] = Counter()
    damage: list[str] = []
    try:
        with LeRobotWriter.create(args.output, timing.grid.rate_hz, spec.proprioception, robot.name) as writer:
            for shard in bag_shards(args.bags, robot, spec, timing, args.include_failures):
                report = shard.decode(writer.add)
                dropped.update(report.dropped)
                damage += report.damage
    except OSError as error:  # of the output: those of the bags are BagErrors by now
        raise SourceError(f"the data set can't be written to {args.output}: {error}") from None
    print(f"{args.output}: {writer.episodes} episodes, {writer.frames} frames; left out: {dropped_text(dropped)}")
    for text in damage:
        print(f"damaged: {text}")
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None or min(map(int, match.groups())) < 8:
        raise SourceError(f"--size is {text!r}; must be HEIGHTxWIDTH in pixels, at least 8x8, for instance 240x320")
    return int(match[1]), int(match[2])
