# SPDX-License-Identifier: Apache-2.0
"""Scenes: their vector form; random ones are feasible, repeatable and need both cameras."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from vla_ros.sim.physics import TabletopSim
from vla_ros.sim.scene import randomize
from vla_ros.sim.state import COLORS, STATE_SIZE, SceneState
from vla_ros.sim.tasks import TASKS

SEEDS = range(12)


@pytest.fixture(scope="module")
def sim() -> TabletopSim:
    return TabletopSim()


def scene(sim: TabletopSim, name: str, seed: int) -> SceneState:
    randomize(sim, TASKS[name], np.random.default_rng(seed))
    return sim.state()


def project(sim: TabletopSim, camera: str, points: np.ndarray) -> np.ndarray:
    """Project `points` (N, 3) in base_link [m] into a square image of `camera`.

    Returns:
        (N, 2) right and down, in [0, 1] inside the image; NaN for points behind the camera.
    """
    index = sim.model.camera(camera).id
    rotation = sim.data.cam_xmat[index].reshape(3, 3)
    local = (np.atleast_2d(points) - sim.data.cam_xpos[index]) @ rotation  # x right, y up, -z forward
    depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
    scale = 0.5 / np.tan(np.deg2rad(sim.model.cam_fovy[index]) / 2)
    return np.stack([0.5 + scale * local[:, 0] / depth, 0.5 - scale * local[:, 1] / depth], axis=1)


def test_a_state_survives_the_round_trip_through_its_vector(sim):
    state = scene(sim, "put_in_box_blue", 3)
    vector = state.to_vector()
    assert vector.shape == (STATE_SIZE,) and vector.dtype == np.float64
    again = SceneState.from_vector(vector)
    np.testing.assert_array_equal(again.to_vector(), vector)
    np.testing.assert_array_equal(again.block_positions["green"], state.block_positions["green"])
    np.testing.assert_array_equal(again.tcp_rotation, state.tcp_rotation)
    assert again.drawer_m == state.drawer_m
    assert (again.lit, again.dark) == ("", False)
    lit = scene(sim, "nudge_lit", 3)
    again = SceneState.from_vector(lit.to_vector())
    assert again.lit == lit.lit in COLORS and again.dark is True


@pytest.mark.parametrize("vector", [np.zeros(STATE_SIZE - 1), np.full(STATE_SIZE, np.nan), np.full(STATE_SIZE, 7.0)])
def test_a_malformed_vector_is_refused(vector):
    with pytest.raises(ValueError, match="scene state vector"):
        SceneState.from_vector(vector)


def test_the_same_seed_gives_the_same_scene_whatever_came_before(sim):
    first = scene(sim, "pick_up_red", 7).to_vector()
    looks = sim.model.light_pos.copy(), sim.model.geom_rgba.copy(), sim.model.cam_quat.copy()
    scene(sim, "close_drawer", 8)
    np.testing.assert_array_equal(scene(sim, "pick_up_red", 7).to_vector(), first)
    for before, now in zip(looks, (sim.model.light_pos, sim.model.geom_rgba, sim.model.cam_quat), strict=True):
        np.testing.assert_array_equal(before, now)
    assert not np.array_equal(scene(sim, "pick_up_red", 9).to_vector(), first)


@pytest.mark.parametrize("name", TASKS)
def test_no_scene_is_done_at_the_start_and_blocks_keep_apart(sim, name):
    for seed in SEEDS:
        start = scene(sim, name, seed)
        assert not TASKS[name].success(start, start)
        for one, other in combinations(COLORS, 2):
            assert np.linalg.norm(start.block_positions[one] - start.block_positions[other]) > 0.09
        for position in start.block_positions.values():
            assert position[2] == pytest.approx(0.02, abs=2e-3)
            assert np.linalg.norm((position - start.box_position)[:2]) > 0.13


def test_the_cabinet_varies_and_the_knob_moves_with_the_drawer(sim):
    places = []
    for seed in range(20):
        state = scene(sim, "close_drawer", seed)
        places.append(state.knob_position[1])
        np.testing.assert_allclose(state.knob_position[0], 0.70 - state.drawer_m, atol=1e-3)
    assert min(places) < -0.04 and max(places) > 0.04


def test_both_cameras_matter(sim):
    """The static camera sees every block; the wrist camera mostly misses the one that is meant."""
    static, wrist = [], []
    for seed in range(100):
        state = scene(sim, "pick_up_red", seed)
        seen = project(sim, "static", np.array(list(state.block_positions.values())))
        static.append(np.all((seen > 0.02) & (seen < 0.98)))
        seen = project(sim, "wrist", state.block_positions["red"])
        wrist.append(np.all((seen > 0) & (seen < 1)))
    assert np.mean(static) > 0.97
    assert 0.05 < np.mean(wrist) <= 0.25


def test_the_wrist_camera_sees_the_fingertips_and_the_grasp_point(sim):
    for yaw_rad in (-0.4, 0.0, 0.4):
        sim.reset()
        sim.place_tool(np.array([0.45, 0.1, 0.15]), yaw_rad)
        state = sim.state()
        table = state.tcp_position * [1, 1, 0]
        sideways = 0.04 * state.tcp_rotation[:, 1]
        points = [state.tcp_position, state.tcp_position + sideways, state.tcp_position - sideways, table]
        seen = project(sim, "wrist", np.array(points))
        assert np.all((seen > 0) & (seen < 1))
