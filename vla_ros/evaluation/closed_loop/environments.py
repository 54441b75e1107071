# SPDX-License-Identifier: Apache-2.0
"""The simulated robots of `vla evaluate`: what each takes of a checkpoint, and what holds if nothing is said."""

from __future__ import annotations

import argparse
import dataclasses
import math

from vla_ros.contract import PolicyContract
from vla_ros.evaluation.benchmarks import calvin, libero
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.sim.cameras import CAMERAS

FIRST_SEED = 50_000  # demonstrations are recorded with smaller seeds: scenes here are new
TABLETOP_TIME_S = 12.0


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A simulated robot.

    words: what it is called; cameras: that it has
    rates_hz: the lowest and the highest of a policy
    robot: file with the limits that hold; empty: those of the simulator alone, as published results have it
    first_seed: of the first scene
    delay_ticks: until a chunk arrives; 0: the world waits for the policy, as published results have it
    only_for: options that mean something here, and not for every robot
    """

    words: str
    cameras: tuple[str, ...]
    rates_hz: tuple[float, float]
    robot: str
    first_seed: int
    delay_ticks: int
    tasks: str
    only_for: tuple[str, ...]


ENVIRONMENTS = {
    "tabletop": Simulated(
        "the simulated arm", tuple(CAMERAS), (0.0, math.inf), "tabletop", FIRST_SEED, 1, "trained",
        ("--chains", "--phrasings", "--swap-colour"),
    ),
    "libero": Simulated(
        "LIBERO", tuple(libero.CAMERAS), (libero.CONTROL_HZ,) * 2, "", 0, 0, "all", ("--suite",),
    ),
    "calvin": Simulated(
        "CALVIN", tuple(calvin.CAMERAS), (0.0, calvin.HIGHEST_HZ), "", 0, 0, "", ("--chains", "--dataset"),
    ),
}  # fmt: skip


def settle(args: argparse.Namespace) -> None:
    """Fill in what was not said, in place.

    Raises:
        EvaluationError: an option was given that means nothing for this robot, or one is missing that it needs.
    """
    simulated = ENVIRONMENTS[args.env]
    given = {"--chains": args.chains, "--phrasings": args.phrasings, "--swap-colour": args.swap_colour or None,
             "--suite": args.suite, "--dataset": args.dataset}  # fmt: skip
    for option, value in given.items():
        if value is not None and option not in simulated.only_for:
            allowed = [name for name, one in ENVIRONMENTS.items() if option in one.only_for]
            raise EvaluationError(f"{option} goes with --env {' or '.join(allowed)} only; --env is {args.env}")
    if args.env == "libero" and args.suite is None:
        raise EvaluationError(f"--env libero needs --suite; allowed: {', '.join(libero.SUITES)}")
    if args.env == "calvin":
        if args.dataset is None:
            raise EvaluationError("--env calvin needs --dataset FOLDER: a data set of CALVIN, such as task_D_D")
        calvin.check_data_set(args.dataset)
        args.chains = calvin.CHAINS if args.chains is None else args.chains
    args.phrasings = args.phrasings or "held_out"
    args.tasks = args.tasks or [simulated.tasks]
    args.robot = simulated.robot if args.robot is None else args.robot
    args.seed = simulated.first_seed if args.seed is None else args.seed
    args.delay_ticks = simulated.delay_ticks if args.delay_ticks is None else args.delay_ticks
    if args.max_time is None:
        args.max_time = TABLETOP_TIME_S if args.suite is None else libero.SUITES[args.suite] / libero.CONTROL_HZ


def check_contract(contract: PolicyContract, env: str) -> None:
    """Raise EvaluationError where a checkpoint can't run on a simulated robot."""
    simulated = ENVIRONMENTS[env]
    for name in contract.camera_names:
        if name not in simulated.cameras:
            raise EvaluationError(
                f"the checkpoint sees the camera {name!r}; {simulated.words} has {', '.join(simulated.cameras)}: "
                "give a checkpoint that was trained on its demonstrations"
            )
    rate_hz = contract.timing.control_hz
    lowest, highest = simulated.rates_hz
    if not lowest <= rate_hz <= highest:
        up_to = "" if lowest == highest else "up to "
        raise EvaluationError(
            f"the checkpoint acts at {rate_hz:g} Hz; {simulated.words} at {up_to}{highest:g} Hz: train with "
            f"contract.control_hz={highest if lowest else 25:g}"
        )
