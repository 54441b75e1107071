# SPDX-License-Identifier: Apache-2.0
"""How the policy node ends if it cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest
from policy_bench import TIMEOUT_S, policy_node, write_checkpoint, write_robot

from vla_ros.nodes.policy import node as policy_node_module

pytestmark = pytest.mark.ros


def test_a_misspelt_parameter_ends_the_node_with_a_line_that_names_it(ros_environment, tmp_path):
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with policy_node(*files, ros_environment, on_new_comand="replace") as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "policy has no parameter on_new_comand; its parameters are " in process.output
    assert "on_new_command," in process.output and "Traceback" not in process.output


def test_a_checkpoint_without_weights_ends_the_node_with_a_line_that_names_the_file(ros_environment, tmp_path):
    node = Path(policy_node_module.__file__)
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, script=node) as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "model.safetensors" in process.output and "Traceback" not in process.output
