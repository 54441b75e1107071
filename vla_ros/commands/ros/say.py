# SPDX-License-Identifier: Apache-2.0
"""Send a language command to the running policy.

vla say "pick up the red block"
vla say ""                          stop
"""

from __future__ import annotations

import argparse

from vla_ros import topics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla say``."""
    parser.add_argument("text", help='what to do, for instance "open the drawer"; empty text means stop')
    parser.add_argument("--topic", default=topics.LANGUAGE_COMMAND, help="topic to publish on (default %(default)s)")
    parser.add_argument(
        "--patience", type=float, default=5.0, metavar="S", help="how long to look for listeners [s] (default 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``vla say``."""
    from vla_ros.nodes.clients.say import say

    listeners = say(args.text, args.topic, args.patience)
    print(f"said {args.text!r} to {listeners} listener{'s' if listeners > 1 else ''}")
    return 0
