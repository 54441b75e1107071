# SPDX-License-Identifier: Apache-2.0
"""Frames that training leaves out: those of a corrected policy, long pauses and impossible actions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import read_bag

from vla_ros.cli import main
from vla_ros.datasets.bags.episodes.cutting import Interventions, idle_frames, outlier_frames
from vla_ros.datasets.errors import BagError
from vla_ros.grid import Grid
from vla_ros.robot import Idle, Outliers

if TYPE_CHECKING:
    from recordings import BagBuilder

PERIOD_NS = 10**8
POLICY_MPS, HAND_MPS = 0.3, -0.2


def said(bag: BagBuilder, time_ms: float, by_hand: bool) -> BagBuilder:
    return bag.add("intervention", "std_msgs/msg/Bool", time_ms, data=by_hand)


@pytest.fixture
def corrected(demonstration: BagBuilder) -> BagBuilder:
    """Two seconds beside a policy; a person moves the arm from 0.65 s to 1.25 s, and from 1.6 s to 1.79 s."""
    demonstration.without("demonstrated_twist")
    said(demonstration, -5, False)
    for start_ms, stop_ms in ((650, 1250), (1600, 1790)):
        said(demonstration, start_ms, True)
        said(demonstration, stop_ms, False)
    for time_ms in range(0, 2000, 50):
        by_hand = 650 <= time_ms < 1250 or 1600 <= time_ms < 1790
        demonstration.twist(time_ms, HAND_MPS if by_hand else POLICY_MPS, topic="twist_command")
        if by_hand:
            demonstration.twist(time_ms, HAND_MPS)
    return demonstration


def test_only_a_person_s_frames_are_kept_and_none_mixes_both(corrected, robot, spec, timing, tmp_path) -> None:
    (first,), report = read_bag(corrected.write(tmp_path / "bag"), robot, spec, timing)
    start = first.ticks - first.start_ns // PERIOD_NS
    assert first.start_ns % (10 * PERIOD_NS) == 7 * PERIOD_NS and len(first) == 5 and start[-1] == 4
    assert first.actions[:, 0] == pytest.approx([HAND_MPS] * 5)
    assert dict(report.dropped) == {"moved by the policy": 14, "piece shorter than 2 frames": 1}


def test_the_policy_s_frames_are_imitated_on_request(corrected, robot, spec, timing, tmp_path) -> None:
    (whole,), _ = read_bag(corrected.write(tmp_path / "bag"), robot, spec, timing, policy_frames="imitate")
    assert len(whole) == 20
    assert whole.actions[[0, 5, 13, 19], 0] == pytest.approx([POLICY_MPS] * 4)
    assert whole.actions[7:12, 0] == pytest.approx([HAND_MPS] * 5)


@pytest.mark.parametrize("policy_frames", ["drop", "imitate"])
def test_a_demonstration_without_a_policy_is_unaffected(
    demonstration, robot, spec, timing, tmp_path, policy_frames
) -> None:
    demonstration.twist(0, POLICY_MPS, topic="twist_command")
    (episode,), _ = read_bag(demonstration.write(tmp_path / "bag"), robot, spec, timing, policy_frames=policy_frames)
    assert len(episode) == 20 and episode.actions[:, 0] == pytest.approx([0.1] * 20)


def test_a_run_of_the_policy_alone_is_rejected_with_the_reason(demonstration, robot, spec, timing, tmp_path) -> None:
    bag = said(demonstration, -5, False).write(tmp_path / "bag")
    with pytest.raises(BagError, match=r"moved by the policy: 20 frames.*data\.policy_frames: imitate"):
        read_bag(bag, robot, spec, timing)


def test_the_intervention_topic_separates_twists_on_a_shared_topic(corrected, robot, spec, timing, tmp_path) -> None:
    shared = dataclasses.replace(robot, demonstrated_twist=robot.twist_command)
    (episode,), _ = read_bag(corrected.write(tmp_path / "bag"), shared, spec, timing)
    assert episode.actions[:, 0] == pytest.approx([HAND_MPS] * 5)


def test_inspect_shows_the_share_done_by_hand(
    corrected, demonstration, bag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrected.write(tmp_path / "bags" / "corrected")
    assert main(["inspect", str(tmp_path / "bags"), "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["episodes"][0]["by_hand"] == pytest.approx(6 / 20)
    assert {"why": "moved by the policy", "count": 14} in report["dropped"]
    assert "30%" in capsys.readouterr().out


def test_inspect_shows_no_share_without_a_policy(demonstration, tmp_path: Path) -> None:
    demonstration.write(tmp_path / "bag")
    assert main(["inspect", str(tmp_path / "bag"), "--json", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["episodes"][0]["by_hand"] is None


@given(st.lists(st.tuples(st.integers(0, 4000), st.booleans()), max_size=12, unique_by=lambda change: change[0]))
def test_a_frame_is_a_person_s_only_if_they_held_the_arm_for_all_of_it(changes) -> None:
    changes.sort()
    times, by_hand = [time for time, _ in changes], [hand for _, hand in changes]
    tested = Interventions(np.array(times, np.int64), np.array(by_hand, bool))
    expected = []
    for tick in range(5):
        holders = [False] * (not times or times[0] > 1000 * tick)
        for index, (time, hand) in enumerate(changes):
            until = times[index + 1] if index + 1 < len(times) else 10**9
            if time < 1000 * (tick + 1) and until > 1000 * tick:
                holders.append(hand)
        expected.append(all(holders))
    assert tested.frames(np.arange(5), Grid(1_000_000)).tolist() == expected


IDLE = Idle(linear_mps=0.001, angular_radps=0.01, longer_than_s=0.25)


def actions(speeds: str, gripper: str = "") -> np.ndarray:
    """One frame a letter: "m" moves, "t" turns, "." pauses; gripper "0" or "1", as before by default."""
    result = np.zeros((len(speeds), 7))
    result[:, 1] = [0.1 if letter == "m" else 0.0005 for letter in speeds]
    result[:, 4] = [0.2 if letter == "t" else 0.0 for letter in speeds]
    result[:, 6] = [float(letter) for letter in gripper] if gripper else 1.0
    return result


def found(speeds: str, gripper: str = "", ticks: list[int] | None = None) -> str:
    mask = idle_frames(actions(speeds, gripper), np.array(ticks or range(len(speeds))), Grid(10), IDLE)
    return "".join("x" if drop else "." for drop in mask)


@pytest.mark.parametrize(
    ("speeds", "gripper", "expected"),
    [
        ("mm..mm", "", "......"),  # two frames are 0.2 s
        ("mm...mm", "", "..xxx.."),
        ("...mtm....", "", "xxx...xxxx"),
        ("m..t..m", "", "......."),  # it turns
        ("m......m", "11100000", "....xxx."),  # the gripper closes at the third frame of the pause
        ("", "", ""),
        ("...", "", "xxx"),
    ],
)
def test_pauses_longer_than_allowed_are_found(speeds: str, gripper: str, expected: str) -> None:
    assert found(speeds, gripper) == expected


def test_a_gap_ends_a_pause() -> None:
    assert found("....", ticks=[0, 1, 5, 6]) == "...."
    assert found("....", ticks=[0, 1, 2, 9]) == "xxx."


@settings(deadline=None)
@given(st.text("m.", max_size=30), st.integers(1, 6))
def test_every_pause_found_is_long_and_every_long_pause_is_found(speeds: str, frames: int) -> None:
    idle = Idle(0.001, 0.01, (frames - 0.5) * 0.1)
    mask = idle_frames(actions(speeds), np.arange(len(speeds)), Grid(10), idle)
    expected = "".join(run if "m" in run or len(run) < frames else "x" * len(run) for run in _runs(speeds))
    assert "".join("x" if drop else letter for drop, letter in zip(mask, speeds, strict=True)) == expected


def _runs(text: str) -> list[str]:
    runs: list[str] = []
    for letter in text:
        if runs and runs[-1][0] == letter:
            runs[-1] += letter
        else:
            runs.append(letter)
    return runs


def test_actions_faster_than_allowed_are_found_by_norm() -> None:
    rows = np.zeros((4, 7))
    rows[1, :3], rows[2, :3], rows[3, 3:6] = 0.2, 0.4, 1.0  # norms 0.35, 0.69 m/s; 1.73 rad/s
    assert outlier_frames(rows, Outliers(0.5, 1.7)).tolist() == [False, False, True, True]
