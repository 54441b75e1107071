# SPDX-License-Identifier: Apache-2.0
"""Send a language command to the running policy.

vla say "pick up the red block"
vla say ""                          stop
"""

from __future__ import annotations

import argparse

from vla_ros import topics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("text", help='language command, e.g. "open the drawer"; an empty one stops the arm')
    add("--topic", default=topics.LANGUAGE_COMMAND, help="topic to publish on (default %(default)s)")
    add(
        "--patience", type=float, default=5.0, metavar="S", help="seconds to wait for subscribers (default %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    from vla_ros.nodes.clients.say import say

    subscribers = say(args.text, args.topic, args.patience)
    print(f"sent {args.text!r} to {subscribers} subscriber{'s' if subscribers > 1 else ''}")
    return 0
