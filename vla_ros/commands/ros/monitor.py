# SPDX-License-Identifier: Apache-2.0
"""Watch a running policy in the terminal: its state, rates and ages, latencies, and what has stopped it.

vla monitor                         until Ctrl-C
vla monitor --once                  print what is known after two seconds, for scripts and bug reports
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

PERIOD_S = 0.2
ONCE_S = 2.0
COLOURS = {"running": "green", "waiting": "yellow", "stopping": "yellow", "disarmed": "cyan", "fault": "red"}
LEVELS = {"ok": "green", "warn": "yellow", "error": "red", "stale": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla monitor``."""
    parser.add_argument("--node", default="policy", help="name of the policy node (default %(default)s)")
    parser.add_argument("--once", action="store_true", help="print once and end; status 1 when nothing was heard")


def run(args: argparse.Namespace) -> int:
    """Run ``vla monitor``."""
    from rich.console import Console
    from rich.live import Live

    from vla_ros.nodes.clients.monitor import listen

    view, console = View(args.node), Console()
    heard = listen(args.node, view.on_state, view.on_status, ONCE_S if args.once else PERIOD_S)
    with contextlib.closing(heard):  # type: ignore[type-var]
        if args.once:
            next(heard)
            console.print(view.render())
            return 0 if view.state else 1
        with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=sys.stdout.isatty()) as live:
            for _ in heard:
                live.update(view.render())
    return 0


class View:
    """The newest of what was heard, as a table. `state` is the JSON of ~/state, empty before the first."""

    def __init__(self, node: str) -> None:
        self.state: dict[str, Any] = {}
        self._node = node
        self._heard_s = 0.0
        self._statuses: dict[str, tuple[str, str, Mapping[str, str]]] = {}

    def on_state(self, state: dict[str, Any]) -> None:
        self.state, self._heard_s = state, time.monotonic()

    def on_status(self, name: str, level: str, message: str, values: Mapping[str, str]) -> None:
        owner, _, what = name.rpartition(": ")
        if owner.lstrip("/") == self._node.lstrip("/"):
            self._statuses[what] = (level, message, values)

    def render(self) -> RenderableType:
        """What to show."""
        from rich.console import Group
        from rich.text import Text

        if not self.state:
            return Text(f"nothing heard from {self._node}: is it running, with the same ROS_DOMAIN_ID?", "yellow")
        return Group(self._headline(), self._details(), self._reports())

    def _headline(self) -> RenderableType:
        from rich.text import Text

        state = self.state
        line = Text.assemble((f" {state['state'].upper()} ", f"bold reverse {COLOURS.get(state['state'], 'white')}"))
        line.append(f"  {state['reason'] or ''}  ", "bold")
        line.append(repr(state["command"]))
        if state.get("taken_over"):
            line.append("  taken over by hand", "bold magenta")
        if state.get("dry_run"):
            line.append("  DRY RUN", "bold magenta")
        if (age_s := time.monotonic() - self._heard_s) > 3.0:
            line.append(f"  nothing heard for {age_s:.0f} s", "bold red")
        return line

    def _details(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

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

    def _reports(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table("report", "", "values", box=None, pad_edge=False)
        for name, (level, message, values) in self._statuses.items():
            if name == "policy":  # the state has shown most of it
                shown = ("plan age p50 ms", "camera to twist p50 ms", "camera to twist p99 ms", "memory MB")
                values = {key: value for key, value in values.items() if key in shown}
            line = ", ".join(f"{key} {value}" for key, value in values.items() if value)
            table.add_row(Text(name), Text(message, LEVELS[level]), Text(line))
        return table
