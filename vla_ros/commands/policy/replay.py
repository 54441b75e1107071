# SPDX-License-Identifier: Apache-2.0
"""Replay recorded demonstrations to a checkpoint, and diagnose mismatches between robot, recordings and checkpoint.

vla replay CHECKPOINT bags/mine                       errors, inference time and mismatches
vla replay CHECKPOINT bags/mine --html replay.html    with plots of predicted against demonstrated actions
vla replay CHECKPOINT bags/mine --bag replayed        images and the planned paths, for Foxglove and RViz
vla replay CHECKPOINT bags/mine --onto-sim            also execute the recorded commands on the simulated arm

Each recorded frame passes through the same reader, preprocessing and policy runner as on the robot. Each known mismatch
(BGR, flipped images, swapped cameras, an inverted gripper, another frame, Euler rates, units, control rate, statistics)
is then undone in turn: if the policy agrees much better with the demonstrations, the mismatch is real. A low error does
not prove that the policy works: try `vla evaluate` or the robot.

Exit status: 0, or 1 if there is a mismatch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_ros import files, html
from vla_ros.contract import PROPRIOCEPTION_UNITS, ObservationSpec, PolicyContract
from vla_ros.datasets.agreement.agreement import compare_recordings
from vla_ros.datasets.agreement.remedies import refuses
from vla_ros.datasets.bags.open_bag import find_bags, open_bag
from vla_ros.datasets.bags.recording import match_topic
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Source, load_source
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.replay import open_loop
from vla_ros.evaluation.replay.diagnosis import diagnose
from vla_ros.evaluation.replay.metadata_checks import MetadataMismatch, check_metadata
from vla_ros.evaluation.replay.open_loop import ReplayedEpisode
from vla_ros.evaluation.reports.overlay import overlay, write_bag, write_rerun
from vla_ros.evaluation.reports.replay_page import replay_blocks
from vla_ros.grid import Grid
from vla_ros.policy.inference import load_policy_for_inference
from vla_ros.robot import Robot, load_robot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, help="checkpoint folder")
    add("bags", nargs="+", type=files.absolute, help="bags, or folders of bags")
    add("--robot", default="tabletop", help="robot file with the topics (default: %(default)s)")
    add("--any-robot", action="store_true", help="accept a checkpoint of a robot of another name")
    add("--episodes", type=int, default=24, metavar="N", help="how many, spread evenly (default: %(default)s)")
    add("--store", type=Path, metavar="FOLDER", help="cache of decoded bags (default: .vla_store beside them)")
    add("--device", default="cpu", help="compute device (default: %(default)s)")
    add("--onto-sim", action="store_true", help="also execute the recorded commands on the simulated arm")
    add("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    add("--html", type=Path, metavar="FILE", help="also write a report with plots")
    add("--bag", type=Path, metavar="FOLDER", help="also export a few episodes as bags, with the planned actions")
    add("--rerun", type=Path, metavar="FOLDER", help="the same for the Rerun viewer")


def run(args: argparse.Namespace) -> int:
    if args.episodes < 1:
        raise EvaluationError(f"--episodes must be at least 1; got {args.episodes}")
    for option, folder in (("--bag", args.bag), ("--rerun", args.rerun)):
        if folder is not None and folder.exists():
            raise EvaluationError(f"{option}: {folder} already exists; choose another folder")
    runner = load_policy_for_inference(args.checkpoint, args.device, "fp32", "none")
    contract, robot = runner.contract, load_robot(args.robot)
    if note := contract.check_robot(robot.name, args.checkpoint, any_robot=args.any_robot, override="--any-robot"):
        print(note)
    bags = find_bags(args.bags)
    spec = recorded_spec(contract, robot, bags)
    loaded = load_source(Source("the bags", "bags", args.bags, robot), spec, contract.timing, store=args.store)
    episodes = spread(loaded.episodes, args.episodes)
    print(loaded.summary())
    metadata = [one for bag in bags for one in check_metadata(bag, robot, contract)]
    metadata += _contradictions(loaded.episodes, spec, contract)
    runner.warm_up()
    replayed = [open_loop.replay(runner, episode, spec.proprioception) for episode in episodes]
    diagnosis = diagnose(runner, episodes, spec.proprioception, _progress())
    results = open_loop.open_loop_errors(replayed) | {
        "checkpoint": str(args.checkpoint),
        "bags": list(map(str, bags)),
        "control_hz": contract.timing.control_hz,
        "declared": list(map(dataclasses.asdict, metadata)),
        "diagnosis": diagnosis.to_dict(),
        "shown": open_loop.example_actions(replayed),
    }
    if args.onto_sim:
        results["onto_sim"] = _onto_sim(args, robot, spec, contract)
    _print(results)
    if args.json:
        files.write_text(args.json, json.dumps(results, indent=1) + "\n")
    if args.html:
        title = f"{args.checkpoint.name} on {', '.join(bag.name for bag in bags)}"
        files.write_text(args.html, html.page(title, replay_blocks(results)))
    _export(args, replayed, spec.proprioception, contract.timing.grid, robot)
    matches = not metadata and not diagnosis.findings and not diagnosis.unexplained
    return 0 if matches and results.get("onto_sim", {}).get("fits", True) else 1


def _contradictions(
    episodes: Sequence[Episode], spec: ObservationSpec, contract: PolicyContract
) -> list[MetadataMismatch]:
    """Return what in the recordings contradicts itself, whatever the policy says."""
    return [
        MetadataMismatch(one.name, f"{recording or 'all recordings'}: {one.detail}")
        for recording, agreement in compare_recordings(
            episodes, spec.proprioception, contract.timing.grid.period_s
        ).items()
        for one in agreement.contradictions
        if refuses(one, "bags")
    ]


def _export(
    args: argparse.Namespace, replayed: Sequence[ReplayedEpisode], names: Sequence[str], grid: Grid, robot: Robot
) -> None:
    for number, one in enumerate(open_loop.pick_examples(replayed)):
        frames = list(overlay(one, names, grid))
        if args.bag:
            write_bag(args.bag / f"episode_{number}", frames, one.episode.command, robot)
        if args.rerun:
            write_rerun(args.rerun / f"episode_{number}.rrd", frames, one.episode.command)


def recorded_spec(contract: PolicyContract, robot: Robot, bags: Sequence[Path]) -> ObservationSpec:
    """Return what the policy sees, plus the tool's pose, to check frames, if every bag has it."""
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
    """Return at most `count` of the episodes, spread evenly over the tasks and within each."""
    by_task = sorted(episodes, key=lambda episode: episode.task)
    chosen = np.unique(np.linspace(0, len(by_task) - 1, count).round().astype(int))
    return [by_task[index] for index in chosen]


def _onto_sim(
    args: argparse.Namespace, robot: Robot, spec: ObservationSpec, contract: PolicyContract
) -> dict[str, Any]:  # fmt: skip
    from vla_ros.evaluation.replay.onto_sim import drive_all

    if robot.ee_pose is None or "ee_x" not in spec.proprioception:
        raise EvaluationError("--onto-sim needs the tool's pose: define ee_pose in the robot file, and record it")
    # The executed twists: with noise injected, a demonstrator meant others.
    executed = dataclasses.replace(robot, demonstrated_twist=robot.twist_command)
    # No image is used, but episodes need a camera.
    small = ObservationSpec((dataclasses.replace(contract.cameras[0], height=8, width=8),), spec.proprioception)
    loaded = load_source(Source("the bags", "bags", args.bags, executed), small, contract.timing, store=args.store)
    try:
        return drive_all(spread(loaded.episodes, args.episodes), spec.proprioception, contract.timing.control_hz)
    except ValueError as error:
        raise EvaluationError(f"--onto-sim: {error}") from None


def _progress() -> Callable[[str], None]:
    if not sys.stdout.isatty():
        return lambda _: None
    return lambda text: print(f"\rtrying {text:100.100}", end="\r", flush=True)


def _print(results: dict[str, Any]) -> None:
    table = Table("axis", "mean absolute error", "of never moving")
    for axis, row in results["axes"].items():
        table.add_row(axis, f"{row['error']:.4f} {row['unit']}", f"{row['error_of_never_moving']:.4f} {row['unit']}")
    table.add_row("gripper", f"right in {results['gripper_accuracy']:.1%} of {results['frames']} frames", "")
    Console().print(table)
    inference = results["inference_ms"]
    print(f"inference p50 {inference['p50']:.1f} ms, p95 {inference['p95']:.1f} ms")
    if "onto_sim" in results:
        _print_onto_sim(results["onto_sim"])
    diagnosis = results["diagnosis"]
    mismatches = [*results["declared"], *diagnosis["findings"]]
    for row in mismatches:
        print(f"mismatch, {row['name']}: {row['detail']}")
    if diagnosis["unexplained"]:
        print(
            f"the policy disagrees with the demonstrations (disagreement {diagnosis['cost_undone']:.2f}; 1 is as bad "
            "as standing still): another task, robot or scene, or an unknown mismatch"
        )
    elif not mismatches:
        print(f"no mismatch found (disagreement {diagnosis['cost']:.2f}: 0 is perfect, 1 as bad as standing still)")


def _print_onto_sim(results: dict[str, Any]) -> None:
    gains = [results["linear_gain"], results["angular_gain"]]
    linear, angular = ("hardly moved" if gain is None else f"{gain:.2f}" for gain in gains)
    print(
        f"onto the simulator: {results['episodes']} episodes, error {1e3 * results['position_error_m']:.1f} mm and "
        f"{results['rotation_error_rad']:.3f} rad; gain linear {linear}, angular {angular} (1 if units and frame match)"
    )
    if not results["fits"]:
        print("mismatch, onto the simulator: it does not move as the recorded arm did; check units, frame and rate")
