# SPDX-License-Identifier: Apache-2.0
"""Inspect demonstrations: streams, episodes, what training would leave out and why, and the quality of the rest.

  vla inspect bags/open_drawer                     one bag, of the simulated arm
  vla inspect bags --robot config/robots/mine.yaml all bags in a folder, of your robot
  vla inspect droid/1.0.1 task_D_D                 data sets: RLDS, CALVIN, LeRobot
  vla inspect my_recipe.json                       the sources of a recipe, and whether they have what it requires
  vla inspect bags --html report.html              with images and histograms, as a single file
  vla inspect bags --json report.json              for other programs
  vla inspect --recover bags/open_drawer.partial   first rescue what a killed recorder left, into a complete bag

Exit status: 0, or 1 if training could not use something.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console

from vla_ros import resources
from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.open_bag import find_bags
from vla_ros.datasets.bags.recovery import recover
from vla_ros.datasets.contents import Contents, mismatches
from vla_ros.datasets.errors import BagError
from vla_ros.datasets.inspection.inspection import Inspection, everything
from vla_ros.datasets.inspection.report import Report, Thumbnails, page, show
from vla_ros.datasets.inspection.source_inspection import inspect_source
from vla_ros.datasets.sources import Source, format_of
from vla_ros.files import absolute, write_text
from vla_ros.robot import load_robot, robot_file

RECIPE = "config/train/tabletop.json"  # in the command that trains on a data set
BAGS_HZ = 10.0


class Arguments(argparse.Namespace):
    paths: list[Path]
    robot: str
    control_hz: float | None
    all: bool
    json: Path | None
    html: Path | None
    recover: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla inspect`."""
    parser.add_argument(
        "paths", nargs="+", type=absolute, metavar="PATH", help="a bag, a folder of bags, a data set, or a recipe"
    )
    parser.add_argument(
        "--robot", default="tabletop", help="of bags: name in config/robots, or YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--control-hz",
        type=float,
        metavar="HZ",
        help=f"sampling rate (default: {BAGS_HZ:g} for bags, the recorded one for data sets, the recipe's)",
    )
    parser.add_argument("--all", action="store_true", help="decode all shards of data sets, not only some")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the report, with images, as HTML")
    parser.add_argument(
        "--recover",
        action="store_true",
        help="write each unfinished bag as a complete bag BAG_recovered, and inspect that",
    )


def run(args: Arguments) -> int:
    """Print the reports on `args.paths`; return 1 if something can't be used."""
    found: list[tuple[Report, Thumbnails]] = []
    for report, thumbnails in _inspected(args):
        show(report, Console())
        found.append((report, thumbnails))
    reports = [report for report, _ in found]
    if args.json:
        content = reports[0] if len(reports) == 1 else {"reports": reports}
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    if args.html:
        write_text(args.html, page(found))
    return 1 if any(report["problems"] for report in reports) else 0


def _inspected(args: Arguments) -> Iterator[tuple[Report, Thumbnails]]:
    """Yield the report on all bags among the paths, and one on each data set and each source of a recipe."""
    recipes = [path for path in args.paths if path.suffix == ".json" and path.is_file()]
    formats = {path: format_of(path) for path in args.paths if path not in recipes}
    bags = [path for path, format in formats.items() if format == "bags"]
    if bags:
        paths = [recover(path) for path in bags] if args.recover else bags
        yield _bags(paths, args.robot, BAGS_HZ if args.control_hz is None else args.control_hz)
    for path, format in formats.items():
        if format != "bags":
            inspected = inspect_source(Source(str(path), format, [path]), args.control_hz, args.all)
            if inspected.contents is not None and not inspected.report["problems"]:
                entry: dict[str, Any] = {"format": inspected.source.format, "path": str(path)}
                entry |= {"motion_only": True} if inspected.source.motion_only else {}
                data = ["data.bags=[]", f"data.sources={_compact([entry])}"]
                inspected.report["source"]["train"] = _training(inspected.contents, data)
            yield inspected.report, inspected.thumbnails
    for recipe in recipes:
        yield from _recipe(recipe, args)


def _bags(paths: Sequence[str | Path], name: str, control_hz: float) -> tuple[dict[str, Any], Thumbnails]:
    robot = load_robot(name)
    inspection = Inspection(robot, control_hz)
    try:
        found = find_bags(paths)
    except BagError as error:
        if not all(path.is_dir() for path in map(Path, paths)):
            raise
        raise BagError(f"{error}; it is no data set (RLDS, CALVIN, LeRobot) and no recipe (.json) either") from None
    for bag in found:
        inspection.add(bag)
    about = {
        "format": "bags",
        "paths": list(map(str, paths)),
        "read_as": f"bags, with the robot file {robot_file(name)}",
        "control_hz": control_hz,
        "notes": [],
    }
    report = inspection.report()
    if report["frames"] and not report["problems"]:
        spec, _ = everything(robot, control_hz, 1, 1)
        # Bags are sampled at any rate.
        contents = Contents(name, "", Fraction(1000), tuple(robot.cameras), spec.proprioception)
        data = [f"data.bags={_compact(list(map(str, paths)))}", f"data.robot={absolute(robot_file(name))}"]
        about["train"] = _training(contents, data)
    return {"source": about, **report}, inspection.episodes.thumbnails


def _recipe(path: Path, args: Arguments) -> Iterator[tuple[Report, Thumbnails]]:
    """Yield a report on each source of a recipe, at its rate, with what the recipe requires and the source lacks."""
    from vla_ros.train.demonstrations import recipe_sources
    from vla_ros.train.initial_policy import observation_spec
    from vla_ros.train.recipes import load_config

    config = load_config(path)
    spec, timing = observation_spec(config)
    for source, _ in recipe_sources(config):
        control_hz, contents = args.control_hz or timing.control_hz, None
        if source.format == "bags":
            report, thumbnails = _bags(source.paths, config.data.robot, control_hz)
        else:
            report, thumbnails, _, contents = inspect_source(source, control_hz, args.all)
        if contents is not None:
            lacking, settings = _lacking(contents, spec, timing, vars(config.augment))
            # A checkpoint's contract can't be changed.
            fix = _fit(path, settings) if settings and config.init_from is None else ""
            report["problems"] += [{"bag": source.name, "problem": text, "fix": fix} for text in lacking]
        report["source"]["train"] = "" if report["problems"] else _fit(path, [])
        yield report, thumbnails


def _training(contents: Contents, data: Sequence[str]) -> str:
    """Return the command that trains a policy on `data`, settings of a recipe, starting from the shipped recipe."""
    path = resources.path(RECIPE)
    recipe = json.loads(path.read_text())  # as it is: the reader of recipes imports torch, which takes seconds
    contract = recipe["contract"]
    cameras = tuple(Camera(**camera) for camera in contract["cameras"])
    spec = ObservationSpec(cameras, tuple(contract.get("proprioception", PROPRIOCEPTION_UNITS)))
    timing = Timing(*(contract[key] for key in ("control_hz", "history", "chunk", "settle_s")))
    _, settings = _lacking(contents, spec, timing, recipe["augment"])
    return _fit(path, [*data, *settings])


def _lacking(
    contents: Contents, spec: ObservationSpec, timing: Timing, augment: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Return what a recipe requires that a data set lacks, and the settings that resolve all of it."""
    found = mismatches(contents, spec, timing)
    settings = [setting for _, setting in found if setting]
    for key in ("shift_px", "camera_dropout") if settings else ():  # no camera may be augmented that is not there
        kept = {camera: value for camera, value in augment[key].items() if camera in contents.cameras}
        if kept != augment[key]:
            settings.append(f"augment.{key}={_compact(kept)}")
    return [text for text, _ in found], settings


def _fit(recipe: Path, settings: Sequence[str]) -> str:
    return shlex.join(["vla", "fit", str(recipe), *(word for each in settings for word in ("--set", each))])


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
