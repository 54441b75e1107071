# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from vla_ros import transport


def test_a_process_started_with_the_environment_misses_nothing():
    assert transport.missing(transport.environment({})) == []


def test_what_is_missing_is_named_with_the_command_that_sets_it():
    missing = transport.missing({})
    assert len(missing) == 3
    assert missing[0].startswith("export FASTDDS_DEFAULT_PROFILES_FILE=") and missing[0].endswith("config/fastdds.xml")


def test_what_the_user_has_set_is_kept(tmp_path):
    profile = tmp_path / "mine.xml"
    profile.touch()
    own = {"FASTDDS_DEFAULT_PROFILES_FILE": str(profile)}
    assert transport.environment(own)["FASTDDS_DEFAULT_PROFILES_FILE"] == str(profile)
    assert len(transport.missing(own)) == 2


def test_a_file_of_profiles_that_does_not_exist_is_missing(tmp_path):
    set_wrong = {**transport.environment({}), "FASTDDS_DEFAULT_PROFILES_FILE": str(tmp_path / "moved.xml")}
    [line] = transport.missing(set_wrong)
    assert line.startswith("export FASTDDS_DEFAULT_PROFILES_FILE=") and line.endswith("config/fastdds.xml")


@pytest.mark.parametrize("distribution", ["humble", "jazzy"])
def test_older_distributions_have_their_own_variable(distribution):
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" in transport.environment({"ROS_DISTRO": distribution})


def test_another_middleware_needs_none_of_it():
    assert transport.missing({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}) == []


def test_the_shared_memory_holds_several_raw_images():
    profile = Path(transport.environment({})["FASTDDS_DEFAULT_PROFILES_FILE"])
    segment = next(ElementTree.parse(profile).iter("{http://www.eprosima.com}segment_size"))
    assert int(segment.text) >= 8 * 640 * 480 * 3


def test_shared_memory_that_is_too_small_for_images_is_named_with_the_way_out():
    assert transport.small_shared_memory(2**30) == []
    (way_out,) = transport.small_shared_memory(64 * 2**20)
    assert way_out == "docker run --shm-size=1g ... (/dev/shm has 67 MB, each process takes 34)"
