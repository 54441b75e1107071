# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.runtime.execution.timeline import predicted_path

HERE = np.array([0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0])


def test_a_path_leads_where_the_twists_of_the_plan_lead_and_turns_as_they_turn():
    plan = np.array([[0.1, 0, 0, 0, 0, 0, 1], [0, -0.2, 0, 0, 0, np.pi, 1], [0, 0, 0.3, 0, 0, 0, 1]])
    path = predicted_path(HERE, plan, 0.5)
    positions = [[0.4, 0.1, 0.2], [0.45, 0.1, 0.2], [0.45, 0.0, 0.2], [0.45, 0.0, 0.35]]
    assert path[:, :3] == pytest.approx(np.array(positions))
    half = np.sqrt(0.5)
    assert path[:, 3:] == pytest.approx(np.array([[0, 0, 0, 1]] * 2 + [[0, 0, half, half]] * 2))


def test_a_plan_without_actions_is_a_path_of_where_the_tool_is():
    assert predicted_path(HERE, np.zeros((0, 7)), 0.1).tolist() == [HERE.tolist()]
