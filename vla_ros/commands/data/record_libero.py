# SPDX-License-Identifier: Apache-2.0
"""Record LIBERO demonstrations of a scripted expert, which turns on the stove of libero_goal, as a LeRobot data set.

vla record-libero --output datasets/stove --episodes 30
vla fit config/train/libero.json
vla evaluate runs/libero/checkpoint --env libero --suite libero_goal --tasks turn_on_the_stove --rollouts 20

Demonstration i starts from initial state FIRST_STATE + i of the task's 50. The default skips the first 20, which are
kept for evaluation. Needs: pip install 'vla_ros[libero,lerobot]'.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from vla_ros.errors import UserError


class Arguments(argparse.Namespace):
    output: Path
    episodes: int
    first_state: int
    noise: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla record-libero`."""
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder of the new data set")
    parser.add_argument("--episodes", type=int, default=30, help="number of demonstrations (default: %(default)s)")
    parser.add_argument("--first-state", type=int, default=20, help="first initial state (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="scale of the noise on executed actions, 0 to 2 (default: %(default)s)"
    )


def run(args: Arguments) -> int:
    """Record the demonstrations."""
    for option, value, low, high in (
        ("--episodes", args.episodes, 1, 10_000),
        ("--first-state", args.first_state, 0, 10_000),
        ("--noise", args.noise, 0, 2),
    ):
        if not low <= value <= high:
            raise UserError(f"{option} is {value:g}; must be in [{low}, {high}]")
    from vla_ros.datasets.lerobot.writer import LeRobotWriter
    from vla_ros.evaluation.benchmarks import libero
    from vla_ros.evaluation.benchmarks.libero_demonstrations import STATES, SUITE, TASK, demonstrate

    available = libero.initial_states(SUITE, TASK)
    if args.first_state + args.episodes > available:
        raise UserError(
            f"--first-state {args.first_state} plus --episodes {args.episodes} exceeds the {available} initial states "
            f"of {TASK}"
        )
    env = libero.LiberoEnv(SUITE)
    command = libero.task_languages(SUITE)[TASK]
    failed = 0
    with LeRobotWriter.create(args.output, Fraction(int(libero.CONTROL_HZ)), STATES, "libero") as writer:
        for state in range(args.first_state, args.first_state + args.episodes):
            episode = demonstrate(env, state, command, args.noise)
            if episode is None:
                failed += 1
            else:
                writer.add(episode)
            print(f"initial state {state}: {'failure' if episode is None else f'{len(episode)} steps'}", flush=True)
    env.close()
    print(f"{args.output}: {writer.episodes} episodes, {writer.frames} frames; left out: {failed} failures")
    return 0
