# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("diagnostic_msgs")

from vla_ros import transport  # noqa: E402
from vla_ros.nodes.policy import diagnostics  # noqa: E402
from vla_ros.robot import Limits  # noqa: E402
from vla_ros.runtime.execution.control import ControlLoop, GripperSwitch  # noqa: E402
from vla_ros.runtime.execution.timeline import ActionTimeline  # noqa: E402
from vla_ros.runtime.planning.engine import EngineStatus  # noqa: E402
from vla_ros.runtime.safety.governor import SafetyGovernor  # noqa: E402
from vla_ros.runtime.stats import StreamRate, Summary  # noqa: E402

OK, WARN, ERROR = b"\0", b"\1", b"\2"
RUNNING = EngineStatus("go", None, "", Summary(10, 8.0, 12.0, 15.0, 20.0), 0)


@pytest.fixture
def control() -> ControlLoop:
    limits = Limits(1.0, 1.0, 1e6, 1e6, 1e9, 1e9, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    governor = SafetyGovernor(limits, period_s=0.1, stop_ticks=1, armed=True)
    loop = ControlLoop(ActionTimeline(), governor, GripperSwitch(), period_ns=100_000_000)
    loop.timeline.post(0, np.zeros((3, 7)))
    loop.tick(0, None, (0.0, 0.0, 0.0))
    return loop


def values(status) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def test_a_running_policy_is_ok_and_shows_its_figures(control):
    status = diagnostics.policy_status(control, RUNNING)
    assert (status.level, status.message) == (OK, "running")
    assert values(status)["inference p95 ms"] == "12.00" and values(status)["ticks total"] == "1"


@pytest.mark.parametrize(
    ("reason", "level"), [("no_command", OK), ("stale", WARN), ("policy_error", ERROR), ("non_finite", ERROR)]
)
def test_a_stop_is_counted_by_its_reason_and_shown_as_badly_as_it_is(control, reason, level):
    for tick in (1, 2):
        control.tick(tick * control.period_ns, reason, (0.0, 0.0, 0.0))
    status = diagnostics.policy_status(control, EngineStatus("go", reason, "why", None, 0))
    assert status.level == level
    assert values(status)[f"stops: {reason}"] == "1" and values(status)["detail"] == "why"


def test_the_ticks_that_chunks_take_are_shown_once_they_are_known(control):
    assert values(diagnostics.policy_status(control, RUNNING))["ticks per chunk"] == ""
    slow = dataclasses.replace(RUNNING, ticks_per_chunk=3)
    assert values(diagnostics.policy_status(control, slow))["ticks per chunk"] == "3"


def test_a_stream_that_is_silent_or_never_received_is_an_error():
    stream = StreamRate()
    assert diagnostics.stream_status("wrist", stream, 10**9, 0.2).level == ERROR
    stream.add(10**9)
    assert diagnostics.stream_status("wrist", stream, 10**9 + 10**8, 0.2).level == OK
    late = diagnostics.stream_status("wrist", stream, 2 * 10**9, 0.2)
    assert late.level == ERROR and "silent for 1.00 s" in late.message


def test_a_publisher_with_another_qos_is_counted_and_named_when_nothing_arrives():
    found = diagnostics.stream_status("wrist", StreamRate(), 10**9, 0.2, incompatible_qos=1)
    assert "QoS mismatch" in found.message and values(found)["incompatible QoS"] == "1"


def test_an_operator_input_with_a_qos_mismatch_is_an_error_with_the_way_out():
    assert diagnostics.inputs_status([]).level == OK
    unheard = diagnostics.inputs_status(["emergency_stop", "enable"])
    assert (unheard.level, unheard.message) == (
        ERROR,
        "QoS mismatch on emergency_stop, enable: the publisher must be RELIABLE",
    )


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


def test_the_state_is_json_with_what_programs_read(control):
    state = json.loads(diagnostics.state_text(control, RUNNING))
    assert state == {
        "state": "running", "reason": None, "detail": "", "command": "go",
        "dry_run": False, "taken_over": False, "speed_scale": 1.0, "stops": {},
        "ticks": {"total": 1, "missed": 0}, "inference_ms": {"p50": 8.0, "p95": 12.0, "p99": 15.0},
        "waiting_commands": [],
    }  # fmt: skip
