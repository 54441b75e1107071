# SPDX-License-Identifier: Apache-2.0
"""What `ros2 bag play` does with the options that the launch file gives it, for machines without rosbag2."""

from __future__ import annotations

import argparse
import sys
import time

import rclpy
import yaml
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.nodes.common.qos import message_class
from vla_ros.nodes.simulator.messages import time_message


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("ros2")
    parser.add_argument("bag", choices=["bag"])
    parser.add_argument("play", choices=["play"])
    parser.add_argument("bag_path")
    parser.add_argument("--disable-keyboard-controls", action="store_true")
    parser.add_argument("--qos-profile-overrides-path", type=argparse.FileType("r"))
    parser.add_argument("--clock", type=float, nargs="?", const=40.0, default=0.0)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--topics", nargs="+", default=[])
    parser.add_argument("--remap", nargs="+", default=[])
    return parser.parse_args(arguments)


def qos_profile(policies: dict) -> QoSProfile:
    return QoSProfile(
        depth=policies["depth"],
        history=HistoryPolicy.get_from_short_key(policies["history"]),
        reliability=ReliabilityPolicy.get_from_short_key(policies["reliability"]),
        durability=DurabilityPolicy.get_from_short_key(policies["durability"]),
    )


def play(args: argparse.Namespace) -> None:
    """Publish the bag's messages at the pace at which they were received."""
    rclpy.init(args=["--ros-args", *(part for rule in args.remap for part in ("--remap", rule))])
    node = rclpy.create_node("rosbag2_player")
    overrides = yaml.safe_load(args.qos_profile_overrides_path)
    clock = node.create_publisher(Clock, "/clock", 10)
    with open_bag(args.bag_path) as bag:
        publishers = {
            name: node.create_publisher(message_class(bag.topics[name].type), name, qos_profile(overrides[name]))
            for name in args.topics
        }
        while True:
            started_s, now_ns = time.monotonic(), bag.start_ns
            for topic, receive_ns, data in bag.serialized():
                while now_ns < receive_ns:
                    step_ns = min(receive_ns, now_ns + round(1e9 / args.clock)) if args.clock else receive_ns
                    time.sleep(max(0.0, started_s + (step_ns - bag.start_ns) / 1e9 - time.monotonic()))
                    now_ns = step_ns
                    if args.clock:
                        clock.publish(Clock(clock=time_message(now_ns)))
                if topic.name in publishers:
                    publishers[topic.name].publish(bytes(data))
            if not args.loop:
                break
    rclpy.shutdown()


if __name__ == "__main__":
    play(parse(sys.argv[1:]))
