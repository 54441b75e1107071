# SPDX-License-Identifier: Apache-2.0
"""LIBERO as an environment: its protocol and conversions, on a fake."""

from __future__ import annotations

import importlib.util

import fake_libero
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.errors import EvaluationError

TASK = fake_libero.TASKS[0]


@pytest.fixture
def made(monkeypatch) -> list[fake_libero.Env]:
    return fake_libero.install(monkeypatch).made


def start(state: int = 0) -> tuple[libero.LiberoEnv, dict]:
    env = libero.LiberoEnv("libero_goal")
    seen, _ = env.reset(seed=state, options={"task": TASK, "command": "anything"})
    return env, seen


def test_an_episode_starts_at_its_initial_state_and_holds_still_for_ten_steps_with_an_open_gripper(made) -> None:
    _, seen = start(2)
    (env,) = made
    assert env.calls[:3] == [("seed", 0), ("reset", None), ("state", 2.0)]
    assert env.calls[3:] == [("step", [0, 0, 0, 0, 0, 0, -1])] * 10
    assert env.file == f"libero_goal/{TASK}.bddl"
    assert seen["opening"] == pytest.approx([1.0])


def test_images_are_upright(made) -> None:
    _, seen = start()
    assert seen["static"].shape == (libero.IMAGE_PX, libero.IMAGE_PX, 3)
    assert seen["static"][0, 0].tolist() == [255, 0, 0] and seen["wrist"][0, 0].tolist() == [127, 0, 0]
    assert not seen["static"][-1].any()


def test_a_twist_moves_the_tool_accordingly(made) -> None:
    """The fake robot completes the commanded motion within a step."""
    env, before = start()
    twist = np.array([0.2, -0.4, 0.6, 1.0, -2.0, 3.0])
    after, _, _, _, _ = env.step(np.append(twist, 0.0))
    moved = actions.twist_between(
        before["ee_position"], before["ee_quaternion"], after["ee_position"], after["ee_quaternion"], 1 / env.control_hz
    )
    assert moved == pytest.approx(twist, abs=1e-4)
    assert after["opening"] == pytest.approx([0.0])


def test_fast_twists_are_clipped_and_plus_one_closes_the_gripper() -> None:
    assert libero.env_action([9, -9, 0.5, 99, -99, 5], 0.0) == pytest.approx([1, -1, 0.5, 1, -1, 0.5, 1])
    assert libero.env_action(np.zeros(6), 1.0)[6] == -1


def test_success_is_judged_by_the_suite(made) -> None:
    env, _ = start()
    outcomes = [env.step([0, 0, -1, 0, 0, 0, 1])[4]["success"] for _ in range(3)]
    assert outcomes == [False, False, True]  # 0.95, 0.9, 0.85 m


def test_the_scene_is_built_once_per_task(made) -> None:
    env, _ = start()
    env.reset(seed=1, options={"task": TASK})
    assert len(made) == 1
    env.reset(seed=0, options={"task": fake_libero.TASKS[1]})
    assert len(made) == 2 and made[0].calls[-1] == ("close", None) and ("state", 100.0) in made[1].calls


def test_tasks_are_chosen_by_name_or_number(made) -> None:
    assert libero.select_tasks("libero_goal", ["all"]) == list(fake_libero.TASKS)
    assert libero.select_tasks("libero_goal", ["1", fake_libero.TASKS[1]]) == [fake_libero.TASKS[1]]
    with pytest.raises(EvaluationError, match=r"must be all, .* in libero_goal \(0 put_the_bowl.*; got '2'"):
        libero.select_tasks("libero_goal", ["2"])


def test_an_unknown_initial_state_is_refused(made) -> None:
    with pytest.raises(EvaluationError, match="must be 0 to 2; got 3"):
        start(3)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="LIBERO is not installed: pip install .[libero]")
def test_the_real_libero_has_upright_images_and_moves_as_commanded() -> None:
    env = libero.LiberoEnv("libero_object")
    seen, _ = env.reset(seed=0, options={"task": next(iter(libero.task_languages("libero_object")))})
    first = seen["static"].astype(float)
    before, turned = seen["ee_position"], Rotation.from_quat(seen["ee_quaternion"])
    for _ in range(8):
        seen = env.step([0.0, 0.5, 0.0, 0.0, 0.0, 2.0, 0.0])[0]
    moved = seen["ee_position"] - before
    assert moved[1] > 0.02 and abs(moved[0]) < 0.01
    assert (Rotation.from_quat(seen["ee_quaternion"]) * turned.inv()).as_rotvec()[2] > 0.1
    assert seen["opening"][0] < 0.9
    # Only the arm has moved. It stands at the far side and hangs over the objects: in the upper half of the image.
    rows = np.nonzero(np.abs(seen["static"] - first).sum(axis=-1) > 60)[0]
    assert len(rows) > 100 and np.median(rows) < 0.45 * libero.IMAGE_PX
    env.close()
