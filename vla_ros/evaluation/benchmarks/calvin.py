# SPDX-License-Identifier: Apache-2.0
"""CALVIN's simulator as an environment for chains, with its own sequences, commands and task oracle.

Users install `calvin_env` and `calvin_agent` themselves (github.com/mees/calvin). Everything that decides a result is
CALVIN's: the chains, their initial scenes, the command (a subtask's first validation text) and the oracle, which checks
for success after each of at most 360 steps at 30 Hz.

A policy acts at its contract's rate, up to 30 Hz. Its twist holds for the simulator steps of one period (3 at 10 Hz, 1
or 2 at 25 Hz), each converted to CALVIN's relative action at the tool's current angles.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from vla_ros.datasets.calvin.reader import CAMERAS, OPEN_WIDTH_M, RATE_HZ, relative_from_twist
from vla_ros.errors import first_line
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.chains import Attempt, Chain
from vla_ros.grid import Grid
from vla_ros.runtime.planning.planner import ChunkPolicy
from vla_ros.runtime.rollout import EpisodeConfig, run_episode

HIGHEST_HZ = float(RATE_HZ)
CHAINS = 1000
_ORACLE = Path("callbacks/rollout/tasks/new_playtable_tasks.yaml")
_TEXTS = Path("annotations/new_playtable_validation.yaml")


# package.module.Class; one more level could be what a module has imported, such as subprocess.
_OWN_CLASS = re.compile(r"calvin_env\.(envs|camera|robot|scene|io_utils)\.[a-z_]+\.[A-Z]\w*")
_RESOLVERS = re.compile(r"\$\{oc\.(?:decode|create)\b")  # would make a configuration of a text


@dataclasses.dataclass(frozen=True)
class Installed:
    """The parts of CALVIN in use."""

    # Count -> pairs of a scene's initial condition and its subtasks.
    sequences: Callable[[int], Sequence[tuple[Mapping[str, Any], Sequence[str]]]]
    # Initial condition -> robot and scene states.
    scene_of: Callable[[Mapping[str, Any]], tuple[NDArray[np.float64], NDArray[np.float64]]]
    oracle: Any  # get_task_info_for_set(info before, info now, subtasks) returns those that are done
    texts: Mapping[str, Sequence[str]]  # subtask -> its validation texts
    environment: Callable[[Path], Any]  # folder of a split -> PlayTableSimEnv


def installed() -> Installed:
    """Import CALVIN, which must be installed from a checkout."""
    try:
        import calvin_agent
        from calvin_agent.evaluation.multistep_sequences import get_sequences
        from calvin_agent.evaluation.utils import get_env_state_for_initial_condition
        from calvin_env.envs.play_table_env import get_env
        from calvin_env.envs.tasks import Tasks
        from omegaconf import OmegaConf
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"--env calvin needs CALVIN, but {error.name!r} is not installed; CALVIN is not on PyPI: clone "
            "github.com/mees/calvin with its submodules and run its install.sh in this environment"
        ) from None
    conf = Path(str(calvin_agent.__file__)).resolve().parents[1] / "conf"
    for file in (conf / _ORACLE, conf / _TEXTS):
        if not file.is_file():
            raise EvaluationError(f"{file} is missing: install calvin_agent from its checkout (pip install -e)")
    return Installed(
        sequences=lambda count: get_sequences(count),
        scene_of=get_env_state_for_initial_condition,
        oracle=Tasks(OmegaConf.load(conf / _ORACLE).tasks),
        texts=OmegaConf.load(conf / _TEXTS),
        environment=lambda split: get_env(split, show_gui=False),
    )


def check_data_set(folder: Path) -> None:
    """Raise EvaluationError unless `folder` is a CALVIN data set, whose validation split describes the scene.

    CALVIN makes the scene of whatever classes that description names, so it may name CALVIN's own only.
    """
    file = folder / "validation" / ".hydra" / "merged_config.yaml"
    if not file.is_file():
        raise EvaluationError(
            f"--dataset must be a CALVIN data set such as task_D_D or the debug data set; {folder} has no "
            "validation/.hydra/merged_config.yaml"
        )
    try:
        text = file.read_text(encoding="utf-8")
        targets = list(_targets(yaml.safe_load(text)))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise EvaluationError(f"{file} can't be read ({first_line(error)}); copy the data set again") from None
    foreign = [target for target in targets if not (isinstance(target, str) and _OWN_CLASS.fullmatch(target))]
    foreign += _RESOLVERS.findall(text)
    if foreign:
        raise EvaluationError(
            f"{file} names {foreign[0]!r}, which is no class of CALVIN's environment and could run anything; copy the "
            "data set again, from its authors"
        )


def _targets(values: Any) -> Iterator[Any]:
    """Yield what hydra would call for a configuration, except for its own section."""
    if isinstance(values, dict):
        yield from (value for key, value in values.items() if key == "_target_")
        values = [value for key, value in values.items() if key != "hydra"]
    for value in values if isinstance(values, list) else ():
        yield from _targets(value)


def draw_chains(calvin: Installed, count: int) -> list[tuple[Chain, dict[str, Any]]]:
    """Return the first `count` of the standard 1000 chains, each with its scene's initial condition."""
    drawn = calvin.sequences(max(count, CHAINS))[:count]  # CALVIN draws others if asked for fewer than 1000
    chains = []
    for number, (condition, subtasks) in enumerate(drawn):
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in condition.items()}
        chains.append((Chain(number, number, tuple(map(str, subtasks))), plain))
    return chains


class CalvinEnv:
    """CALVIN's simulator as a `runtime.rollout.Environment` at up to 30 Hz; belongs to the thread that creates it."""

    def __init__(self, calvin: Installed, env: Any, control_hz: float) -> None:
        self.control_hz = control_hz
        self.steps = self._ticks = 0  # simulator steps and control ticks since `begin`
        self._steps_per_tick = RATE_HZ / Grid(control_hz).rate_hz
        self._calvin, self._env = calvin, env
        self._task, self._before = "", None
        self._angles = np.zeros(3)

    def set_up(self, condition: Mapping[str, Any]) -> None:
        """Reset to a chain's initial condition."""
        robot, scene = self._calvin.scene_of(condition)
        self._env.reset(robot_obs=robot, scene_obs=scene)

    def begin(self, task: str) -> dict[str, NDArray[Any]]:
        """Start a subtask in the scene as it is, and return the observation."""
        self._task, self._ticks, self.steps = task, 0, 0
        self._before = self._env.get_info()
        return self._observation(self._env.get_obs())

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Execute (7,): twist [m/s, rad/s] in the base frame and opening, for one control period or until success."""
        action = np.asarray(action, dtype=np.float64)
        self._ticks += 1
        until = int(self._ticks * self._steps_per_tick)
        success = False
        raw: Any = None
        while self.steps < until and not success:
            relative = relative_from_twist(action[:6], self._angles)
            gripper = 1.0 if action[6] > 0.5 else -1.0
            raw, _, _, info = self._env.step(np.append(relative, gripper))
            self._angles = np.asarray(raw["robot_obs"][3:6], dtype=np.float64)
            self.steps += 1
            success = bool(self._calvin.oracle.get_task_info_for_set(self._before, info, {self._task}))
        return self._observation(raw), float(success), success, False, {"success": success}

    def _observation(self, raw: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        state = np.asarray(raw["robot_obs"], dtype=np.float64)
        self._angles = state[3:6]
        return {
            **{camera: np.asarray(raw["rgb_obs"][name]) for camera, name in CAMERAS.items()},
            "ee_position": state[:3],
            "ee_quaternion": Rotation.from_euler("xyz", state[3:6]).as_quat(),
            "opening": np.array([np.clip(state[6] / OPEN_WIDTH_M, 0, 1)]),
        }


def max_ticks(steps: int, control_hz: float) -> int:
    """Return how many control ticks fit into `steps` simulator steps."""
    return int(steps * Grid(control_hz).rate_hz / RATE_HZ)


def attempt(env: CalvinEnv, policy: ChunkPolicy, task: str, config: EpisodeConfig) -> Attempt:
    """Have `policy` attempt `task` in the scene as it is; its steps are those of the simulator."""
    result = run_episode(env, policy, env.begin(task), config)
    return Attempt(result.success, env.steps)
