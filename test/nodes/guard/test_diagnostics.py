# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("diagnostic_msgs")

from vla_ros.nodes.guard import diagnostics  # noqa: E402
from vla_ros.robot import Limits  # noqa: E402
from vla_ros.runtime.execution.commands import GripperSwitch  # noqa: E402
from vla_ros.runtime.execution.plans import Plan  # noqa: E402
from vla_ros.runtime.execution.timeline import ActionTimeline  # noqa: E402
from vla_ros.runtime.safety.governor import SafetyGovernor  # noqa: E402
from vla_ros.runtime.safety.guard import Guard, GuardSettings, PlannerStatus  # noqa: E402
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover  # noqa: E402
from vla_ros.runtime.safety.plausibility import MotionCheck  # noqa: E402

OK, WARN, ERROR = b"\0", b"\1", b"\2"
PERIOD_NS, START_NS = 100_000_000, 10**18


@pytest.fixture
def core() -> Guard:
    """It has moved for one tick of 0.1 s."""
    limits = Limits(1.0, 1.0, 1e6, 1e6, 1e9, 1e9, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    core = Guard(
        GuardSettings(PERIOD_NS),
        ActionTimeline(),
        SafetyGovernor(limits, period_s=0.1, stop_ticks=1),
        GripperSwitch(),
        stops=EmergencyStops({"emergency_stop": None}),
        deadman=Deadman(required=False),
        takeover=Takeover(),
        motion=MotionCheck(limits.linear_mps),
    )
    core.arm(True, START_NS)
    core.hear_status(PlannerStatus("one", "go"), 0.0)
    assert core.hear_plan(Plan(START_NS, PERIOD_NS, np.zeros((3, 7))), START_NS) is None
    tick(core, 0)
    return core


def tick(core: Guard, number: int, reason: str | None = None, detail: str = "") -> None:
    core.hear_status(PlannerStatus("one", "go", reason, detail), number * 0.1)
    core.tick(START_NS + number * PERIOD_NS + 20_000_000, number * 0.1, np.zeros(3))


def values(status) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def test_a_running_guard_is_ok_and_shows_its_figures(core: Guard) -> None:
    tick(core, 1)
    status = diagnostics.guard_status(core, dry_run=False)
    assert (status.name, status.level, status.message) == ("guard", OK, "running")
    shown = values(status)
    assert float(shown.pop("memory MB")) > 10
    assert shown == {
        "state": "running", "reason": "", "detail": "", "command": "go", "armed": "True", "taken over": "False",
        "dry run": "False", "speed scale": "1", "ticks total": "2", "ticks missed": "0", "ticks limited": "0",
        "outputs": "", "stops": "", "plans refused": "", "plan age p50 ms": "70.0", "plan age p95 ms": "115.0",
        "plan age p99 ms": "119.0", "ticks starved": "0", "chunks posted": "1", "chunks expired": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "level"), [("no_command", OK), ("stale", WARN), ("policy_error", ERROR), ("non_finite", ERROR)]
)
def test_a_stop_is_counted_by_its_reason_and_shown_as_badly_as_it_is(core: Guard, reason: str, level: bytes) -> None:
    for number in (1, 2, 3):
        tick(core, number, reason, "why")
    status = diagnostics.guard_status(core, dry_run=True)
    assert status.level == level and status.message.startswith(f"{'fault' if level == ERROR else 'waiting'}: {reason}")
    assert values(status)[f"stops: {reason}"] == "1" and "why" in values(status)["detail"]
    assert values(status)["stops"] == f"{reason} 1" and values(status)["dry run"] == "True"


def test_ticks_without_an_action_and_those_that_the_timer_skipped_are_missed(core: Guard) -> None:
    tick(core, 2)  # 1 was skipped
    assert (core.ticks_total, core.ticks_missed) == (3, 1)
    tick(core, 3)  # the plan is over
    assert (core.ticks_total, core.ticks_missed) == (4, 2)
    tick(core, 6)  # at rest nothing is missed
    assert (core.ticks_total, core.ticks_missed) == (4, 2)


def test_a_plan_that_is_refused_is_counted_by_its_reason(core: Guard) -> None:
    core.hear_plan(Plan(START_NS, PERIOD_NS, np.zeros((3, 7))), START_NS)
    assert values(diagnostics.state_status(core, dry_run=False))["plans refused"] == "out_of_order 1"


def test_an_idle_guard_says_why_its_last_transition_failed() -> None:
    failed = diagnostics.idle_status("unconfigured", "no such file")
    assert (failed.level, failed.message) == (ERROR, "unconfigured: error: no such file")
    assert diagnostics.idle_status("inactive", "").level == OK


def test_inputs_of_operators_that_cannot_be_heard_are_an_error_that_says_what_to_do() -> None:
    stops = EmergencyStops({"emergency_stop": None, "/cell/stop": 0.2})
    stops.look("emergency_stop", 1, None, 0.0)
    stops.hear("emergency_stop", False, 0.0)
    heard = diagnostics.inputs_status(stops.summary(0.0), stops.problems())
    assert (heard.level, heard.message) == (OK, "can be heard")
    assert values(heard) == {"emergency_stop": "released", "/cell/stop": "no publisher"}
    stops.look("/cell/stop", 1, "QoS mismatch: the publisher button must be RELIABLE", 0.0)
    stops.hear("emergency_stop", True, 0.0)
    unheard = diagnostics.inputs_status(stops.summary(0.0), [*stops.problems(), "enable: another type"])
    assert (unheard.level, unheard.message) == (
        ERROR,
        "/cell/stop: QoS mismatch: the publisher button must be RELIABLE; enable: another type",
    )
    assert values(unheard)["emergency_stop"] == "pressed"


def test_outputs_that_do_not_execute_commands_are_a_warning() -> None:
    figures = {"publishers of the command": "1"}
    assert diagnostics.outputs_status(figures, None).level == OK
    warned = diagnostics.outputs_status(figures, "servo_silent: is it paused?")
    assert (warned.level, warned.message, values(warned)) == (WARN, "servo_silent: is it paused?", figures)
