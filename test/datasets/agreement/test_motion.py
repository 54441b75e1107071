# SPDX-License-Identifier: Apache-2.0
"""Commanded against measured motion: planted faults are named, healthy recordings are not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pytest
from recorded_motions import FAULTY, HEALTHY, NAMES, Arm, faults, record
from scipy.spatial.transform import Rotation

from vla_ros.datasets.agreement.agreement import Agreement, compare, compare_recordings
from vla_ros.datasets.agreement.tracks import Track
from vla_ros.datasets.episode import Episode


@functools.cache
def recorded(name: str) -> tuple[Episode, ...]:
    return tuple(record(HEALTHY[name], seed) for seed in range(3))


def compared(episodes: Sequence[Episode], rate_hz: float) -> Agreement:
    return compare([Track.of(episode, NAMES) for episode in episodes], 1 / rate_hz)


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_named_in_a_healthy_recording(name: str) -> None:
    assert not compared(recorded(name), HEALTHY[name].rate_hz).contradictions


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("fault", faults(10.0))
def test_a_planted_fault_is_named_and_nothing_else(fault: str, name: str) -> None:
    rate_hz = HEALTHY[name].rate_hz
    wanted, plant = faults(rate_hz)[fault]
    found = compared([plant(episode) for episode in recorded(name)], rate_hz).contradictions
    assert {one.name for one in found} == {wanted}


@pytest.mark.parametrize("noise", [0.2, 0.6])
def test_labels_that_differ_from_what_was_executed_are_no_contradiction(noise: float) -> None:
    """Demonstrations with injected noise: the labels are what was meant."""
    for seed in range(5):
        episode = record(Arm(10.0), 50 + seed)
        actions = episode.actions.copy()
        actions[:, :6] += (
            noise * actions[:, :6].std(axis=0) * np.random.default_rng(seed).normal(size=(len(actions), 6))
        )
        assert not compared([dataclasses.replace(episode, actions=actions)], 10.0).contradictions


def test_episodes_without_a_pose_or_too_short_to_tell_say_nothing() -> None:
    wrong = faults(10.0)["x inverted"][1](record(Arm(10.0), 0))
    assert not compare(
        [Track.of(dataclasses.replace(wrong, proprioception=np.zeros((len(wrong), 0), np.float32)), ())], 0.1
    ).motion
    assert not compared([record(Arm(10.0, seconds=1.0), 0)], 10.0).motion["linear"].moved
    assert compare([], 0.1) == Agreement({}, None)


def test_one_wrong_recording_among_many_is_told_by_its_name() -> None:
    episodes = [dataclasses.replace(record(Arm(10.0), seed), source=f"bag{seed}#0") for seed in range(6)]
    episodes[4] = faults(10.0)["tool frame for base frame"][1](episodes[4])
    found = compare_recordings(episodes, NAMES, 0.1)
    assert list(found) == ["bag4"] and {one.name for one in found["bag4"].contradictions} == {"frame"}


def test_recordings_that_are_short_each_tell_together() -> None:
    plant = faults(10.0)["x inverted"][1]
    short = [plant(dataclasses.replace(record(Arm(10.0, seconds=1.8), s), source=f"bag{s}#0")) for s in range(12)]
    assert list(compare_recordings(short, NAMES, 0.1)) == [""]


def straight(commanded: np.ndarray, measured: np.ndarray, down: bool = False) -> Track:
    """A track at 10 Hz whose tool does not turn."""
    count = len(commanded)
    positions = np.concatenate([np.zeros((1, 3)), np.cumsum(measured[:-1], axis=0) / 10])
    angles = np.tile([np.pi if down else 0.0, 0.0, 0.0], (count, 1))
    actions = np.concatenate([commanded, np.zeros((count, 3)), np.ones((count, 1))], axis=1)
    return Track(actions, positions, Rotation.from_euler("xyz", angles), None)


TIMES_S = np.arange(200) / 10
STILL = np.zeros(200)
TO_AND_FRO = 0.05 * np.sign(np.sin(TIMES_S))


@pytest.mark.parametrize(
    ("commanded", "measured"),
    [
        ([TO_AND_FRO, STILL, STILL - 0.05], [TO_AND_FRO, STILL, STILL]),  # wipes, and presses down
        ([STILL + 0.02, STILL, STILL - 0.05], [STILL + 0.02, STILL, STILL]),
        ([np.sin(TIMES_S) / 20, STILL, STILL], [STILL, STILL, np.sin(TIMES_S) / 30]),  # blocked, and slips elsewhere
        ([np.sin(8 * TIMES_S) / 10, STILL, STILL], [np.sin(8 * TIMES_S - 0.8) / 10, STILL, STILL]),
        ([TO_AND_FRO, TO_AND_FRO, STILL], [TO_AND_FRO, TO_AND_FRO, STILL]),  # which of the two axes is which?
        ([np.sin(TIMES_S) / 10, STILL, STILL], [np.where(TIMES_S > 16, np.sin(TIMES_S) / 10, 0), STILL, STILL]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("down", [False, True])
def test_contact_and_motion_that_cannot_tell_are_no_contradiction(commanded: list, measured: list, down: bool) -> None:
    track = straight(np.stack(commanded, axis=1), np.stack(measured, axis=1), down)
    assert not compare([track], 0.1).contradictions


def test_steady_motion_in_the_opposite_direction_is_a_contradiction_and_carries_no_delay() -> None:
    commanded = np.stack([STILL + 0.05, STILL, STILL], axis=1)
    part = compare([straight(commanded, -commanded)], 0.1).motion["linear"]
    assert "x inverted" in part.contradictions[0].detail and part.contradictions[0].clear
    assert part.delay is None


def test_the_delay_has_an_error_that_covers_the_truth() -> None:
    for seed, dead_s in enumerate((0.0, 0.1, 0.2)):
        arm = Arm(30.0, dead_s=dead_s, lag_s=0.002)
        delay = compared([record(arm, seed)], 30.0).motion["linear"].delay
        assert delay is not None and abs(delay.delay_s - dead_s) < 3 * delay.error_s


def test_a_correction_that_explains_as_well_is_said_too() -> None:
    """For a tool that always points down, the tool frame and inverted axes are the same."""
    wave = np.stack([np.sin(TIMES_S), np.sin(1.3 * TIMES_S), np.sin(0.7 * TIMES_S)], axis=1) / 20
    (found,) = compare([straight(wave * [1, -1, -1], wave, down=True)], 0.1).contradictions
    assert found.name == "frame" and "or axes (y, z inverted)" in found.detail


def test_the_read_only_arrays_of_a_store_can_be_compared() -> None:
    episode = record(Arm(10.0), 0)
    for array in (episode.actions, episode.proprioception):
        array.flags.writeable = False
    assert compared([episode], 10.0).motion["linear"].moved
