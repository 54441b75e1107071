# SPDX-License-Identifier: Apache-2.0
"""CALVIN's simulator as an environment, on a fake with its interface."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_calvin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.datasets.calvin.reader import relative_from_twist, twists_from_relative
from vla_ros.evaluation.benchmarks import calvin
from vla_ros.evaluation.errors import EvaluationError

share = st.floats(-1, 1)


def start(control_hz: float) -> tuple[calvin.CalvinEnv, fake_calvin.Env, dict]:
    installed, _ = fake_calvin.make()
    raw = installed.environment("anywhere")
    env = calvin.CalvinEnv(installed, raw, control_hz)
    env.set_up({"led": 1})
    return env, raw, env.begin("open_drawer")


@given(st.tuples(*[share] * 6), st.tuples(st.floats(-3, 3), st.floats(-1.4, 1.4), st.floats(-3, 3)))
def test_relative_actions_survive_the_conversion_to_twists(relative, euler) -> None:
    twist = twists_from_relative(np.array([[*relative, 1.0]]), np.array([euler]))[0]
    again = relative_from_twist(twist, np.array(euler))
    if abs(euler[1] + 0.05 * relative[4]) < np.pi / 2:
        assert again == pytest.approx(relative, abs=1e-6)


@pytest.mark.parametrize("control_hz", [5.0, 10.0, 25.0])
def test_a_twist_moves_the_tool_for_one_control_period(control_hz: float) -> None:
    env, raw, before = start(control_hz)
    twist = np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.6])
    seconds = 0.2
    for _ in range(round(seconds * control_hz)):
        seen = env.step(np.append(twist, 0.0))[0]
    moved = actions.twist_between(
        before["ee_position"], before["ee_quaternion"], seen["ee_position"], seen["ee_quaternion"], seconds
    )
    assert moved == pytest.approx(twist, abs=1e-3)
    assert len(raw.given) == env.steps == 6


def test_at_25_hz_a_tick_has_one_or_two_simulator_steps() -> None:
    env, raw, _ = start(25.0)
    counts = []
    for _ in range(5):
        done = len(raw.given)
        env.step(np.zeros(7))
        counts.append(len(raw.given) - done)
    assert counts == [1, 1, 1, 1, 2]


def test_the_gripper_opens_with_plus_one_and_fast_twists_are_clipped() -> None:
    env, raw, seen = start(10.0)
    assert seen["opening"] == pytest.approx([1.0])
    env.step([9.0, 0, 0, 0, 0, 0, 1.0])
    seen = env.step([0, 0, 0, 0, 0, 0, 0.0])[0]
    assert [a[6] for a in raw.given] == [1, 1, 1, -1, -1, -1] and raw.given[0][0] == 1
    assert seen["opening"] == pytest.approx([0.0])


def test_observations_are_the_cameras_and_the_measured_pose() -> None:
    _, _, seen = start(10.0)
    assert seen["static"].shape == (200, 200, 3) and int(seen["wrist"][0, 0, 0]) == 9
    turned = Rotation.from_quat(seen["ee_quaternion"]) * Rotation.from_euler("xyz", fake_calvin.START[3:]).inv()
    assert turned.magnitude() == pytest.approx(0, abs=1e-9)


def test_the_oracle_judges_every_step_against_the_start_of_the_subtask() -> None:
    env, raw, _ = start(10.0)
    done = [env.step([0, 0, 0.6, 0, 0, 0, 1.0])[4]["success"]]  # 0.02 m a step: done within the first tick
    assert done == [True] and env.steps == len(raw.given) == 3
    env.begin("lift_red_block_table")
    assert not env.step([0, 0, 0.1, 0, 0, 0, 1.0])[4]["success"] and env.steps == 3
    env.begin("open_drawer")
    raw.given.clear()
    assert env.step([0, 0, 0.7, 0, 0, 0, 1.0])[4]["success"]


def test_chains_are_the_first_of_the_standard_thousand() -> None:
    asked = []
    installed, _ = fake_calvin.make()
    drawn = calvin.draw_chains(
        calvin.dataclasses.replace(installed, sequences=lambda n: asked.append(n) or fake_calvin.sequences(n)), 3
    )
    assert asked == [1000] and [chain.number for chain, _ in drawn] == [0, 1, 2]
    assert drawn[1] == (calvin.Chain(1, 1, tuple(fake_calvin.TEXTS)), {"led": 1, "drawer": "open"})
    assert type(drawn[1][1]["led"]) is int and type(drawn[1][0].subtasks[0]) is str


def test_without_calvin_the_error_says_where_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "calvin_agent", None)
    with pytest.raises(EvaluationError, match=r"'calvin_agent' is not installed; .*github.com/mees/calvin"):
        calvin.installed()


SCENE = """
hydra: {sweeper: {_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper}}
env: {_target_: calvin_env.envs.play_table_env.PlayTableSimEnv, robot_cfg: "${robot}"}
robot: {_target_: calvin_env.robot.robot.Robot}
cameras: [{_target_: calvin_env.camera.static_camera.StaticCamera}]
"""


def describe(folder: Path, text: str) -> Path:
    (folder / "validation" / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / "validation" / ".hydra" / "merged_config.yaml").write_text(text)
    return folder


def test_a_data_set_may_name_calvins_own_classes(tmp_path: Path) -> None:
    calvin.check_data_set(describe(tmp_path, SCENE))


@pytest.mark.parametrize(
    "planted",
    [
        "x: {_target_: os.system, command: id}",
        "x: [[{y: {_target_: subprocess.Popen}}]]",
        "x: {_target_: calvin_env.robot.robot.subprocess.Popen}",
        "x: {_target_: calvin_env.robot.robot.eval}",
        "x: {_target_: '${name}'}",
        "x: {_target_: [os.system]}",
        "x: '${oc.decode:${text}}'",
    ],
)
def test_a_data_set_that_names_other_code_is_refused(planted: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no class of CALVIN's environment and could run anything"):
        calvin.check_data_set(describe(tmp_path, SCENE + planted))


@pytest.mark.parametrize("text", ["x: [", "x: !!python/object/apply:os.system [id]", "\x00"])
def test_a_description_that_is_not_plain_yaml_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"can't be read"):
        calvin.check_data_set(describe(tmp_path, text))
