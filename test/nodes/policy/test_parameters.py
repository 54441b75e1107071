# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import yaml

from vla_ros import resources
from vla_ros.nodes.guard import parameters as guard
from vla_ros.nodes.policy import parameters as policy

EXAMPLE = yaml.safe_load(resources.path("config/policy.yaml").read_text())


@pytest.mark.parametrize(("node", "specs"), [("policy", policy.PARAMETERS), ("guard", guard.PARAMETERS)])
def test_the_example_file_has_every_parameter_and_changes_nothing(node, specs):
    written = EXAMPLE[f"/**/{node}"]["ros__parameters"]
    assert written == {spec.name: spec.default for spec in specs}
    assert {name: type(value) for name, value in written.items()} == {spec.name: type(spec.default) for spec in specs}


def test_nothing_that_both_nodes_read_differs():
    defaults = [{spec.name: spec.default for spec in specs} for specs in (policy.PARAMETERS, guard.PARAMETERS)]
    assert all(defaults[0][name] == defaults[1][name] for name in defaults[0].keys() & defaults[1].keys())
