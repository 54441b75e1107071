# SPDX-License-Identifier: Apache-2.0
"""The guard's parameters: defaults, ranges, and what `ros2 param set` sends."""

from __future__ import annotations

import inspect

import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs rclpy")

from rclpy.exceptions import ParameterException  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from vla_ros.errors import UserError  # noqa: E402
from vla_ros.nodes.common.parameters import ParameterSpec, declare, refusal  # noqa: E402
from vla_ros.nodes.guard.lifecycle import GuardNode  # noqa: E402
from vla_ros.nodes.guard.parameters import PARAMETERS  # noqa: E402
from vla_ros.runtime.execution.commands import GripperSwitch  # noqa: E402

DEFAULTS = {spec.name: spec.default for spec in PARAMETERS}


@pytest.fixture
def start():
    """Makes a guard with these assignments."""
    nodes: list[GuardNode] = []

    def make(*assignments: str) -> GuardNode:
        rclpy.init(args=["--ros-args", *(part for each in assignments for part in ("-p", each))])
        nodes.append(GuardNode())
        return nodes[-1]

    yield make
    for node in nodes:
        node.release()
        node.destroy_node()
    rclpy.try_shutdown()


def test_the_node_switches_the_gripper_as_the_evaluation_does():
    evaluated = inspect.signature(GripperSwitch).parameters
    for name in ("close_below", "open_above", "debounce_ticks", "min_interval_s"):
        assert DEFAULTS[f"gripper_{name}"] == evaluated[name].default


def test_a_speed_scale_of_0_is_heard_also_as_an_integer(start):
    node = start("speed_scale:=1")
    node.trigger_configure()
    assert node.session is not None and node.session.core.governor.scale == 1.0
    for value in (0, 1, 0.5):
        assert node.set_parameters([Parameter("speed_scale", value=value)])[0].successful
        assert node.session.core.governor.scale == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2, "fast", True, [0.5], None])
def test_another_speed_scale_is_refused_and_the_old_one_stays(start, value):
    node = start()
    node.trigger_configure()
    node.set_parameters([Parameter("speed_scale", value=0.5)])
    refused = node.set_parameters([Parameter("speed_scale", value=value)])[0]
    assert not refused.successful and "speed_scale" in refused.reason
    assert node.session is not None and node.session.core.governor.scale == 0.5
    assert node.get_parameter("speed_scale").value == 0.5


def test_of_several_values_set_at_once_none_counts_if_one_is_refused(start):
    node = start()
    node.trigger_configure()
    both = [Parameter("speed_scale", value=0.2), Parameter("dry_run", value=True)]
    result = node.set_parameters_atomically(both)
    assert not result.successful and result.reason == "dry_run is read at configure; run the cleanup transition first"
    assert node.session is not None and node.session.core.governor.scale == 1.0


@pytest.mark.parametrize("assignment", ["first_run_scale:=2.0", "speed_scale:=fast", "stop_time_s:=true"])
def test_a_value_that_makes_no_sense_ends_the_start(start, assignment):
    with pytest.raises(ParameterException, match=assignment.partition(":")[0]):
        start(assignment)


def test_integers_are_fine_wherever_a_number_is_meant(start):
    node = start("stop_time_s:=1", "resume_within_s:=2")
    node.trigger_configure()
    assert node.last_error == "" and node.session is not None
    assert node.session.core.settings.resume_within_s == 2


def test_an_empty_list_is_refused_with_what_to_write():
    rclpy.init(args=["--ros-args", "-p", "stop_words:=[]"])
    node = rclpy.create_node("any")
    try:
        with pytest.raises(UserError, match=r'stop_words must not be an empty list; \[""\] means none'):
            declare(node, [ParameterSpec("stop_words", ["stop"], "")])
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def test_before_configure_everything_may_change_that_is_within_its_range():
    inside, outside = Parameter("stop_time_s", value=1), Parameter("stop_time_s", value=9)
    assert refusal(PARAMETERS, [inside], configured=False) == ""
    assert "must be a number in [0.01, 5]; got 9" in refusal(PARAMETERS, [outside], configured=False)
    assert "read at configure" in refusal(PARAMETERS, [inside], configured=True)


def test_the_executor_of_before_is_refused_with_what_to_use_instead(start):
    node = start("executor:=delay_aware")
    node.trigger_configure()
    assert node.last_error.startswith("parameter executor must be one of ")
    assert "got 'delay_aware'; use path_following" in node.last_error
