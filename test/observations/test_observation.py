# SPDX-License-Identifier: Apache-2.0
"""The observation buffer: the observation at a time, or the reason for refusing it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.observations.observation import KEPT_SAMPLES, Observation, ObservationBuffer, Refusal
from vla_ros.robot import ObservationLimits

SPEC = ObservationSpec((Camera("static", 4, 4), Camera("wrist", 4, 4)), ("ee_x", "ee_r0", "ee_r5", "gripper_opening"))
LIMITS = ObservationLimits(max_age_s=0.3, max_skew_s=0.1, frozen_s=0.5)
MS = 1_000_000


class Picture:
    def __init__(self, shade: int) -> None:
        self.shade = shade
        self.decoded = 0

    def rgb(self) -> np.ndarray:
        self.decoded += 1
        if self.shade < 0:
            raise ValueError("broken")
        return np.full((8, 8, 3), self.shade, np.uint8)

    def fingerprint(self) -> bytes:
        return bytes([self.shade % 256])


def pose(x: float) -> np.ndarray:
    return np.array([x, 0.1, 0.2, *Rotation.from_rotvec([0.3, 0.2, 0.1]).as_quat()])


def filled(time_ms: int = 1000, limits: ObservationLimits = LIMITS) -> ObservationBuffer:
    buffer = ObservationBuffer(SPEC, limits)
    buffer.push("language", 0, "pick up the block")
    for stream, value in (
        ("static", Picture(1)),
        ("wrist", Picture(2)),
        ("ee_pose", pose(0.5)),
        ("gripper_state", 0.7),
    ):
        buffer.push(stream, time_ms * MS, value)
    return buffer


def test_a_snapshot_takes_the_newest_sample_at_or_before_its_time():
    buffer = filled()
    buffer.push("static", 1040 * MS, Picture(9))
    buffer.push("ee_pose", 1050 * MS, pose(0.6))
    before, after = buffer.snapshot(1039 * MS), buffer.snapshot(1050 * MS)
    assert isinstance(before, Observation) and isinstance(after, Observation)
    assert before.images["static"][0, 0, 0] == 1 and after.images["static"][0, 0, 0] == 9
    assert before.proprioception[0] == np.float32(0.5) and after.proprioception[0] == np.float32(0.6)
    assert after.stamps_ns["static"] == 1040 * MS and after.images["static"].shape == (4, 4, 3)


def test_samples_out_of_order_are_sorted_and_a_repeated_stamp_is_ignored():
    buffer = filled()
    buffer.push("static", 1080 * MS, Picture(8))
    buffer.push("static", 1040 * MS, Picture(4))
    buffer.push("static", 1080 * MS, Picture(7))
    assert buffer.snapshot(1079 * MS).images["static"][0, 0, 0] == 4
    assert buffer.snapshot(1080 * MS).images["static"][0, 0, 0] == 8


def test_proprioception_follows_the_order_of_the_contract():
    observation = filled().snapshot(1000 * MS)
    matrix = Rotation.from_rotvec([0.3, 0.2, 0.1]).as_matrix()
    np.testing.assert_allclose(observation.proprioception, [0.5, matrix[0, 0], matrix[2, 1], 0.7], rtol=1e-6)
    assert observation.proprioception.dtype == np.float32


@pytest.mark.parametrize("stream", ["static", "wrist", "ee_pose", "gripper_state"])
def test_a_missing_and_a_stale_stream_are_named(stream):
    buffer = ObservationBuffer(SPEC, LIMITS)
    full = {"static": Picture(1), "wrist": Picture(2), "ee_pose": pose(0), "gripper_state": 0.5, "language": "go"}
    for name, value in full.items():
        if name != stream:
            buffer.push(name, 1000 * MS, value)
    missing = buffer.snapshot(1000 * MS)
    assert isinstance(missing, Refusal) and (missing.reason, missing.stream) == ("missing", stream)
    buffer.push(stream, 600 * MS, full[stream])
    stale = buffer.snapshot(1000 * MS)
    assert isinstance(stale, Refusal) and stale.stream == stream and stale.reason == "stale"
    assert "0.400 s" in stale.detail and "max_age_s = 0.3" in stale.detail


def test_cameras_too_far_apart_are_refused_naming_the_slower_one():
    buffer = filled()
    buffer.push("wrist", 1150 * MS, Picture(3))
    refusal = buffer.snapshot(1150 * MS)
    assert isinstance(refusal, Refusal) and (refusal.reason, refusal.stream) == ("skewed", "static")


def test_a_frozen_camera_is_refused_although_its_stamps_move_on():
    buffer = filled()
    for time_ms in range(1000, 1800, 100):
        for stream, value in (
            ("static", Picture(1)),
            ("wrist", Picture(time_ms % 251)),
            ("ee_pose", pose(0)),
            ("gripper_state", 0),
        ):
            buffer.push(stream, time_ms * MS, value)
        result = buffer.snapshot(time_ms * MS)
        assert isinstance(result, Refusal) == (time_ms > 1500), result
    assert result.reason == "frozen" and result.stream == "static"


def test_frozen_cameras_are_not_detected_without_a_limit():
    buffer = filled(limits=ObservationLimits(10.0, 10.0, None))
    for time_ms in range(1000, 5000, 100):
        assert isinstance(buffer.snapshot(time_ms * MS), Observation)


class Scene(Picture):
    """A scene in the light, or a lens that somebody covers, with the noise of a camera in the dark."""

    def __init__(self, covered: bool) -> None:
        super().__init__(1)
        noise = np.random.default_rng(0).normal(12, 10, (96, 96, 3))
        light = 0 if covered else np.linspace(0, 120, 96)[:, None, None]
        self._pixels = np.clip(noise + light, 0, 255).astype(np.uint8)

    def rgb(self) -> np.ndarray:
        return self._pixels


@pytest.mark.parametrize("covered", [False, True])
def test_a_covered_camera_is_refused_despite_its_noise(covered: bool):
    buffer = ObservationBuffer(
        ObservationSpec((Camera("static", 64, 64), Camera("wrist", 64, 64)), ()), ObservationLimits(1.0, 1.0, None, 2.0)
    )
    buffer.push("language", 0, "go")
    buffer.push("static", 0, Scene(covered=False))
    buffer.push("wrist", 0, Scene(covered))
    result = buffer.snapshot(0)
    assert isinstance(result, Refusal) == covered
    assert not covered or (result.reason, result.stream) == ("covered", "wrist")


def test_an_empty_and_a_missing_command_give_no_observation():
    buffer = filled()
    buffer.push("language", 900 * MS, "")
    refusal = buffer.snapshot(1000 * MS)
    assert isinstance(refusal, Refusal) and refusal.reason == "no_command"
    assert buffer.snapshot(899 * MS).reason == "missing"


def test_a_command_never_grows_stale():
    assert isinstance(filled(time_ms=10_000_000).snapshot(10_000_000 * MS), Observation)


def test_an_undecodable_image_is_a_refusal_not_a_crash():
    buffer = filled()
    buffer.push("wrist", 1010 * MS, Picture(-1))
    refusal = buffer.snapshot(1010 * MS)
    assert isinstance(refusal, Refusal) and (refusal.reason, refusal.stream) == ("undecodable", "wrist")


def test_ticks_with_undecodable_images_are_counted_with_the_reason_while_it_lasts():
    buffer = filled()
    assert isinstance(buffer.snapshot(1000 * MS), Observation) and not buffer.undecodable
    buffer.push("wrist", 1010 * MS, Picture(-1))
    for _ in range(3):
        buffer.snapshot(1010 * MS)
    assert buffer.undecodable == {"wrist": (3, "broken")}
    buffer.push("wrist", 1020 * MS, Picture(4))
    assert isinstance(buffer.snapshot(1020 * MS), Observation)
    assert buffer.undecodable == {"wrist": (3, "")}


def test_a_frame_is_decoded_once_however_often_it_is_used():
    buffer = filled()
    picture = Picture(5)
    buffer.push("static", 1001 * MS, picture)
    for time_ms in (1001, 1050, 1099):
        buffer.snapshot(time_ms * MS)
    assert picture.decoded == 1


def test_memory_is_bounded():
    buffer = filled()
    for index in range(10_000):
        buffer.push("ee_pose", 2000 * MS + index * 10_000, pose(index))
    assert len(buffer._samples["ee_pose"].stamps) == KEPT_SAMPLES
    assert buffer.value("ee_pose", 2100 * MS)[0] == 9999


def test_the_buffer_keeps_the_last_second_at_a_kilohertz():
    buffer = filled()
    for time_ms in range(2000, 5000):
        buffer.push("gripper_state", time_ms * MS, time_ms)
    assert [buffer.value("gripper_state", time_ms * MS) for time_ms in (3998, 3999, 4999)] == [None, 3999, 4999]


def test_a_slow_stream_keeps_its_sample_from_before_the_last_second():
    buffer = filled()
    buffer.push("ee_pose", 5000 * MS, pose(0.9))
    assert buffer.value("ee_pose", 4999 * MS)[0] == 0.5


def test_a_sample_from_the_future_does_not_evict_the_others():
    buffer = filled()
    for time_ms in (1010, 90_000, 1020, 1030):
        buffer.push("ee_pose", time_ms * MS, pose(time_ms))
    assert buffer.value("ee_pose", 1025 * MS)[0] == 1020


def test_of_two_commands_with_the_same_stamp_the_last_counts():
    buffer = filled()
    buffer.push("language", 900 * MS, "first")
    buffer.push("language", 900 * MS, "last")
    assert buffer.snapshot(1000 * MS).command == "last"


@pytest.mark.parametrize(
    ("stream", "value"),
    [
        ("ee_pose", np.array([0.5, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0])),
        ("ee_pose", np.array([np.nan, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0])),
        ("ee_pose", np.array([0.5, 0.1, 0.2, 0.0, np.nan, 0.0, 1.0])),
        ("gripper_state", float("nan")),
    ],
)
def test_an_invalid_state_is_a_refusal_not_a_crash(stream, value):
    buffer = filled()
    buffer.push(stream, 1010 * MS, value)
    refusal = buffer.snapshot(1010 * MS)
    assert isinstance(refusal, Refusal) and (refusal.reason, refusal.stream) == ("invalid", stream)


def test_clearing_forgets_everything():
    buffer = filled()
    buffer.clear()
    assert buffer.snapshot(1000 * MS).reason == "missing"
