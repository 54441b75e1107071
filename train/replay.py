# SPDX-License-Identifier: Apache-2.0
"""Compare a checkpoint's actions with the demonstrated ones in bags, open loop.

vla replay CHECKPOINT BAG...

Each recorded frame goes through the same runner as on the robot; the first action of its chunk is compared with what
the demonstration did at that tick. A low error does not prove that the policy works (try `vla evaluate` or the robot),
a high one proves that something is wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vla_ros.contract import ARM_AXES, ARM_UNITS
from vla_ros.demos.bag_source import bag_parts
from vla_ros.demos.episode import Episode
from vla_ros.demos.sources import load_demonstrations
from vla_ros.observation import Observation
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.runner import PolicyRunner
from vla_ros.robot import load_robot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla replay``."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("bags", nargs="+", help="bag folders, or folders of them")
    parser.add_argument("--robot", default="tabletop", help="robot file with the topics (default: %(default)s)")
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="where to keep decoded bags (default: .vla_store beside them)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> int:
    """Run ``vla replay``."""
    runner = PolicyRunner(load_checkpoint(args.checkpoint))
    contract = runner.contract
    robot = load_robot(args.robot)
    parts = bag_parts(args.bags, robot, contract.observation_spec, contract.timing)
    loaded, report = load_demonstrations(parts, ", ".join(args.bags), args.store, workers=0)
    print(f"{report.episodes} episodes, {report.frames} frames; left out: {report.dropped_text()}")
    figures = compare(loaded.episodes, [predict(runner, episode) for episode in loaded.episodes])
    _print(figures)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def predict(runner: PolicyRunner, episode: Episode) -> NDArray[np.float64]:
    """Return the first action of each frame's chunk, (T, 7) in m/s, rad/s and opening probability."""
    runner.reset(episode.command)
    period_ns = runner.contract.timing.period_ns
    has_state = runner.contract.proprioception is not None
    chunks = []
    for index, tick in enumerate(episode.ticks.tolist()):
        observation = Observation(
            time_ns=tick * period_ns,
            images={name: frames[index] for name, frames in episode.images.items()},
            stamps_ns={},
            proprioception=episode.proprioception[index] if has_state else None,
            command=episode.command,
        )
        chunks.append(runner.step(observation)[0])
    return np.stack(chunks)


def compare(episodes: Sequence[Episode], predictions: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Return the mean absolute error per axis, beside that of never moving, and how often the gripper is right."""
    demonstrated = np.concatenate([episode.actions for episode in episodes])
    predicted = np.concatenate(predictions)
    error = np.abs(predicted[:, :6] - demonstrated[:, :6]).mean(axis=0)
    still = np.abs(demonstrated[:, :6]).mean(axis=0)
    return {
        "frames": len(demonstrated),
        "axes": {
            axis: {"unit": unit, "error": float(e), "error_of_never_moving": float(s)}
            for axis, unit, e, s in zip(ARM_AXES, ARM_UNITS, error, still, strict=True)
        },
        "gripper_accuracy": float(((predicted[:, 6] > 0.5) == (demonstrated[:, 6] > 0.5)).mean()),
    }


def _print(figures: dict[str, Any]) -> None:
    table = Table("axis", "mean absolute error", "of never moving")
    for axis, row in figures["axes"].items():
        table.add_row(axis, f"{row['error']:.4f} {row['unit']}", f"{row['error_of_never_moving']:.4f} {row['unit']}")
    table.add_row("gripper", f"right in {figures['gripper_accuracy']:.1%} of {figures['frames']} frames", "")
    Console().print(table)
