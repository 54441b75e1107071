# SPDX-License-Identifier: Apache-2.0
"""`vla inspect` says what training will make of a bag before anybody trains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from vla_ros import resources
from vla_ros.cli import main
from vla_ros.datasets.inspection.inspection import SETTLE_S
from vla_ros.imaging import images

if TYPE_CHECKING:
    from recordings import BagBuilder


def test_the_report_lists_topics_episodes_and_what_is_left_out(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstration.mark(2010, "start", 1).mark(2049, "discard", 1)
    bag = demonstration.write(tmp_path / "bag")
    assert main(["inspect", str(bag), "--json", str(tmp_path / "out" / "report.json")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    topic = report["topics"]["/camera/static/image_raw/compressed"]
    assert (topic["type"], topic["messages"]) == ("sensor_msgs/msg/CompressedImage", 42)
    assert topic["rate_hz"] == pytest.approx(20)
    assert report["frames"] == 20
    first, second = report["episodes"]
    assert (first["task"], first["outcome"], first["frames"]) == ("pick_red", "success", 20)
    assert first["duration_s"] == pytest.approx(2.0105)
    assert (second["outcome"], second["frames"]) == ("discarded", 0)
    assert report["actions"]["vx"]["max"] == pytest.approx(0.1)
    printed = capsys.readouterr().out
    assert "20 frames in 1 episodes (1 success)" in printed


def test_dropped_frames_are_listed_by_reason(demonstration: BagBuilder, tmp_path: Path) -> None:
    demonstration.without("demonstrated_twist").twist(500, 0.1).write(tmp_path / "bag")
    main(["inspect", str(tmp_path / "bag"), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dropped"] == [{"why": "before the first twist command", "count": 5}]


def test_an_unusable_bag_is_a_problem_and_the_others_are_still_reported(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstration.write(tmp_path / "bags" / "good")
    demonstration.without("language_command").write(tmp_path / "bags" / "mute")
    assert main(["inspect", str(tmp_path / "bags")]) == 1
    printed = capsys.readouterr().out
    assert "language: topic 'language_command' is missing" in printed
    assert "20 frames in 1 episodes" in printed


@pytest.mark.parametrize(
    ("rate_hz", "status", "frames"),
    [("10", 0, 20), ("50", 0, 100), ("30", 0, 60), ("29.97", 0, 59), ("0", 2, None), ("nan", 2, None)],
)
def test_bags_are_sampled_at_the_rate_that_is_asked_for(
    demonstration: BagBuilder, tmp_path: Path, rate_hz: str, status: int, frames: int | None
) -> None:
    demonstration.write(tmp_path / "bag")
    report = tmp_path / "report.json"
    assert main(["inspect", str(tmp_path / "bag"), "--control-hz", rate_hz, "--json", str(report)]) == status
    assert frames is None or json.loads(report.read_text())["frames"] == frames


def test_bags_are_read_with_the_shipped_recipe_s_settle_time() -> None:
    recipe = json.loads(resources.path("config/train/tabletop.json").read_text())
    assert recipe["contract"]["settle_s"] == SETTLE_S


def test_an_unfinished_bag_is_used_and_its_loss_reported(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (demonstration.write(tmp_path / "bag") / "metadata.yaml").unlink()
    assert main(["inspect", str(tmp_path / "bag")]) == 0
    printed = capsys.readouterr().out
    assert "it has no metadata.yaml" in printed and "20 frames in 1 episodes" in printed


def test_an_unfinished_bag_is_recovered_on_request(demonstration: BagBuilder, tmp_path: Path) -> None:
    (demonstration.write(tmp_path / "bag") / "metadata.yaml").unlink()
    assert main(["inspect", "--recover", str(tmp_path / "bag")]) == 0
    assert (tmp_path / "bag_recovered" / "metadata.yaml").is_file()


START_NS = 1_700_000_000_000_000_000


def inspected(folder: Path, *options: str) -> dict:
    main(["inspect", str(folder), "--json", str(folder.parent / "report.json"), *options])
    return json.loads((folder.parent / "report.json").read_text())


def robot_file(tmp_path: Path, **changes: object) -> str:
    data = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump({**data, **changes}))
    return str(path)


def test_gaps_delays_and_wrong_stamps_are_reported(demonstration: BagBuilder, tmp_path: Path) -> None:
    demonstration.messages = [
        entry for entry in demonstration.messages
        if not (entry[1] == "/ee_pose" and 1000 < (entry[0] - START_NS) / 1e6 < 1200)
    ]  # fmt: skip
    demonstration.pose(500, late_ms=900).pose(1600, late_ms=5)
    report = inspected(demonstration.write(tmp_path / "bag"))
    topic, stream = report["topics"]["/ee_pose"], report["streams"]["ee_pose"]
    assert (topic["gaps"], topic["longest_gap_s"]) == (1, pytest.approx(0.22))
    assert stream["delay_s"] == pytest.approx(0.001)
    assert (stream["out_of_order"], stream["repeated_stamps"]) == (1, 1)
    assert report["skew_s"] == {"median": 0.0, "q95": 0.0, "max": 0.0}


def test_actions_come_with_the_bounds_of_normalisation_and_a_histogram(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    report = inspected(demonstration.write(tmp_path / "bag"))
    vx, gripper = report["actions"]["vx"], report["actions"]["gripper"]
    assert (vx["low"], vx["high"]) == pytest.approx((0.09, 0.11))  # a range of nothing, widened
    assert sum(vx["histogram"]["counts"]) == 20
    assert (gripper["low"], gripper["high"]) == (0.0, 1.0)
    assert report["language"] == {"pick up the red block": 20}
    assert report["motion"] == pytest.approx({
        "idle_fraction": 0, "beyond_limits_fraction": 0, "spiky_fraction": 0, "gripper_between_fraction": 0,
        "gripper_switches_per_episode": 0,
    })  # fmt: skip


def test_pauses_fast_and_spiky_actions_and_gripper_switches_are_counted(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    for _, topic, _, message in demonstration.gripper(550, 0.04).gripper(1050, 0.0).messages:
        if topic == "/demonstrated_twist":
            tick = (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - START_NS) // 10**8
            message.twist.linear.x = 0.9 if tick == 4 else 0.0
            message.twist.angular.z = 0.0
    motion = inspected(demonstration.write(tmp_path / "bag"))["motion"]
    # The gripper moves at ticks 5 and 10, the arm at tick 4.
    assert motion["idle_fraction"] == pytest.approx(17 / 20)
    assert motion["beyond_limits_fraction"] == pytest.approx(1 / 20)
    assert motion["spiky_fraction"] == pytest.approx(2 / 20)
    assert motion["gripper_between_fraction"] == pytest.approx(5 / 20)
    assert motion["gripper_switches_per_episode"] == 1


def test_a_dead_camera_is_reported(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black = np.frombuffer(images.encode_jpeg(np.zeros((16, 16, 3), np.uint8)), np.uint8)
    for _, topic, _, message in demonstration.messages:
        if topic.startswith("/camera/wrist"):
            message.data = black
    report = inspected(demonstration.write(tmp_path / "bag"))
    assert report["cameras"]["wrist"] == {"frames": 20, "dark": 20, "flat": 20, "repeated": 19}
    assert report["cameras"]["static"]["dark"] < 3 and report["cameras"]["static"]["repeated"] == 0
    assert re.search(r"camera wrist is dark in 20 of 20 frames: is it working\?", capsys.readouterr().out)


def test_what_filters_leave_out_is_listed(demonstration: BagBuilder, tmp_path: Path) -> None:
    robot = robot_file(tmp_path, filters={"outliers": {"linear_mps": 0.05, "angular_radps": 5}})
    report = inspected(demonstration.write(tmp_path / "bag"), "--robot", robot)
    assert report["dropped"] == [{"why": "action faster than filters.outliers allows", "count": 20}]
    (problem,) = report["problems"]
    assert problem["problem"] == (
        "it has no usable episode; left out: action faster than filters.outliers allows: 20 frames"
    )


def test_the_reason_that_images_can_not_be_decoded_is_listed_with_their_count(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, topic, _, message in demonstration.messages:
        if topic.startswith("/camera/wrist"):
            message.format = "h264"
    report = inspected(demonstration.write(tmp_path / "bag"))
    ((why, count),) = [(row["why"], row["count"]) for row in report["dropped"]]
    assert why.startswith("camera 'wrist': format 'h264' is video") and count == 20
    assert f"it has no usable episode; left out: {why}: 20 frames" in " ".join(capsys.readouterr().out.split())


def filmed(built: BagBuilder, late_ms: int) -> BagBuilder:
    """Ten seconds in which the tool sways and a camera follows it with a delay that its stamps do not tell."""

    def x_m(time_ms: float) -> float:
        return 0.4 + 0.05 * np.sin(time_ms / 300) + 0.04 * np.sin(time_ms / 170) + 0.03 * np.sin(time_ms / 709)

    edge = np.linspace(0, 2 * np.pi, 64)
    for stamp_ms in range(0, 10_000, 40):
        shift = 20 * x_m(stamp_ms - late_ms)
        stripes = np.uint8(127 + 120 * np.sin(edge + shift))
        data = images.encode_jpeg(np.repeat(np.tile(stripes, (48, 1))[..., None], 3, axis=-1))
        built.image("static", stamp_ms, 0).image("wrist", stamp_ms, 0)
        built.messages[-2][3].data = np.frombuffer(data, np.uint8)
    for stamp_ms in range(0, 10_000, 20):
        built.pose(stamp_ms, x_m=x_m(stamp_ms)).joints(stamp_ms)
    for stamp_ms in range(0, 10_000, 100):
        built.twist(stamp_ms, 0.1)
    return built.say(-9).gripper(-8, 0.08)


def test_a_camera_s_latency_is_estimated_and_gone_once_it_is_in_the_robot_s_file(
    bag: type[BagBuilder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filmed(bag(), late_ms=125).write(tmp_path / "bag")
    stream = inspected(path)["streams"]["static"]
    assert stream["suggested_latency_s"] == pytest.approx(0.125, abs=0.02) and stream["lag_correlation"] > 0.8
    assert re.search(r"static shows motion 1[1-3]\d \+- \d+ ms after ee_pose", capsys.readouterr().out)
    data = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    data["cameras"]["static"]["latency_s"] = 0.125
    data["observation"]["max_skew_s"] = 0.3
    stream = inspected(path, "--robot", robot_file(tmp_path, **data))["streams"]["static"]
    assert stream["lag_behind_ee_pose_s"] == pytest.approx(0, abs=0.02)
    assert stream["suggested_latency_s"] == pytest.approx(0.125, abs=0.02)


def test_the_html_report_is_one_file_with_images_that_loads_nothing(demonstration: BagBuilder, tmp_path: Path) -> None:
    hostile = demonstration.mark(2010, "start", 1, task="<script>alert(1)</script>").mark(2040, "discard", 1)
    main(["inspect", str(hostile.write(tmp_path / "bag")), "--html", str(tmp_path / "out" / "report.html")])
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 6  # first, middle and last of two cameras
    assert text.count("<svg") == 7
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert not re.search(r"""(src|href)=['"](?!data:)""", text)
    for word in ("pick up the red block", "/camera/static/image_raw/compressed", "discarded"):
        assert word in text


def moving_as_commanded(built: BagBuilder, frame: str = "base_link", sign: float = 1.0) -> BagBuilder:
    """Four seconds along x, to and fro, of a tool that points down."""
    times_s = np.arange(400) / 100
    speeds = 0.1 * np.sign(np.sin(3 * times_s) + np.sin(5.1 * times_s + 1.0))  # which does not repeat
    for index, x_m in enumerate(0.4 + np.cumsum(speeds) / 100):
        built.pose(10 * index, x_m=float(x_m)).joints(10 * index, 0.08 if index < 100 or index > 300 else 0.024)
    for index in range(0, 400, 5):
        built.twist(10 * index, float(sign * speeds[index]), frame)
    for stamp_ms in range(0, 4000, 50):
        built.image("static", stamp_ms, stamp_ms // 50).image("wrist", stamp_ms, stamp_ms // 50)
    built.gripper(-1, 0.08).gripper(1000, 0.0).gripper(3000, 0.08)
    return built.mark(-1, "start").say(-1).mark(3900, "success")


def test_a_healthy_bag_is_compared_and_nothing_is_said(
    bag: type[BagBuilder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = inspected(moving_as_commanded(bag()).write(tmp_path / "bag"))
    (row,) = [row for row in report["agreement"] if row["velocities"] == "linear"]
    assert (row["axes"], report["problems"], report["doubts"]) == ("x", [], [])
    assert row["correlation"] > 0.95 and row["gain"] == pytest.approx(1.0, abs=0.1)
    assert "commanded against measured motion" in capsys.readouterr().out


def test_twists_that_contradict_the_pose_are_a_problem_with_its_way_out(bag: type[BagBuilder], tmp_path: Path) -> None:
    path = moving_as_commanded(bag(), sign=-1.0).write(tmp_path / "bag")
    assert main(["inspect", str(path)]) == 1
    (problem,) = inspected(path)["problems"]
    assert "x inverted" in problem["problem"] and "set labels: {arm: motion} in the robot file" in problem["problem"]


def test_a_gripper_that_moves_while_its_label_never_does_is_named_with_raw_values_and_the_key(
    bag: type[BagBuilder], tmp_path: Path
) -> None:
    path = moving_as_commanded(bag()).write(tmp_path / "bag")
    by_state = robot_file(tmp_path, labels={"gripper": "state"})
    report = inspected(path, "--robot", by_state)
    assert report["grippers"]["gripper_state"]["min"] == pytest.approx(0.024)
    assert report["grippers"]["labels"]["min"] == 1.0
    (problem,) = report["problems"]
    assert re.search(r"from 1\.00 to 0\.30 .*set labels: \{closed_below: 0\.65\}.*raw 0\.024", problem["problem"])
    told_apart = robot_file(tmp_path, labels={"gripper": "state", "closed_below": 0.65})
    report = inspected(path, "--robot", told_apart)
    assert not report["problems"] and report["grippers"]["labels"]["min"] == 0.0


def test_raw_gripper_values_in_another_unit_are_said(
    bag: type[BagBuilder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = moving_as_commanded(bag())
    for _, topic, _, message in built.messages:
        if topic == "/joint_states":
            message.position *= 1000
    inspected(built.write(tmp_path / "bag"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "gripper_state is between 24 and 80, but closed is 0 and open 0.08; correct closed and open" in printed
