# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from vla_ros.nodes.policy.plan_display import PlanDisplay
from vla_ros.nodes.simulator.messages import time_message

HERE, PLAN = np.array([0.4, 0.0, 0.3, 0, 0, 0, 1.0]), np.tile([0.1, 0, 0, 0, 0, 0, 1.0], (3, 1))


class Node:
    """What of a node is used; `watchers` subscribe."""

    def __init__(self, watchers: int) -> None:
        self.published: list = []
        self.watchers = watchers

    def create_publisher(self, kind, topic, qos) -> SimpleNamespace:
        assert topic == "~/predicted_path"
        return SimpleNamespace(publish=self.published.append, get_subscription_count=lambda: self.watchers)

    def get_clock(self) -> SimpleNamespace:
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: time_message(5)))


def test_who_looks_sees_where_the_plan_leads_in_the_base_frame():
    node = Node(watchers=1)
    PlanDisplay(node, "base_link", 0.5).show(HERE, PLAN)
    (message,) = node.published
    assert message.header.frame_id == "base_link" and message.header.stamp.nanosec == 5
    assert [pose.position.x for pose in message.poses] == pytest.approx([0.4, 0.45, 0.5, 0.55])
    assert [pose.orientation.w for pose in message.poses] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(("pose", "plan"), [(None, PLAN), (HERE, None), (HERE * np.nan, PLAN), (HERE * 0, PLAN)])
def test_without_a_plan_or_a_pose_there_is_no_path_and_that_is_said(pose, plan):
    node = Node(watchers=1)
    PlanDisplay(node, "base_link", 0.5).show(pose, plan)
    assert [list(message.poses) for message in node.published] == [[]]


def test_without_subscribers_nothing_is_published():
    node = Node(watchers=0)
    PlanDisplay(node, "base_link", 0.5).show(HERE, PLAN)
    assert node.published == []
