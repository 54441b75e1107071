# SPDX-License-Identifier: Apache-2.0
"""Send a language command to the running policy.

vla say "pick up the red block"
vla say ""                          stop
vla say "stop" --namespace left     to the policy in a namespace
"""

from __future__ import annotations

import argparse

from vla_ros import topics
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace, warn_of_old


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("text", help='language command, e.g. "open the drawer"; an empty one stops the arm')
    add("--topic", help=argparse.SUPPRESS)
    add(
        "--patience", type=float, default=5.0, metavar="S", help="seconds to wait for subscribers (default %(default)g)"
    )
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from vla_ros.nodes.clients.say import say

    topic = topics.LANGUAGE_COMMAND
    if args.topic is not None:
        warn_of_old("--topic", f"--namespace NAME, or --ros-args -r {topic}:={args.topic}")
        topic = args.topic
    namespace = find_namespace(args.namespace, args.ros_args)
    subscribers = say(args.text, topic, args.patience, namespace, args.ros_args)
    print(f"sent {args.text!r} to {subscribers} subscriber{'s' if subscribers > 1 else ''}")
    return 0
