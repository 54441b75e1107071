# SPDX-License-Identifier: Apache-2.0
"""Inspect recorded bags: streams, episodes, what training would leave out and why, and the quality of the rest.

  vla inspect bags/open_drawer                     one bag, of the simulated arm
  vla inspect bags --robot config/robots/mine.yaml all bags in a folder, of your robot
  vla inspect bags --html report.html              with images and histograms, as a single file
  vla inspect bags --json report.json              for other programs
  vla inspect --recover bags/open_drawer.partial   first rescue what a killed recorder left, into a complete bag

Exit status: 0, or 1 if training could not use a bag.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from vla_ros.datasets.bags.open_bag import find_bags
from vla_ros.datasets.bags.recovery import recover
from vla_ros.datasets.inspection.inspection import Inspection
from vla_ros.datasets.inspection.report import page, show
from vla_ros.files import absolute, write_text
from vla_ros.robot import load_robot


class Arguments(argparse.Namespace):
    bags: list[Path]
    robot: str
    control_hz: float
    json: Path | None
    html: Path | None
    recover: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla inspect`."""
    parser.add_argument("bags", nargs="+", type=absolute, metavar="BAG", help="a bag, or a folder of bags")
    parser.add_argument(
        "--robot", default="tabletop", help="name in config/robots, or YAML file (default: %(default)s)"
    )
    parser.add_argument("--control-hz", type=float, default=10.0, help="sampling rate in Hz (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the report, with images, as HTML")
    parser.add_argument(
        "--recover",
        action="store_true",
        help="write each unfinished bag as a complete bag BAG_recovered, and inspect that",
    )


def run(args: Arguments) -> int:
    """Print the report on `args.bags`; return 1 if one of them can't be used."""
    paths = [recover(path) for path in args.bags] if args.recover else args.bags
    inspection = Inspection(load_robot(args.robot), args.control_hz)
    for bag in find_bags(paths):
        inspection.add(bag)
    report = inspection.report()
    if args.json:
        write_text(args.json, json.dumps(report, indent=2) + "\n")
    if args.html:
        write_text(args.html, page(report, inspection.episodes.thumbnails))
    show(report, Console())
    return 1 if report["problems"] else 0
