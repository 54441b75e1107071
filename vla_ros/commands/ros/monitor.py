# SPDX-License-Identifier: Apache-2.0
"""Monitor a running policy in the terminal: state, rates, ages, latencies, and why it stopped.

vla monitor                         until Ctrl-C
vla monitor --once                  print the state once after two seconds, for scripts and bug reports
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

PERIOD_S = 0.2
ONCE_S = 2.0
STATE_COLORS = {"running": "green", "waiting": "yellow", "stopping": "yellow", "disarmed": "cyan", "fault": "red"}
LEVEL_COLORS = {"ok": "green", "warn": "yellow", "error": "red", "stale": "red"}
POLICY_VALUES = ("plan age p50 ms", "camera to twist p50 ms", "camera to twist p99 ms", "memory MB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node", default="policy", metavar="NAME", help="name of the policy node (default %(default)s)"
    )
    parser.add_argument("--once", action="store_true", help="print once and exit; status 1 if there was no message")


def run(args: argparse.Namespace) -> int:
    from vla_ros.nodes.clients.monitor import listen

    view, console = View(args.node), Console()
    updates = listen(args.node, view.on_state, view.on_status, ONCE_S if args.once else PERIOD_S)
    with contextlib.closing(updates):  # type: ignore[type-var]  # it is a generator, typed as the iterator it yields
        if args.once:
            next(updates)
            console.print(view.render())
            return 0 if view.state else 1
        with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=sys.stdout.isatty()) as live:
            for _ in updates:
                live.update(view.render())
    return 0


class View:
    """Renders the latest messages as tables.

    Attributes:
        state: the JSON of ~/state; empty before the first message.
    """

    def __init__(self, node: str) -> None:
        self.state: dict[str, Any] = {}
        self._node = node
        self._received_s = 0.0
        self._statuses: dict[str, tuple[str, str, Mapping[str, str]]] = {}

    def on_state(self, state: dict[str, Any]) -> None:
        self.state, self._received_s = state, time.monotonic()

    def on_status(self, name: str, level: str, message: str, values: Mapping[str, str]) -> None:
        owner, _, component = name.rpartition(": ")
        if owner.lstrip("/") == self._node.lstrip("/"):
            self._statuses[component] = (level, message, values)

    def render(self) -> RenderableType:
        """Return the tables to print."""
        if not self.state:
            return Text(f"no messages from {self._node}; is it running, with the same ROS_DOMAIN_ID?", "yellow")
        return Group(self._headline(), self._details(), self._diagnostics())

    def _headline(self) -> Text:
        state = self.state
        color = STATE_COLORS.get(state["state"], "white")
        line = Text.assemble((f" {state['state'].upper()} ", f"bold reverse {color}"))
        line.append(f"  {state['reason'] or ''}  ", "bold")
        line.append(repr(state["command"]))
        if state.get("taken_over"):
            line.append("  manual takeover", "bold magenta")
        if state.get("dry_run"):
            line.append("  DRY RUN", "bold magenta")
        if (age_s := time.monotonic() - self._received_s) > 3.0:
            line.append(f"  no message for {age_s:.0f} s", "bold red")
        return line

    def _details(self) -> Table:
        state, table = self.state, Table.grid(padding=(0, 2))
        latency = state["inference_ms"]
        rows = {
            "detail": state["detail"].strip().splitlines()[-1] if state["detail"].strip() else "",
            "waiting": ", ".join(state.get("waiting_commands", [])),
            "ticks": f"{state['ticks']['total']}, missed {state['ticks']['missed']}",
            "inference": ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items() if value is not None),
            "speed scale": f"{state.get('speed_scale', 1.0):g}",
            "stops": ", ".join(f"{reason} {count}" for reason, count in state.get("stops", {}).items()) or "none",
        }
        for name, value in rows.items():
            if value:
                table.add_row(name, Text(value))
        return table

    def _diagnostics(self) -> Table:
        table = Table("diagnostics", "", "values", box=None, pad_edge=False)
        for name, (level, message, values) in self._statuses.items():
            if name == "policy":  # the rest of it is in the state
                values = {key: value for key, value in values.items() if key in POLICY_VALUES}
            line = ", ".join(f"{key} {value}" for key, value in values.items() if value)
            table.add_row(Text(name), Text(message, LEVEL_COLORS[level]), Text(line))
        return table
