# SPDX-License-Identifier: Apache-2.0
"""`vla inspect` says what training will make of a bag before anybody trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vla_ros import resources
from vla_ros.cli import main
from vla_ros.demos.inspect import SETTLE_S

if TYPE_CHECKING:
    from conftest import BagBuilder


def test_report_tells_topics_episodes_and_what_is_left_out(
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


def test_dropped_frames_are_listed_with_why(demonstration: BagBuilder, tmp_path: Path) -> None:
    demonstration.without("demonstrated_twist").twist(500, 0.1).write(tmp_path / "bag")
    main(["inspect", str(tmp_path / "bag"), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dropped"] == [{"why": "before the first twist command", "count": 5}]


def test_bag_that_training_cannot_use_is_a_problem_and_the_others_are_still_reported(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstration.write(tmp_path / "bags" / "good")
    demonstration.without("language_command").write(tmp_path / "bags" / "mute")
    assert main(["inspect", str(tmp_path / "bags")]) == 1
    printed = capsys.readouterr().out
    assert "there is no topic 'language_command'" in printed
    assert "20 frames in 1 episodes" in printed


@pytest.mark.parametrize(
    ("rate_hz", "status", "frames"), [("10", 0, 20), ("50", 0, 100), ("0", 2, None), ("30", 2, None)]
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


def test_what_a_killed_recorder_left_is_used_and_the_loss_is_told(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (demonstration.write(tmp_path / "bag") / "metadata.yaml").unlink()
    assert main(["inspect", str(tmp_path / "bag")]) == 0
    printed = capsys.readouterr().out
    assert "it has no metadata.yaml" in printed and "20 frames in 1 episodes" in printed


def test_what_a_killed_recorder_left_is_made_a_whole_bag_on_request(demonstration: BagBuilder, tmp_path: Path) -> None:
    (demonstration.write(tmp_path / "bag") / "metadata.yaml").unlink()
    assert main(["inspect", "--recover", str(tmp_path / "bag")]) == 0
    assert (tmp_path / "bag_recovered" / "metadata.yaml").is_file()
