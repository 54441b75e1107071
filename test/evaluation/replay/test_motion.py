# SPDX-License-Identifier: Apache-2.0
"""A tool's motion against the recorded one: it matches, or the mismatch is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from reading_policy import NAMES
from scipy.spatial.transform import Rotation

from vla_ros.evaluation.replay import motion
from vla_ros.evaluation.replay.motion import compare_motion, pose_distance
from vla_ros.observations.observation import proprioception

FRAMES = 40
HZ = 10.0
DOWN = Rotation.from_matrix([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]) * Rotation.from_euler("z", 0.7)

Twists = np.ndarray
Driver = Callable[[Twists, Rotation], Twists]


def twists() -> Twists:
    """All six axes move differently."""
    phase = np.arange(FRAMES)[:, None] / HZ * np.array([0.9, 1.1, 1.3, 1.0, 1.2, 0.8])
    return np.array([0.1, 0.08, 0.06, 0.2, 0.25, 0.3]) * np.cos(phase)


def moved(driver: Driver = lambda twist, _: twist, opening: Callable[[int], float] = lambda _: 1.0) -> np.ndarray:
    """States (FRAMES, P) of a tool that executes the twists as changed by `driver`."""
    place, turned, states = np.array([0.45, 0.1, 0.25]), DOWN, []
    for frame, twist in enumerate(twists()):
        pose = np.concatenate([place, turned.as_quat()])
        states.append(proprioception(NAMES, pose, opening(frame)))
        done = driver(twist, turned)
        place = place + done[:3] / HZ
        turned = Rotation.from_rotvec(done[3:] / HZ) * turned
    return np.stack(states).astype(np.float64)


def scaled(linear: float, angular: float) -> Driver:
    return lambda twist, _: twist * np.repeat([linear, angular], 3)


def signs(*values: float) -> Driver:
    return lambda twist, _: twist * np.array(values)


def turned_into_tool(twist: Twists, rotation: Rotation) -> Twists:
    return np.concatenate([rotation.inv().apply(twist[:3]), rotation.inv().apply(twist[3:])])


def taken_for_tool(twist: Twists, rotation: Rotation) -> Twists:
    return np.concatenate([rotation.apply(twist[:3]), rotation.apply(twist[3:])])


def test_the_recorded_motion_matches_itself_on_every_axis() -> None:
    result = compare_motion(NAMES, moved(), np.arange(FRAMES), moved())
    assert result.mismatches == ()
    assert result.position_error_m < 1e-6 and result.rotation_error_rad < 1e-6
    assert [axis.gain for axis in result.axes] == pytest.approx([1.0] * 6)


def test_a_slow_motion_that_starts_elsewhere_and_lags_slightly_matches() -> None:
    slow = np.arange(-8, 4 * FRAMES) / 4  # a quarter of the speed, from before the start to after the end
    recorded = moved()
    lagging = np.stack([np.interp(slow - 0.5, np.arange(FRAMES), column) for column in recorded.T], axis=1)
    lagging[:, :3] += np.array([0.1, -0.2, 0.05])
    result = compare_motion(NAMES, recorded, slow, lagging)
    assert result.mismatches == () and result.position_error_m < 0.01
    assert all(axis.gain == pytest.approx(1, abs=0.1) for axis in result.axes)


@pytest.mark.parametrize(
    ("driver", "name", "words"),
    [
        (scaled(0.001, 1.0), "units", "position: 1000 times too short"),
        (scaled(1000.0, 1.0), "units", "position: 1000 times too far"),
        (scaled(1.0, np.pi / 180), "units", "rotation: 57 times too short"),
        (scaled(0.5, 0.5), "control rate", "0.50 times as far"),
        (signs(1, -1, 1, 1, 1, 1), "axes", "position: y inverted"),
        (signs(1, 1, 1, 1, 1, -1), "axes", "rotation: z inverted"),
        (lambda twist, _: twist[[1, 0, 2, 3, 4, 5]], "axes", "position: x, y, z are driven by y, x, z"),
        (taken_for_tool, "frame", "base frame are taken for the tool frame's"),
        (turned_into_tool, "frame", "base frame are taken for the tool frame's"),
        (scaled(0.0, 1.0), "does not move", "position: 0.0%"),
        (lambda twist, _: twist + np.array([0.2, 0, 0, 0, 0, 0]), "other motion", "position"),
    ],
)  # fmt: skip
def test_the_mismatch_is_named(driver: Driver, name: str, words: str) -> None:
    mismatches = compare_motion(NAMES, moved(), np.arange(FRAMES), moved(driver)).mismatches
    assert {found for found, _ in mismatches} == {name}
    assert words in mismatches[0][1]


def test_an_axis_with_little_motion_is_judged_too() -> None:
    recorded = moved(signs(0.2, 1, 1, 1, 1, 1))
    driven = moved(signs(-0.2, 1, 1, 1, 1, 1))
    ((name, words),) = compare_motion(NAMES, recorded, np.arange(FRAMES), driven).mismatches
    assert (name, words) == ("axes", "position: x inverted")


def test_an_inverted_or_stuck_gripper_is_named() -> None:
    def closes(frame: int) -> float:
        return 1.0 if frame < 20 else 0.2

    def opens(frame: int) -> float:
        return 1.2 - closes(frame)

    closing = moved(opening=closes)
    frames = np.arange(FRAMES)
    assert compare_motion(NAMES, closing, frames, closing).mismatches == ()
    ((name, words),) = compare_motion(NAMES, closing, frames, moved(opening=opens)).mismatches
    assert (name, words) == ("gripper polarity", "the gripper opens when the recorded one closed")
    ((name, words),) = compare_motion(NAMES, closing, frames, moved()).mismatches
    assert name == "gripper polarity" and "does not move" in words


def test_an_axis_that_hardly_moved_is_not_judged_unless_it_moves_now() -> None:
    still = np.repeat(moved()[:1], FRAMES, axis=0)
    frames = np.arange(FRAMES)
    assert [axis.gain for axis in compare_motion(NAMES, still, frames, still).axes] == [None] * 6
    assert [name for name, _ in compare_motion(NAMES, still, frames, moved()).mismatches] == [motion.OTHER_MOTION] * 2


def test_distance_between_two_poses() -> None:
    pose = np.array([0.4, 0.0, 0.3, *DOWN.as_quat()])
    other = np.array([0.4, 0.03, 0.34, *(Rotation.from_rotvec([0, 0, 0.2]) * DOWN).as_quat()])
    one, two = (proprioception(NAMES, each, 1.0).astype(np.float64) for each in (pose, other))
    assert pose_distance(NAMES, one, two) == pytest.approx((0.05, 0.2), abs=1e-5)


def test_a_motion_without_a_pose_or_common_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="the tool's pose is missing; the states have gripper_opening"):
        compare_motion(["gripper_opening"], np.zeros((3, 1)), np.arange(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="nothing was measured"):
        compare_motion(NAMES, moved(), np.array([-3.0, -2.0]), moved()[:2])
