# SPDX-License-Identifier: Apache-2.0
"""The robot's file and its messages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from vla_ros.datasets.bags.recording import match_topic
from vla_ros.errors import RobotError
from vla_ros.imaging import images, raw
from vla_ros.observations import messages
from vla_ros.robot import load_robot


def edited(tmp_path, edit) -> str:
    from vla_ros import resources

    data = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    edit(data)
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_the_shipped_robot_is_found_by_name():
    robot = load_robot("tabletop")
    assert set(robot.cameras) == {"static", "wrist"} and robot.limits.linear_mps > 0


def test_an_unknown_robot_lists_the_known_ones():
    with pytest.raises(RobotError, match=r"one of .*tabletop"):
        load_robot("no_such_robot")


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda data: data["limits"].pop("linear_mps"), "missing key 'linear_mps'"),
        (lambda data: data["limits"].update(linear_mps=0), "linear_mps must be positive; got 0"),
        (lambda data: data.update(camera={}), "did you mean 'cameras'"),
        (lambda data: data["cameras"]["static"].update(type="sensor_msgs/msg/PointCloud2"), "CompressedImage"),
        (lambda data: data["language"].update(stamp="arrival"), "'header', 'receive'"),
        (lambda data: data["gripper_command"].update(open=0.0), "must differ"),
        (lambda data: data["limits"].update(workspace_max_m=[0.1, 0.1, 0.1]), "workspace must not be empty"),
        (lambda data: data["language"].update(stamp="header"), "language: .*no header.*stamp: receive"),
        (lambda data: data["ee_pose"].update(type="geometry_msgs/msg/Pose"), "ee_pose: type must be .*PoseStamped"),
        (lambda data: data["cameras"]["wrist"].update(latency_s=1.5), r"latency_s must be in \[-1, 1\]; got 1.5"),
        (lambda data: data["gripper_state"].update(joints=[]), "name the joints whose positions add up"),
        (
            lambda data: data["gripper_state"].update(type="std_msgs/msg/Float64", stamp="receive"),
            "empty for other types",
        ),
        (lambda data: data.update(labels={"arm": "guess"}), "'command', 'motion'"),
        (lambda data: [data.update(labels={"arm": "motion"}), data.pop("ee_pose")], "requires ee_pose"),
        (lambda data: data.update(labels={"closed_below": 0.9, "open_above": 0.5}), "closed_below < open_above < 1"),
        (lambda data: data["limits"].update(linear_mps=300, linear_mps2=1e5, linear_mps3=1e7), "is it in millimetres"),
        (lambda data: data["limits"].update(workspace_max_m=[650, 300, 500]), "workspace must be at most 5 m"),
        (lambda data: data["observation"].update(max_age_s=200), "max_age_s must be at most 2 s; is it in milli"),
        (lambda data: data["cameras"].update(wrist=data["cameras"]["static"]), "each needs its own topic; got 2 on"),
        (lambda data: data.update(command_hz=1000.0), r"command_hz must be in \[10, 500\]; got 1000.0"),
        (lambda data: data.update(unchecked=["unit"]), "unchecked: must be among units, .*; got 'unit'"),
        (lambda data: data.update(emergency_stops=[{"topic": "stop", "heartbeat_s": 10}]), r"in \(0, 2\] s; got 10"),
        (lambda data: data.update(filters={"idle": {"linear_mps": 0.001}}), "idle: missing key 'angular_radps'"),
    ],
)
def test_a_wrong_robot_file_is_refused_by_name(tmp_path, edit, message):
    with pytest.raises(RobotError, match=message):
        load_robot(edited(tmp_path, edit))


def test_a_check_is_switched_off_by_its_name(tmp_path):
    def edit(data):
        data["limits"].update(workspace_max_m=[650, 300, 500])
        data.update(unchecked=["units"])

    assert load_robot(edited(tmp_path, edit)).unchecked == ("units",)


TF = {"topic": "/tf", "type": "tf2_msgs/msg/TFMessage", "stamp": "header"}


@pytest.mark.parametrize(
    "pose, message",
    [
        (TF, "ee_frame must name the tool's frame .*got None"),
        ({**TF, "ee_frame": "/base_link"}, "different from base_frame .*got '/base_link'"),
        ({**TF, "ee_frame": "tcp", "stamp": "receive"}, "stamp must be header"),
        ({**TF, "ee_frame": "tcp", "type": "geometry_msgs/msg/PoseStamped"}, "ee_frame must be removed .*got 'tcp'"),
        ({**TF, "tool": "tcp"}, "unknown key 'tool'"),
    ],
)
def test_a_pose_from_transforms_needs_the_tool_s_frame_and_their_stamps(tmp_path, pose, message):
    with pytest.raises(RobotError, match=message):
        load_robot(edited(tmp_path, lambda data: data.update(ee_pose=pose)))
    robot = load_robot(edited(tmp_path, lambda data: data.update(ee_pose={**TF, "ee_frame": "tcp"})))
    assert robot.ee_pose.static_topic == "/tf_static" and load_robot("tabletop").ee_pose.static_topic is None


def test_topics_match_in_a_namespace_and_ambiguity_is_refused():
    assert match_topic("ee_pose", ["/ee_pose", "/arm/ee_pose"]) == "/ee_pose"
    assert match_topic("ee_pose", ["/arm/ee_pose", "/other"]) == "/arm/ee_pose"
    assert match_topic("ee_pose", ["/see_pose"]) is None
    with pytest.raises(RobotError, match="/left/ee_pose, /right/ee_pose"):
        match_topic("ee_pose", ["/left/ee_pose", "/right/ee_pose"])


def test_images_are_decoded_only_when_looked_at():
    broken = SimpleNamespace(data=b"broken", format="jpeg")
    value = messages.observation_value(broken, load_robot("tabletop"), "static")
    with pytest.raises(ValueError):
        value.rgb()
    good = SimpleNamespace(data=images.encode_jpeg(np.zeros((8, 8, 3), np.uint8)), format="jpeg")
    assert messages.observation_value(good, load_robot("tabletop"), "static").rgb().shape == (8, 8, 3)


def test_joint_states_of_another_publisher_are_skipped_and_the_gripper_is_the_sum_of_its_joints():
    robot = load_robot("tabletop")
    arm_only = SimpleNamespace(name=["panda_joint1"], position=[0.1])
    assert messages.observation_value(arm_only, robot, "gripper_state") is None
    joints = SimpleNamespace(name=["panda_finger_joint2", "x", "panda_finger_joint1"], position=[0.02, 5.0, 0.03])
    assert messages.observation_value(joints, robot, "gripper_state") == pytest.approx(0.05 / 0.08)


def test_joint_states_without_positions_are_an_error_that_names_the_topic():
    fingers = SimpleNamespace(name=["panda_finger_joint1", "panda_finger_joint2"], position=[])
    with pytest.raises(ValueError, match="joint_states has 0 positions for 2 joints"):
        messages.observation_value(fingers, load_robot("tabletop"), "gripper_state")


@pytest.mark.parametrize("data", [0.03, [0.03]])
def test_a_gripper_s_width_is_its_opening(tmp_path, data):
    def width(robot: dict) -> None:
        robot["gripper_state"] = {
            "topic": "gripper/width", "type": "std_msgs/msg/Float64", "stamp": "receive", "closed": 0.01, "open": 0.05
        }  # fmt: skip

    robot = load_robot(edited(tmp_path, width))
    value = messages.observation_value(SimpleNamespace(data=data), robot, "gripper_state")
    assert value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 values; expected one number"):
        messages.observation_value(SimpleNamespace(data=[0.1, 0.2]), robot, "gripper_state")


def test_the_latency_of_a_stream_is_subtracted_from_its_stamp_or_its_receipt(tmp_path):
    def late(robot: dict) -> None:
        robot["cameras"]["static"]["latency_s"] = 0.125
        robot["language"]["latency_s"] = -0.5
        robot["gripper_command"]["latency_s"] = 0.01

    robot = load_robot(edited(tmp_path, late))
    stamped = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=7, nanosec=500_000_000)))
    assert messages.message_time_ns(stamped, robot.cameras["static"], 9_000_000_000) == 7_375_000_000
    assert messages.message_time_ns(stamped, robot.cameras["wrist"], 9_000_000_000) == 7_500_000_000
    assert messages.message_time_ns(stamped, robot.language, 9_000_000_000) == 9_500_000_000
    assert messages.message_time_ns(None, robot.gripper_command, 9_000_000_000) == 8_990_000_000


def pose_message(frame: str) -> SimpleNamespace:
    position, orientation = SimpleNamespace(x=0.1, y=0.2, z=0.3), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
    header = SimpleNamespace(frame_id=frame)
    return SimpleNamespace(header=header, pose=SimpleNamespace(position=position, orientation=orientation))


@pytest.mark.parametrize("frame", ["base_link", "/base_link", ""])
def test_a_pose_in_the_base_frame_or_without_one_is_taken(frame):
    value = messages.observation_value(pose_message(frame), load_robot("tabletop"), "ee_pose")
    assert value.tolist() == [0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0]


def test_a_pose_in_another_frame_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="ee_pose is in the frame 'world', but the robot's base frame is 'base_link'"):
        messages.observation_value(pose_message("world"), load_robot("tabletop"), "ee_pose")


@pytest.mark.parametrize("name", ["tabletop", "franka_servo", "ur_servo", "generic"])
def test_every_shipped_robot_loads_and_stops_within_a_second(name):
    limits = load_robot(name).limits
    assert max(limits.stopping_time_s(part) for part in ("linear", "angular")) < 1.0


def gripper_action(**changes):
    action = {"name": "gripper", "type": "control_msgs/action/GripperCommand", "max_effort": 20.0, **changes}
    return lambda data: data["gripper_command"].update(action=action)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda data: data["limits"].update(linear_mps3=0), "linear_mps3 must be positive; got 0"),
        (lambda data: data["limits"].update(linear_mps2=0.1), r"linear_mps .* takes 3\.50 s: .* raise linear_mps2"),
        (
            lambda data: data["twist_command"].update(type="std_msgs/msg/String"),
            "twist_command: type must.*got 'std_msgs",
        ),
        (lambda data: data["twist_command"].update(type="geometry_msgs/msg/Twist"), "use stamp: receive"),
        (
            lambda data: data.update(
                servo={"node": "servo_node"},
                twist_command={"topic": "t", "type": "geometry_msgs/msg/Twist", "stamp": "receive"},
            ),
            "must be geometry_msgs/msg/TwistStamped for Servo",
        ),
        (
            lambda data: data["demonstrated_twist"].update(frame="tool0"),
            "frame must be one of base, tool, base_link; got",
        ),
        (
            lambda data: data.update(base_frame=""),
            "base_frame must name a frame; for twists without a frame_id, set frame",
        ),
        (lambda data: data["gripper_command"].update(type="std_msgs/msg/Bool"), "gripper_command: type must be one of"),
        (gripper_action(joints=["finger"]), r"joints must be empty for .*GripperCommand; got \['finger'\]"),
        (gripper_action(type="control_msgs/action/ParallelGripperCommand"), "must name the joints to move"),
        (gripper_action(type="control_msgs/action/Gripper"), "must be one of 'control_msgs/action/Parallel"),
        (gripper_action(max_effort=0.0), "max_effort must be positive; got 0"),
    ],
)
def test_what_cannot_be_commanded_is_refused_with_what_is_allowed(tmp_path, edit, message):
    with pytest.raises(RobotError, match=message):
        load_robot(edited(tmp_path, edit))


@pytest.mark.parametrize("size", [0, 256, 767])
def test_a_raw_image_with_fewer_bytes_than_its_size_says_is_undecodable(size):
    message = SimpleNamespace(width=16, height=16, encoding="bgr8", step=48, is_bigendian=0, data=bytes(size))
    with pytest.raises(ValueError, match="do not match"):
        raw.decode_raw(message)
    assert len(messages.LazyImage(message, raw.decode_raw).fingerprint()) == size


def test_a_shipped_robot_is_found_with_the_ending_of_its_file_unless_there_is_a_file_of_that_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_robot("franka_servo.yaml") == load_robot("franka_servo")
    with pytest.raises(RobotError, match="does not exist"):
        load_robot("elsewhere/franka_servo.yaml")
    (tmp_path / "franka_servo.yaml").write_text("[")
    with pytest.raises(RobotError, match="is not YAML"):
        load_robot("franka_servo.yaml")
