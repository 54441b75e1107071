# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vla_ros import resources, transport


def test_a_process_started_with_the_environment_misses_nothing():
    assert transport.missing(transport.environment({})) == []


def test_what_is_missing_is_named_with_the_command_that_sets_it():
    missing = transport.missing({})
    assert len(missing) == 3
    assert missing[0].startswith(f"export {transport.profile_variable()}=")
    assert missing[0].endswith("config/fastdds.xml")


def test_what_the_user_has_set_is_kept(tmp_path):
    profile = tmp_path / "mine.xml"
    profile.touch()
    own = {transport.profile_variable(): str(profile)}
    assert transport.environment(own)[transport.profile_variable()] == str(profile)
    assert len(transport.missing(own)) == 2


def test_the_guard_takes_its_own_profile_in_place_of_none_and_of_ours_but_not_of_the_users(tmp_path):
    variable = transport.profile_variable()
    guards = {variable: str(resources.path("config/fastdds_guard.xml"))}
    assert transport.guard_environment({}) == guards
    assert transport.guard_environment(transport.environment({})) == guards
    assert transport.guard_environment({variable: str(tmp_path / "moved.xml")}) == guards
    profile = tmp_path / "mine.xml"
    profile.write_text("<dds/>")
    assert transport.guard_environment({variable: str(profile)}) == {}
    profile.write_bytes(resources.path("config/fastdds.xml").read_bytes())  # of another installation
    assert transport.guard_environment({variable: str(profile)}) == guards


@pytest.mark.parametrize("asked", [{"ROS_LOCALHOST_ONLY": "1"}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}])
def test_a_guard_that_is_to_stay_on_this_machine_does_so_by_its_profile(asked):
    variable = transport.profile_variable()
    got = transport.guard_environment(transport.environment({}) | asked)
    assert got.pop(variable).endswith("config/fastdds_guard_localhost.xml")
    assert got.pop("ROS_AUTOMATIC_DISCOVERY_RANGE") == "SYSTEM_DEFAULT"
    assert got == ({"ROS_LOCALHOST_ONLY": "0"} if "ROS_LOCALHOST_ONLY" in asked else {})


def test_static_peers_are_heard_by_a_guard_whose_range_is_this_machine():
    asked = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "10.0.0.2"}
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in transport.guard_environment(asked)


def test_a_file_of_profiles_that_does_not_exist_is_missing(tmp_path):
    set_wrong = {**transport.environment({}), transport.profile_variable(): str(tmp_path / "moved.xml")}
    [line] = transport.missing(set_wrong)
    assert line.startswith(f"export {transport.profile_variable()}=") and line.endswith("config/fastdds.xml")


@pytest.mark.parametrize(
    ("rclpy", "variable"),
    [
        ("3.3.16", "FASTRTPS_DEFAULT_PROFILES_FILE"),  # Humble
        ("7.1.6", "FASTRTPS_DEFAULT_PROFILES_FILE"),  # Jazzy
        ("9.1.2", "FASTDDS_DEFAULT_PROFILES_FILE"),  # Kilted
        ("10.0.10", "FASTDDS_DEFAULT_PROFILES_FILE"),  # Lyrical
    ],
)
def test_the_variable_is_that_of_the_installed_distribution(monkeypatch, rclpy, variable):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setattr(metadata, "version", {"rclpy": rclpy}.get)
    assert variable in transport.environment({})


@pytest.mark.ros
def test_the_variable_is_that_of_the_fast_dds_that_rclpy_loads(ros_environment):
    code = "import rclpy; rclpy.init(); rclpy.create_node('any'); print(open('/proc/self/maps').read())"
    environment = {**ros_environment, "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    maps = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert ("libfastrtps.so" in maps) == (transport.profile_variable() == "FASTRTPS_DEFAULT_PROFILES_FILE")
    assert ("libfastdds.so" in maps) == (transport.profile_variable() == "FASTDDS_DEFAULT_PROFILES_FILE")


def test_another_middleware_needs_none_of_it():
    assert transport.missing({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}) == []


def test_the_shared_memory_holds_several_raw_images():
    profile = Path(transport.environment({})[transport.profile_variable()])
    segment = next(ElementTree.parse(profile).iter("{http://www.eprosima.com}segment_size"))
    assert int(segment.text) >= 8 * 640 * 480 * 3


def test_shared_memory_that_is_too_small_for_images_is_named_with_the_way_out():
    assert transport.small_shared_memory(2**30) == []
    (way_out,) = transport.small_shared_memory(64 * 2**20)
    assert way_out == "docker run --shm-size=1g ... (/dev/shm has 67 MB, each process takes 34)"
