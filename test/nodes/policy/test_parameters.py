# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect

import pytest
import yaml

from vla_ros import resources
from vla_ros.nodes.guard import parameters as guard_parameters
from vla_ros.nodes.policy import parameters as policy_parameters
from vla_ros.runtime.execution.control import GripperSwitch

DEFAULTS = {
    node: {spec.name: spec.default for spec in module.PARAMETERS}
    for node, module in (("policy", policy_parameters), ("guard", guard_parameters))
}


def test_the_node_switches_the_gripper_as_the_evaluation_does():
    evaluated = inspect.signature(GripperSwitch).parameters
    for name in ("close_below", "open_above", "debounce_ticks"):
        assert DEFAULTS["guard"][f"gripper_{name}"] == evaluated[name].default


@pytest.mark.parametrize("node", ["policy", "guard"])
def test_the_example_file_changes_nothing_but_what_it_must_name(node: str):
    written = yaml.safe_load(resources.path("config/policy.yaml").read_text())[f"/**/{node}"]["ros__parameters"]
    assert set(written) == set(DEFAULTS[node])
    changed = {name for name, value in written.items() if DEFAULTS[node][name] != value}
    assert changed <= {"checkpoint", "robot"}
