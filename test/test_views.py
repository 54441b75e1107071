# SPDX-License-Identifier: Apache-2.0
"""The views in config/views/ show existing topics of the right types."""

from __future__ import annotations

import json

import yaml

from vla_ros import resources, topics
from vla_ros.robot import load_robot

VIEWS = resources.path("config/views")
ROBOT = load_robot("tabletop")
CAMERAS = {stream.topic for stream in ROBOT.cameras.values()}
PATH, DIAGNOSTICS = "policy/predicted_path", "diagnostics"


def test_rviz_shows_both_cameras_the_tool_and_the_plan_in_the_base_frame():
    manager = yaml.safe_load((VIEWS / "policy.rviz").read_text())["Visualization Manager"]
    shown: dict[str, set[str]] = {}
    for display in manager["Displays"]:
        assert display["Enabled"]
        if "Topic" in display:
            shown.setdefault(display["Class"].split("/")[1], set()).add(display["Topic"]["Value"])
    assert shown == {"Image": CAMERAS, "Pose": {ROBOT.ee_pose.topic}, "PoseArray": {PATH}}
    assert manager["Global Options"]["Fixed Frame"] == ROBOT.base_frame


def panels(layout) -> list[str]:
    return [layout] if isinstance(layout, str) else [*panels(layout["first"]), *panels(layout["second"])]


def test_foxglove_shows_both_cameras_the_plan_both_states_and_the_diagnostics():
    view = json.loads((VIEWS / "foxglove.json").read_text())
    configurations = view["configById"]
    assert sorted(panels(view["layout"])) == sorted(configurations)
    pictures = [panel["imageMode"]["imageTopic"] for panel in configurations.values() if "imageMode" in panel]
    assert sorted(pictures) == sorted(f"/{topic}" for topic in CAMERAS)
    assert set(configurations["3D!plan"]["topics"]) == {f"/{PATH}", f"/{ROBOT.ee_pose.topic}"}
    assert configurations["3D!plan"]["followTf"] == ROBOT.base_frame
    for node, topic in (("guard", topics.GUARD_STATE), ("policy", topics.POLICY_STATE)):
        assert configurations[f"RawMessages!{node}"]["topicPath"] == f"/{topic}"
    assert configurations["DiagnosticSummary!all"]["topicToRender"] == f"/{DIAGNOSTICS}"
    paths = [path["value"] for path in configurations["Plot!twist"]["paths"]]
    assert len(paths) == 6 and all(path.startswith(f"/{ROBOT.twist_command.topic}.twist.") for path in paths)
