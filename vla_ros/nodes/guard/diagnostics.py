# SPDX-License-Identifier: Apache-2.0
"""What the guard reports on ~/state and /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from vla_ros.nodes.common.diagnostics import ERROR, OK, WARN, memory_mb, percentiles, status
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.safety.guard import IDLE, Guard

COMMAND_CHARACTERS = 200


def state_status(core: Guard, *, dry_run: bool, stuck: str = "") -> DiagnosticStatus:
    """Report what the arm does, and why it does not move if it does not; `stuck`: why no ticks come, or empty."""
    governor = core.governor
    values = {
        "state": governor.state.value,
        "reason": stuck.partition(": ")[0] or governor.reason or "",
        "detail": stuck.partition(": ")[2] or core.detail,
        "command": core.status.command[:COMMAND_CHARACTERS],
        "armed": governor.armed,
        "taken over": core.taken_over,
        "dry run": dry_run,
        "speed scale": f"{governor.scale:g}",
        "ticks total": core.ticks_total,
        "ticks missed": core.ticks_missed,
        "ticks limited": governor.ticks_limited,
        "outputs": ": ".join(core.output or ()),
        "stops": _counts(governor.stops),
        "plans refused": _counts(core.plans_refused),
    }
    level = OK
    if governor.state is State.FAULT:
        level = ERROR
    elif stuck or (governor.reason is not None and governor.reason not in IDLE):
        level = WARN
    return _state("guard", level, values)


def idle_status(state: str, error: str) -> DiagnosticStatus:
    """Report that the guard does not tick; `error`: why the last transition failed, or empty."""
    values = {"state": state, "reason": "error" if error else "", "detail": error}
    return _state("guard", ERROR if error else OK, values)


def guard_status(core: Guard, *, dry_run: bool, stuck: str = "") -> DiagnosticStatus:
    """Report the state with latencies and counts."""
    timeline = core.timeline.statistics()
    message = state_status(core, dry_run=dry_run, stuck=stuck)
    figures: dict[str, Any] = {
        **percentiles("plan age", core.plan_age_ms.summary(), ("p50", "p95", "p99")),
        "ticks starved": timeline.starved,
        "chunks posted": timeline.posted,
        "chunks expired": timeline.expired,
        "memory MB": f"{memory_mb():.0f}",
        **{f"stops: {name}": count for name, count in sorted(core.governor.stops.items())},
    }
    message.values = [*message.values, *status("", OK, "", figures).values]
    return message


def outputs_status(values: Mapping[str, str], problem: str | None) -> DiagnosticStatus:
    """Report on what executes the commands; `problem`: why it does not, or not as commanded."""
    return status("outputs", OK if problem is None else WARN, problem or "ready", values)


def inputs_status(buttons: Mapping[str, str], problems: Sequence[str]) -> DiagnosticStatus:
    """Report operator inputs.

    Args:
        buttons: what each emergency stop says.
        problems: publishers whose messages cannot arrive, and why.
    """
    return status("operator inputs", ERROR if problems else OK, "; ".join(problems) or "can be heard", buttons)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _state(name: str, level: bytes, values: Mapping[str, Any]) -> DiagnosticStatus:
    parts = dict.fromkeys(str(values[key]) for key in ("state", "reason", "detail"))  # each once: "disarmed" is both
    return status(name, level, ": ".join(part for part in parts if part), values)
