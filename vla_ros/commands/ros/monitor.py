# SPDX-License-Identifier: Apache-2.0
"""Monitor a running policy in the terminal: state, rates, ages, latencies, and why it stopped.

vla monitor                         until Ctrl-C
vla monitor --once                  print the state once, after at most ten seconds, for scripts and bug reports
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace, warn_of_old

PERIOD_S = 0.2
ONCE_PERIODS = 50  # at most; discovery takes seconds on a busy machine
STATE_COLORS = {"waiting": "yellow", "stopping": "yellow", "disarmed": "cyan", "fault": "red"}  # others: green
LEVEL_COLORS = {"ok": "green", "warn": "yellow", "error": "red", "stale": "red"}
NODES = ("guard", "policy")
DETAILS = {
    "guard": ("detail", "ticks total", "ticks missed", "speed scale", "stops", "plans refused"),
    "policy": ("detail", "waiting commands", "inference p50 ms", "inference p95 ms", "ticks overrun by inference"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--node", help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help="print once and exit; status 1 if there was no message")
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from vla_ros.nodes.clients.monitor import listen

    namespace = find_namespace(args.namespace, args.ros_args)
    if args.node is not None:
        namespace = args.node.rpartition("/")[0].strip("/")
        warn_of_old("--node", f"--namespace {namespace}" if namespace else "no option: the nodes are in no namespace")
    view, console = View(namespace), Console()
    updates = listen(view.names, view.on_state, view.on_status, PERIOD_S, namespace, args.ros_args)
    with contextlib.closing(updates):  # type: ignore[type-var]  # it is a generator, typed as the iterator it yields
        if args.once:
            for _ in itertools.islice(updates, ONCE_PERIODS):
                if len(view.states) == len(NODES):
                    break
            console.print(view.render())
            return 0 if view.states else 1
        with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=sys.stdout.isatty()) as live:
            for _ in updates:
                live.update(view.render())
    return 0


class View:
    """Renders the latest messages of guard and policy as tables.

    Attributes:
        names: of the nodes that are watched.
        states: by node, message and values of its latest ~/state, and when it arrived.
    """

    def __init__(self, namespace: str) -> None:
        prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
        self.names = [f"{prefix}/{name}" for name in NODES]
        self.states: dict[str, tuple[str, Mapping[str, str], float]] = {}
        self._statuses: dict[str, tuple[str, str, Mapping[str, str]]] = {}

    def on_state(self, name: str, message: str, values: Mapping[str, str]) -> None:
        self.states[name] = message, values, time.monotonic()

    def on_status(self, name: str, level: str, message: str, values: Mapping[str, str]) -> None:
        owner, _, component = name.rpartition(": ")
        if owner in self.names and component not in NODES:  # these are in the states
            self._statuses[f"{owner.rpartition('/')[2]}: {component}"] = (level, message, values)

    def render(self) -> RenderableType:
        """Return the tables to print."""
        parts: list[RenderableType] = []
        for name in self.names:
            parts += self._node(name)
        return Group(*parts, self._diagnostics())

    def _node(self, name: str) -> list[RenderableType]:
        if name not in self.states:
            return [Text(f"no messages from {name}; is it running, with the same ROS_DOMAIN_ID?", "yellow")]
        message, values, received_s = self.states[name]
        color = STATE_COLORS.get(values.get("state", ""), "green")
        line = Text.assemble((f" {name.rpartition('/')[2].upper()} ", f"bold reverse {color}"))
        line.append(f"  {message.splitlines()[0] if message else ''}", "bold")
        if name.endswith("/guard"):
            line.append(f"  {values.get('command', '')!r}")
            for key, text in (("taken over", "manual takeover"), ("dry run", "DRY RUN")):
                if values.get(key) == "True":
                    line.append(f"  {text}", "bold magenta")
        if (age_s := time.monotonic() - received_s) > 3.0:
            line.append(f"  no message for {age_s:.0f} s", "bold red")
        table = Table.grid(padding=(0, 2))
        for key in DETAILS[name.rpartition("/")[2]]:
            if text := values.get(key, "").strip():
                table.add_row(key, Text(text.splitlines()[-1]))
        return [line, table]

    def _diagnostics(self) -> Table:
        table = Table("diagnostics", "", "values", box=None, pad_edge=False)
        for name, (level, message, values) in sorted(self._statuses.items()):
            line = ", ".join(f"{key} {value}" for key, value in values.items() if value)
            table.add_row(Text(name), Text(message, LEVEL_COLORS[level]), Text(line))
        return table
