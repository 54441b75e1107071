# SPDX-License-Identifier: Apache-2.0
"""CALVIN's simulator as an environment for chains, by its own protocol: its sequences, commands and task oracle.

`calvin_env` and `calvin_agent` are the user's install (github.com/mees/calvin). Everything that decides about a result
is theirs: which chains there are, the scene each starts from, the first validation text of a subtask, and whether it is
done, which is asked after each of the at most 360 steps at 30 Hz.

A policy acts at the rate of its contract, up to 30 Hz; its twist holds for the simulator's steps of that time, 3 at
10 Hz, 1 or 2 at 25 Hz. Each becomes CALVIN's relative action at the angles that the tool has then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from vla_ros.datasets.calvin.reader import CAMERAS, OPEN_WIDTH_M, RATE_HZ, relative_from_twist
from vla_ros.errors import UserError
from vla_ros.evaluation.protocols.chains import Attempt, Chain
from vla_ros.runtime.execution.executors import Executor
from vla_ros.runtime.planning.planner import ChunkPolicy
from vla_ros.runtime.rollout import pursue
from vla_ros.runtime.safety.governor import SafetyGovernor

HIGHEST_HZ = float(RATE_HZ)
CHAINS = 1000
_ORACLE = Path("callbacks/rollout/tasks/new_playtable_tasks.yaml")
_TEXTS = Path("annotations/new_playtable_validation.yaml")


class CalvinError(UserError):
    """CALVIN is not installed, or its data set is not where it was said to be."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """What is used of an install of CALVIN.

    sequences: (how many) -> pairs of a scene's condition and its subtasks; scene_of: condition -> robot and scene state
    oracle: has get_task_info_for_set(info before, info now, subtasks) -> those that are done
    texts: subtask -> its validation texts; environment: (folder of a split) -> PlayTableSimEnv
    """

    sequences: Callable[[int], Sequence[tuple[Mapping[str, Any], Sequence[str]]]]
    scene_of: Callable[[Mapping[str, Any]], tuple[NDArray[np.float64], NDArray[np.float64]]]
    oracle: Any
    texts: Mapping[str, Sequence[str]]
    environment: Callable[[Path], Any]


def installed() -> Installed:
    """Return what is used of CALVIN.

    Raises:
        CalvinError: it is not installed here.
    """
    try:
        import calvin_agent
        from calvin_agent.evaluation.multistep_sequences import get_sequences
        from calvin_agent.evaluation.utils import get_env_state_for_initial_condition
        from calvin_env.envs.play_table_env import get_env
        from calvin_env.envs.tasks import Tasks
        from omegaconf import OmegaConf
    except ModuleNotFoundError as error:
        raise CalvinError(
            f"--env calvin needs CALVIN, which is not on PyPI, and {error.name!r} is not installed here: get "
            "github.com/mees/calvin with its submodules, run its install.sh in this environment, and try again"
        ) from None
    conf = Path(str(calvin_agent.__file__)).resolve().parents[1] / "conf"
    for file in (conf / _ORACLE, conf / _TEXTS):
        if not file.is_file():
            raise CalvinError(f"{file} is missing: install calvin_agent from its checkout (pip install -e)")
    return Installed(
        sequences=lambda count: get_sequences(count),
        scene_of=get_env_state_for_initial_condition,
        oracle=Tasks(OmegaConf.load(conf / _ORACLE).tasks),
        texts=OmegaConf.load(conf / _TEXTS),
        environment=lambda split: get_env(split, show_gui=False),
    )


def check_data_set(folder: Path) -> None:
    """Raise CalvinError unless `folder` is a data set of CALVIN: its validation split says how the scene is built."""
    if not (folder / "validation" / ".hydra" / "merged_config.yaml").is_file():
        raise CalvinError(
            f"--dataset is {folder}: there is no validation/.hydra/merged_config.yaml; give a data set of CALVIN such "
            "as task_D_D, or its debug data set"
        )


def draw_chains(calvin: Installed, count: int) -> list[tuple[Chain, dict[str, Any]]]:
    """Return CALVIN's chains 0 to `count` - 1, each with the condition of its scene: the first of the 1000 that all
    papers run. CALVIN draws others when it is asked for less."""
    drawn = calvin.sequences(max(count, CHAINS))[:count]
    return [
        (Chain(number, number, tuple(map(str, subtasks))), {key: _plain(value) for key, value in condition.items()})
        for number, (condition, subtasks) in enumerate(drawn)
    ]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class CalvinEnv:
    """CALVIN's simulator; see `runtime.rollout.Environment`. It belongs to the thread that makes it.

    Args:
        env: CALVIN's own. control_hz: of the policy, at most 30.
    """

    def __init__(self, calvin: Installed, env: Any, control_hz: float) -> None:
        self.control_hz = control_hz
        self.steps = 0  # of the simulator since `begin`
        self._calvin, self._env = calvin, env
        self._ticks = 0
        self._task = ""
        self._before: Any = None
        self._angles = np.zeros(3)

    def set_up(self, condition: Mapping[str, Any]) -> None:
        """Bring about the scene of a chain."""
        robot, scene = self._calvin.scene_of(condition)
        self._env.reset(robot_obs=robot, scene_obs=scene)

    def begin(self, task: str) -> dict[str, NDArray[Any]]:
        """Go on in the scene as it is with a subtask, whose success counts from now on; returns the observation."""
        self._task, self._ticks, self.steps = task, 0, 0
        seen = self._observation(self._env.get_obs())
        self._before = self._env.get_info()
        return seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Go to the scene of `options["condition"]` and begin `options["task"]`; nothing is random."""
        options = options or {}
        self.set_up(options["condition"])
        return self.begin(options["task"]), {"success": False}

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Execute (7,): twist [m/s, rad/s] in the base frame and opening, for one control period or until success."""
        action = np.asarray(action, dtype=np.float64)
        self._ticks += 1
        until = int(np.floor(self._ticks * HIGHEST_HZ / self.control_hz + 1e-6))
        success = False
        raw: Any = None
        while self.steps < until and not success:
            relative = relative_from_twist(action[:6], self._angles)
            gripper = 1.0 if action[6] > 0.5 else -1.0
            raw, _, _, info = self._env.step(np.append(relative, gripper))
            self._angles = np.asarray(raw["robot_obs"][3:6], dtype=np.float64)
            self.steps += 1
            success = bool(self._calvin.oracle.get_task_info_for_set(self._before, info, {self._task}))
        seen = self._observation(raw)
        return seen, float(success), success, False, {"success": success}

    def _observation(self, raw: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        state = np.asarray(raw["robot_obs"], dtype=np.float64)
        self._angles = state[3:6]
        return {
            **{camera: np.asarray(raw["rgb_obs"][name]) for camera, name in CAMERAS.items()},
            "ee_position": state[:3],
            "ee_quaternion": Rotation.from_euler("xyz", state[3:6]).as_quat(),
            "opening": np.array([np.clip(state[6] / OPEN_WIDTH_M, 0, 1)]),
        }


def attempt(
    env: CalvinEnv,
    policy: ChunkPolicy,
    task: str,
    steps: int,
    *,
    command: str,
    delay_ticks: int,
    governor: SafetyGovernor | None = None,
    executor: Executor | None = None,
) -> Attempt:
    """Have `policy`, told `command`, try `task` in the scene as it is, for at most `steps` steps of the simulator."""
    result = pursue(
        env,
        policy,
        env.begin(task),
        command=command,
        max_ticks=int(steps * env.control_hz / HIGHEST_HZ + 1e-6),
        delay_ticks=delay_ticks,
        governor=governor,
        executor=executor,
    )
    return Attempt(result.success, env.steps)
