# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect

import yaml

from vla_ros import resources
from vla_ros.nodes.policy.parameters import PARAMETERS
from vla_ros.runtime.execution.control import GripperSwitch

DEFAULTS = {spec.name: spec.default for spec in PARAMETERS}


def test_the_node_switches_the_gripper_as_the_evaluation_does():
    evaluated = inspect.signature(GripperSwitch).parameters
    for name in ("close_below", "open_above", "debounce_ticks"):
        assert DEFAULTS[f"gripper_{name}"] == evaluated[name].default


def test_the_example_file_changes_nothing_but_what_it_must_name():
    written = next(iter(yaml.safe_load(resources.path("config/policy.yaml").read_text()).values()))["ros__parameters"]
    changed = {name for name, value in written.items() if DEFAULTS[name] != value}
    assert changed <= {"checkpoint", "robot"}
