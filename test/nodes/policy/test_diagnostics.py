# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("diagnostic_msgs")

from vla_ros import transport  # noqa: E402
from vla_ros.nodes.policy import diagnostics  # noqa: E402
from vla_ros.nodes.policy.cv_bridge_probe import Verdict  # noqa: E402
from vla_ros.observations.observation import Undecodable  # noqa: E402
from vla_ros.runtime.planning.engine import EngineStatus  # noqa: E402
from vla_ros.runtime.stats import StreamRate, Summary  # noqa: E402

OK, WARN, ERROR = b"\0", b"\1", b"\2"
RUNNING = EngineStatus("go", None, "", Summary(10, 8.0, 12.0, 15.0, 20.0), 0)


def values(status) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def test_a_policy_that_plans_is_ok_and_shows_its_figures():
    engine = dataclasses.replace(RUNNING, overruns=3, ticks_per_chunk=3)
    status = diagnostics.policy_status(engine, 7, ["push it"], Summary(10, 30.0, 40.0, 50.0, 60.0))
    assert (status.level, status.message) == (OK, "planning: 'go'")
    shown = values(status)
    assert float(shown.pop("memory MB")) > 10
    assert shown == {
        "state": "active", "reason": "", "detail": "", "command": "go", "waiting commands": "push it", "plans": "7",
        "inference p50 ms": "8.00", "inference p95 ms": "12.00", "inference p99 ms": "15.00",
        "camera to plan p50 ms": "30.0", "camera to plan p95 ms": "40.0", "camera to plan p99 ms": "50.0",
        "ticks overrun by inference": "3", "ticks per chunk": "3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "level"), [("no_command", OK), ("stale", WARN), ("policy_error", ERROR), ("non_finite", ERROR)]
)
def test_a_policy_that_does_not_plan_says_why_and_how_bad_that_is(reason, level):
    status = diagnostics.policy_status(EngineStatus("go", reason, "Traceback\n  it broke", None, 0), 0)
    assert (status.level, status.message) == (level, f"{reason}:   it broke")
    assert values(status)["reason"] == reason and values(status)["inference p95 ms"] == ""


def test_an_idle_node_says_why_its_last_transition_failed():
    assert diagnostics.idle_status("inactive", "").message == "inactive"
    failed = diagnostics.idle_status("unconfigured", "no such folder")
    assert (failed.level, failed.message) == (ERROR, "unconfigured: no such folder")
    assert values(failed)["reason"] == "error" and values(failed)["detail"] == "no such folder"


def test_a_camera_whose_images_can_not_be_decoded_is_an_error_that_says_why_and_how_often():
    stream = StreamRate()
    stream.add(10**9)
    spoilt = diagnostics.stream_status("wrist", stream, 10**9, 0.2, 0, Undecodable(7, "format 'h264' is video"))
    assert spoilt.level == ERROR and spoilt.message == "can't be decoded, at 7 ticks so far: format 'h264' is video"
    well = diagnostics.stream_status("wrist", stream, 10**9, 0.2, 0, Undecodable(7, ""))
    assert (well.level, well.message, values(well)["undecodable at ticks"]) == (OK, "receiving", "7")


def test_a_stream_that_is_silent_or_was_never_heard_is_an_error():
    stream = StreamRate()
    assert diagnostics.stream_status("wrist", stream, 10**9, 0.2).level == ERROR
    stream.add(10**9)
    assert diagnostics.stream_status("wrist", stream, 10**9 + 10**8, 0.2).level == OK
    late = diagnostics.stream_status("wrist", stream, 2 * 10**9, 0.2)
    assert late.level == ERROR and "silent for 1.00 s" in late.message


def test_a_publisher_with_another_qos_is_counted_and_named_when_nothing_arrives():
    found = diagnostics.stream_status("wrist", StreamRate(), 10**9, 0.2, incompatible_qos=1)
    assert "QoS mismatch" in found.message and values(found)["incompatible QoS"] == "1"


def test_messages_that_are_lost_on_the_way_are_a_warning():
    stream = StreamRate()
    for number in (*range(20), *range(20, 60, 2)):
        stream.add(10**9 + number * 10**8)
    status = diagnostics.stream_status("wrist", stream, 10**9 + 59 * 10**8, 0.2)
    assert (status.level, status.message) == (WARN, "32% of the messages are lost")


def test_cameras_that_drift_apart_are_an_error():
    rates = {"static": StreamRate(), "wrist": StreamRate()}
    rates["static"].add(10**9)
    assert diagnostics.skew_status(rates, ("static", "wrist"), 0.1).level == OK
    rates["wrist"].add(10**9 + 2 * 10**8)
    apart = diagnostics.skew_status(rates, ("static", "wrist"), 0.1)
    assert apart.level == ERROR and values(apart)["skew s"] == "0.200"


def test_missing_transport_settings_are_a_warning_that_says_what_to_set():
    status = diagnostics.transport_status(transport.missing({}))
    assert status.level == WARN and any("fastdds.xml" in value for value in values(status).values())


def test_the_image_decoder_is_named_with_the_reason_and_is_a_warning_only_if_cv_bridge_is_broken():
    crashed = diagnostics.decoder_status(Verdict(False, True, "cv_bridge crashed"), {})
    assert (crashed.level, crashed.message) == (WARN, "built-in: cv_bridge crashed")
    assert diagnostics.decoder_status(Verdict(False, False, "cv_bridge is not installed"), {}).level == OK
    mixed = diagnostics.decoder_status(
        Verdict(True, False, "works"), {("mono16", 8, 16, False): "cv_bridge decodes it differently"}
    )
    assert (mixed.level, mixed.message) == (OK, "cv_bridge: works")
    assert values(mixed)["mono16, width 8, step 16"] == "built-in: cv_bridge decodes it differently"
