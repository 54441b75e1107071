# SPDX-License-Identifier: Apache-2.0
"""The Gymnasium environment and its cameras."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("OpenGL")

from gymnasium.utils.env_checker import check_env

from vla_ros.sim.cameras import Cameras
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(height=64, width=96, render_mode="rgb_array")
    yield env
    env.close()


@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checker_of_gymnasium(env):
    check_env(env)


def test_a_seed_repeats_an_episode_bit_for_bit(env):
    def play() -> list[dict]:
        observations = [env.reset(seed=11, options={"task": "pick_up_blue"})[0]]
        expert = Expert(TASKS["pick_up_blue"])
        return observations + [env.step(expert.act(env.sim.state()))[0] for _ in range(10)]

    first = play()
    env.reset(seed=12)
    for one, other in zip(first, play(), strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_observations_show_the_scene(env):
    observation, info = env.reset(seed=0, options={"task": "pick_up_red"})
    assert info["success"] is False and info["command"] in TASKS["pick_up_red"].phrasings
    assert observation["static"].shape == observation["wrist"].shape == (64, 96, 3)
    red = observation["static"].astype(int)
    assert ((red[..., 0] > 1.8 * red[..., 1]) & (red[..., 0] > 1.8 * red[..., 2])).sum() > 4
    assert not np.array_equal(observation["static"], observation["wrist"])
    x, _, z, w = observation["ee_quaternion"]
    assert abs(x) > 0.95 and max(abs(z), abs(w)) < 0.01  # fingers down: half a turn about x, and a little yaw
    moved = env.step(np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0]))[0]
    assert moved["ee_position"][2] > observation["ee_position"][2] + 0.01
    assert env.render().shape == (64, 192, 3)


def test_options_choose_the_task_and_the_command(env):
    _, info = env.reset(seed=0, options={"task": "push_away_green", "command": "shove it"})
    assert (info["task"], info["command"]) == ("push_away_green", "shove it")
    with pytest.raises(ValueError, match=r"unknown task 'make_coffee'.*'task', one of"):
        env.reset(options={"task": "make_coffee"})
    with pytest.raises(ValueError, match="'colour'"):
        env.reset(options={"colour": "red"})


def test_a_malformed_action_is_refused(env):
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must be \(7,\)"):
        env.step(np.zeros(6))
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full(7, np.nan))


def test_rendering_in_another_thread_is_refused(env):
    """It would fail inside OpenGL or, worse, return stale images."""
    env.reset(seed=0)
    errors = []

    def capture() -> None:
        try:
            env.render()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=capture)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "in one thread" in errors[0]


def test_capturing_after_close_is_an_error(env):
    cameras = Cameras(env.sim, 32, 32)
    cameras.close()
    cameras.close()
    with pytest.raises(RuntimeError, match="after close"):
        cameras.capture()


def test_without_opengl_the_error_names_the_packages():
    """MUJOCO_GL=disable simulates a machine without OpenGL."""
    script = "from vla_ros.sim.env import TabletopEnv; TabletopEnv(render=False).reset(seed=0); TabletopEnv()"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"MUJOCO_GL": "disable"}, check=False
    )
    assert result.returncode == 1
    assert "libegl1 libegl-mesa0 libgl1-mesa-dri" in result.stderr


def test_an_unclosed_environment_exits_quietly():
    script = "from vla_ros.sim.env import TabletopEnv; env = TabletopEnv(height=32, width=32); env.reset(seed=0)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
