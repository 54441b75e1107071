# SPDX-License-Identifier: Apache-2.0
"""Show a checkpoint recorded demonstrations, and say what does not fit between robot, recordings and checkpoint.

vla replay CHECKPOINT bags/mine                       errors, gripper, latency, and mismatches by name
vla replay CHECKPOINT bags/mine --html replay.html    with plots of predicted beside demonstrated actions
vla replay CHECKPOINT bags/mine --bag looked_at       pictures, and where each chunk leads, for Foxglove and RViz
vla replay CHECKPOINT bags/mine --onto-sim            also give the recorded commands to the simulated arm

Each recorded frame goes through the same reader, image path and runner as on the robot. Then every known mismatch
(BGR, a flipped picture, exchanged cameras, an inverted gripper, another frame, Euler angles, units, rate, statistics)
is undone in turn: the one that makes the policy agree with the demonstrations is there. A low error does not prove
that the policy works (try `vla evaluate` or the robot).

Exit status: 0, or 1 when something does not fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_ros.contract import PROPRIOCEPTION_UNITS, ObservationSpec, PolicyContract
from vla_ros.datasets.bags.finding import find_bags
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Source, load_source
from vla_ros.evaluation.replay.diagnosis import diagnose
from vla_ros.evaluation.replay.metadata_checks import declared_mismatches
from vla_ros.evaluation.replay.open_loop import Replayed, compare, replay, shown, shown_actions
from vla_ros.evaluation.reports import page
from vla_ros.evaluation.reports.overlay import overlay
from vla_ros.evaluation.reports.overlay_bag import write_bag
from vla_ros.evaluation.reports.overlay_rerun import write_rerun
from vla_ros.evaluation.reports.replay_page import replay_parts
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.runner import PolicyRunner
from vla_ros.robot import Robot, load_robot, match_topic
from vla_ros.train.config import ConfigError

# How far the simulated arm's way may be from the recorded one: a drawer that is elsewhere, a pose that lags.
ONTO_SIM_GAIN = (0.7, 1.3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla replay``."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("bags", nargs="+", help="bag folders, or folders of them")
    parser.add_argument("--robot", default="tabletop", help="robot file with the topics (default: %(default)s)")
    parser.add_argument(
        "--episodes",
        type=int,
        default=24,
        metavar="N",
        help="how many to look at, spread evenly (default: %(default)s)",
    )
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="where to keep decoded bags (default: .vla_store beside them)"
    )
    parser.add_argument("--device", default="cpu", help="where the policy runs (default: %(default)s)")
    parser.add_argument("--onto-sim", action="store_true", help="also give the recorded commands to the simulated arm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report with plots there")
    parser.add_argument(
        "--bag", type=Path, metavar="FOLDER", help="also write a few episodes there as bags, with what was planned"
    )
    parser.add_argument("--rerun", type=Path, metavar="FOLDER", help="the same for the Rerun viewer")


def run(args: argparse.Namespace) -> int:
    """Run ``vla replay``."""
    if args.episodes < 1:
        raise ConfigError(f"--episodes is {args.episodes}; allowed: 1 or more")
    for option, folder in (("--bag", args.bag), ("--rerun", args.rerun)):
        if folder is not None and folder.exists():
            raise ConfigError(f"{option}: {folder} exists already and is not overwritten; name another folder")
    runner = PolicyRunner(load_checkpoint(args.checkpoint), args.device)
    contract, robot = runner.contract, load_robot(args.robot)
    bags = find_bags(args.bags)
    spec = recorded_spec(contract, robot, bags)
    loaded = load_source(Source("the bags", "bags", args.bags, robot), spec, contract.timing, store=args.store)
    episodes = spread(loaded.episodes, args.episodes)
    print(loaded.summary())
    declared = [one for bag in bags for one in declared_mismatches(bag, robot, contract)]
    runner.warm_up()
    replayed = [replay(runner, episode, spec.proprioception) for episode in episodes]
    diagnosis = diagnose(runner, episodes, spec.proprioception, _progress())
    figures: dict[str, Any] = compare(replayed)
    figures |= {
        "checkpoint": str(args.checkpoint),
        "bags": list(map(str, bags)),
        "control_hz": contract.timing.control_hz,
        "declared": list(map(dataclasses.asdict, declared)),
        "diagnosis": diagnosis.to_dict(),
        "shown": shown_actions(replayed),
    }
    if args.onto_sim:
        figures["onto_sim"] = onto_sim(args, robot, spec, contract)
    _print(figures)
    if args.json:
        page.write(args.json, json.dumps(figures, indent=1) + "\n")
    if args.html:
        title = f"{args.checkpoint.name} on {', '.join(bag.name for bag in bags)}"
        page.write(args.html, page.page(title, replay_parts(figures)))
    _write_overlays(args, shown(replayed), spec, contract, robot)
    fits = not declared and not diagnosis.findings and not diagnosis.unexplained
    return 0 if fits and figures.get("onto_sim", {}).get("fits", True) else 1


def _write_overlays(
    args: argparse.Namespace,
    replayed: Sequence[Replayed],
    spec: ObservationSpec,
    contract: PolicyContract,
    robot: Robot,
) -> None:
    period_ns = contract.timing.period_ns
    for number, one in enumerate(replayed):
        command = one.episode.command
        if args.bag:
            write_bag(args.bag / f"episode_{number}", overlay(one, spec.proprioception, period_ns), command, robot)
        if args.rerun:
            file = args.rerun / f"episode_{number}.rrd"
            write_rerun(file, overlay(one, spec.proprioception, period_ns), command)


def recorded_spec(contract: PolicyContract, robot: Robot, bags: Sequence[Path]) -> ObservationSpec:
    """Return what to read: what the policy sees, and the tool's pose where every bag has it, to check frames with."""
    names = contract.observation_spec.proprioception
    pose = tuple(name for name in PROPRIOCEPTION_UNITS if name.startswith("ee_") and name not in names)
    if robot.ee_pose is None or not pose:
        return contract.observation_spec
    for bag in bags:
        with open_bag(bag) as recording:
            if match_topic(robot.ee_pose.topic, recording.topics) is None:
                return contract.observation_spec
    return ObservationSpec(contract.cameras, (*names, *pose))


def spread(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """Return ``count`` of the episodes, or all if there are fewer, spread evenly over the tasks and within each."""
    by_task = sorted(episodes, key=lambda episode: episode.task)
    chosen = np.unique(np.linspace(0, len(by_task) - 1, count).round().astype(int))
    return [by_task[index] for index in chosen]


def onto_sim(
    args: argparse.Namespace, robot: Robot, spec: ObservationSpec, contract: PolicyContract
) -> dict[str, Any]:  # fmt: skip
    """Give what was commanded to the simulated arm and return how it moved, beside how the recorded one did.

    Raises:
        UserError: the bags lack the commands, or nobody recorded where the tool was.
    """
    from vla_ros.evaluation.replay.onto_sim import drive
    from vla_ros.sim.physics import TabletopSim

    if robot.ee_pose is None or "ee_x" not in spec.proprioception:
        raise ConfigError("--onto-sim needs the tool's pose: name ee_pose in the robot's file, and record it")
    # What moved the arm: a demonstrator may have meant something else, when noise was added on purpose.
    moved = dataclasses.replace(robot, demonstrated_twist=robot.twist_command)
    # No picture is looked at, but episodes have one.
    small = ObservationSpec((dataclasses.replace(contract.cameras[0], height=8, width=8),), spec.proprioception)
    loaded = load_source(Source("the bags", "bags", args.bags, moved), small, contract.timing, store=args.store)
    episodes = spread(loaded.episodes, args.episodes)
    sim = TabletopSim()
    try:
        driven = [drive(episode, spec.proprioception, contract.timing.control_hz, sim) for episode in episodes]
    except ValueError as error:
        raise ConfigError(f"--onto-sim: {error}") from None
    figures: dict[str, Any] = {
        key: _median([getattr(one, key) for one in driven])
        for key in ("position_error_m", "rotation_error_rad", "linear_gain", "angular_gain")
    }
    low, high = ONTO_SIM_GAIN
    gains = [figures["linear_gain"], figures["angular_gain"]]
    return {**figures, "episodes": len(driven), "fits": all(gain is None or low < gain < high for gain in gains)}


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else None


def _progress() -> Any:
    if not sys.stdout.isatty():
        return lambda _: None
    return lambda text: print(f"\rtrying {text:100.100}", end="\r", flush=True)


def _print(figures: dict[str, Any]) -> None:
    console = Console()
    table = Table("axis", "mean absolute error", "of never moving")
    for axis, row in figures["axes"].items():
        table.add_row(axis, f"{row['error']:.4f} {row['unit']}", f"{row['error_of_never_moving']:.4f} {row['unit']}")
    table.add_row("gripper", f"right in {figures['gripper_accuracy']:.1%} of {figures['frames']} frames", "")
    console.print(table)
    inference = figures["inference_ms"]
    print(f"inference p50 {inference['p50']:.1f} ms, p95 {inference['p95']:.1f} ms")
    if "onto_sim" in figures:
        sim = figures["onto_sim"]
        gains = ", ".join(
            f"{part} {'hardly moved' if sim[f'{part}_gain'] is None else format(sim[f'{part}_gain'], '.2f')}"
            for part in ("linear", "angular")
        )
        print(
            f"onto the simulator: {sim['episodes']} episodes, {1e3 * sim['position_error_m']:.1f} mm and "
            f"{sim['rotation_error_rad']:.3f} rad from the recorded way; gain {gains} (1 when units and frame fit)"
        )
        if not sim["fits"]:
            print("mismatch, onto the simulator: it does not move as the recorded arm did; see units, frame and rate")
    diagnosis = figures["diagnosis"]
    for row in [*figures["declared"], *diagnosis["findings"]]:
        print(f"mismatch, {row['name']}: {row['detail']}")
    if diagnosis["unexplained"]:
        print(
            f"the policy does something else than was demonstrated (disagreement {diagnosis['cost_undone']:.2f}, where "
            "1 is as bad as standing still): another task, robot or scene, or a mismatch not known here"
        )
    if not figures["declared"] and not diagnosis["findings"] and not diagnosis["unexplained"]:
        print(f"no mismatch found (disagreement {diagnosis['cost']:.2f}: 0 perfect, 1 as bad as standing still)")
