# SPDX-License-Identifier: Apache-2.0
"""What `vla evaluate` measures: one frozen configuration, with defaults for each simulated robot."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from vla_ros.contract import PolicyContract, Timing
from vla_ros.datasets.calvin.reader import CAMERAS as CALVIN_CAMERAS
from vla_ros.evaluation.benchmarks import calvin, libero
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.runtime.execution.executors import DEFAULT_EXECUTOR
from vla_ros.sim.cameras import CAMERAS

VIDEOS = "videos"  # folder below `EvaluationConfig.output`
FIRST_SEED = 50_000  # demonstrations use smaller seeds, so scenes here are new
BLANKS = {"none": (), "static": ("static",), "wrist": ("wrist",), "both": ("static", "wrist")}


@dataclasses.dataclass(frozen=True)
class SimulatedRobot:
    """A robot that `vla evaluate` simulates, for policies with a control rate in `rates_hz`."""

    title: str  # its name in messages
    cameras: tuple[str, ...]
    rates_hz: tuple[float, float]
    options: tuple[str, ...]  # those that not every robot has
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)  # that differ from `EvaluationConfig`'s


# Published results on LIBERO and CALVIN wait for the policy and apply no limits beyond the simulator's.
_AS_PUBLISHED = {"robot": "", "seed": 0, "delay_ticks": 0}
_LIBERO = {**_AS_PUBLISHED, "tasks": ("all",)}
_CALVIN = {**_AS_PUBLISHED, "tasks": ("",), "chains": calvin.CHAINS}
_LIBERO_HZ, _CALVIN_HZ = (libero.CONTROL_HZ, libero.CONTROL_HZ), (0.0, calvin.HIGHEST_HZ)
ENVIRONMENTS = {
    "tabletop": SimulatedRobot("the simulated arm", CAMERAS, (0.0, math.inf), ("chains", "phrasings", "swap_colour")),
    "libero": SimulatedRobot("LIBERO", tuple(libero.CAMERAS), _LIBERO_HZ, ("suite",), _LIBERO),
    "calvin": SimulatedRobot("CALVIN", tuple(CALVIN_CAMERAS), _CALVIN_HZ, ("chains", "dataset"), _CALVIN),
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """What rollouts run under."""

    executor: str = DEFAULT_EXECUTOR
    delay_ms: float | None = None  # to compute a chunk; None if given in ticks
    delay_ticks: int = 1  # from an observation until its chunk takes effect
    busy_ticks: int = 1  # from an observation until the next one is taken

    @property
    def name(self) -> str:
        """What affects a rollout: equal names are one measurement."""
        return f"{self.executor}, {self.delay_ticks} ticks, one in {self.busy_ticks}"


def delay_in_ticks(inference_ms: float, timing: Timing) -> tuple[int, int]:
    """Return the ticks until a chunk takes effect, and between observations, for an inference time; each at least 1.

    As in real time: an observation is complete a settle time after its tick, the arm acts on grid ticks, and one engine
    computes one chunk at a time while the world moves on. The simulation's own inference time does not count.
    """
    delays_s = (timing.settle_s + inference_ms / 1e3, inference_ms / 1e3)
    delay, busy = (max(1, math.ceil(round(seconds * timing.control_hz, 6))) for seconds in delays_s)
    return delay, busy


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The options of `vla evaluate`, which its help describes; `configure` fills in an environment's defaults."""

    checkpoint: str = ""  # empty for a running policy (`--ros`)
    env: str = "tabletop"
    suite: str | None = None
    dataset: Path | None = None
    tasks: tuple[str, ...] = ("trained",)
    rollouts: int = 10
    chains: int | None = None
    seed: int = FIRST_SEED
    phrasings: str = "held_out"  # or "train"
    blank: str = "none"
    command_override: str | None = None
    swap_colour: bool = False
    delay_ticks: int = 1
    delays: tuple[float, ...] | None = None  # [ms]
    executors: tuple[str, ...] = (DEFAULT_EXECUTOR,)
    max_time_s: float = 12.0
    robot: str = "tabletop"  # empty: no limits
    workers: int = 2
    output: Path | None = None
    videos: bool = False
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        delays = self.delays or ()
        for name, value, valid, allowed in (
            ("--rollouts", self.rollouts, self.rollouts >= 1, "at least 1"),
            ("--chains", self.chains, self.chains is None or self.chains >= 1, "at least 1"),
            ("--seed", self.seed, self.seed >= 0, "at least 0"),
            ("--delay-ticks", self.delay_ticks, self.delay_ticks >= 0, "at least 0"),
            ("--delays", list(delays), all(0 <= ms < math.inf for ms in delays), "at least 0 ms"),
            ("--max-time", self.max_time_s, 0 < self.max_time_s < math.inf, "more than 0 s"),
            ("--workers", self.workers, self.workers >= 1, "at least 1"),
        ):
            if not valid:
                raise EvaluationError(f"{name} must be {allowed}; got {value}")
        if not 0 <= self.rank < self.ranks:
            raise EvaluationError(f"--rank must be at most {self.ranks - 1}/{self.ranks}; got {self.rank}/{self.ranks}")
        if (self.videos or self.ranks > 1) and self.output is None:
            raise EvaluationError("--videos and --rank need --output FOLDER to write to")
        if len(delays) > len(set(delays)) or len(self.executors) > len(set(self.executors)):
            raise EvaluationError("--delays or --executors lists the same value twice")
        if self.videos and max(len(delays), len(self.executors)) > 1:
            raise EvaluationError("--videos needs a single executor and a single delay: each rollout has one video")

    def conditions(self, timing: Timing) -> list[Condition]:
        """Return the conditions that everything runs under."""
        delays: list[tuple[float | None, int, int]] = [(None, self.delay_ticks, max(1, self.delay_ticks - 1))]
        if self.delays:
            delays = [(ms, *delay_in_ticks(ms, timing)) for ms in self.delays]
        return [Condition(executor, *delay) for executor in self.executors for delay in delays]

    def settings(self) -> dict[str, Any]:
        """Return what affects the results as plain types, to identify an evaluation on disk."""
        irrelevant = ("workers", "output", "videos", "rank", "ranks", "max_time_s")
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in irrelevant}
        dataset = None if self.dataset is None else str(self.dataset)
        return {**values, "dataset": dataset, "max_time": self.max_time_s}


def configure(given: dict[str, Any]) -> EvaluationConfig:
    """Complete the given fields of `EvaluationConfig` with the environment's defaults, and check them."""
    env = given.get("env", "tabletop")
    robot = ENVIRONMENTS[env]
    for name in given:
        allowed = [other for other, one in ENVIRONMENTS.items() if name in one.options]
        if allowed and env not in allowed:
            raise EvaluationError(f"{option(name)} only works with --env {' or '.join(allowed)}; --env is {env}")
    defaults = dict(robot.defaults)
    if env == "libero":
        if "suite" not in given:
            raise EvaluationError(f"--env libero needs --suite, one of {', '.join(libero.SUITES)}")
        defaults["max_time_s"] = libero.SUITES[given["suite"]] / libero.CONTROL_HZ
    if env == "calvin":
        if "dataset" not in given:
            raise EvaluationError("--env calvin needs --dataset FOLDER: a CALVIN data set, such as task_D_D")
        calvin.check_data_set(given["dataset"])
    config = EvaluationConfig(**{**defaults, **given})
    single = {"tasks", "blank", "command_override", "swap_colour", "delays", "videos"} & set(given)
    if config.chains and (single or len(config.executors) > 1):
        raise EvaluationError(
            "--chains draws its own tasks and uses the first phrasing of each; it cannot be combined with --tasks, "
            "--blank, --command-override, --swap-colour, --delays, --videos or several --executors"
        )
    return config


def option(name: str) -> str:
    """Return the command-line option that sets a field."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def check_contract(contract: PolicyContract, config: EvaluationConfig) -> None:
    """Raise EvaluationError if a checkpoint cannot run on the simulated robot."""
    robot = ENVIRONMENTS[config.env]
    for name in contract.camera_names:
        if name not in robot.cameras:
            raise EvaluationError(
                f"the checkpoint expects the camera {name!r}, but {robot.title} has {', '.join(robot.cameras)}; use a "
                "checkpoint trained on its demonstrations"
            )
    rate_hz, (low_hz, high_hz) = contract.timing.control_hz, robot.rates_hz
    if not low_hz <= rate_hz <= high_hz:
        raise EvaluationError(
            f"the checkpoint runs at {rate_hz:g} Hz, but {robot.title} runs at {'' if low_hz else 'at most '}"
            f"{high_hz:g} Hz: train with contract.control_hz={high_hz:g}"
        )
    for name in BLANKS[config.blank]:
        if name not in contract.camera_names:
            raise EvaluationError(
                f"--blank {config.blank} blacks out {name!r}, but the checkpoint has only the cameras "
                f"{', '.join(contract.camera_names)}"
            )
