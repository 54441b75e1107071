# SPDX-License-Identifier: Apache-2.0
"""What the policy node reports: /diagnostics for monitors, and the JSON of ~/state for programs."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vla_ros.runtime.execution.control import ControlLoop
from vla_ros.runtime.planning.engine import EngineStatus
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.stats import StreamRate, Summary

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
# Reasons not to move that are no problem: the arm waits for an operator.
EXPECTED_REASONS = frozenset({"no_command", "planning", "disarmed", "disabled"})


def state_text(
    control: ControlLoop, engine: EngineStatus, detail: str = "", waiting: Sequence[str] = (), dry_run: bool = False
) -> str:
    """Return the JSON text of ~/state."""
    inference = engine.inference_ms
    state = {
        "state": control.governor.state.value,
        "reason": control.governor.reason,
        "detail": detail,
        "command": engine.command,
        "waiting_commands": [text[:80] for text in waiting],
        "dry_run": dry_run,
        "taken_over": control.taken_over,
        "speed_scale": control.governor.scale,
        "stops": dict(sorted(control.governor.stops.items())),
        "ticks": {"total": control.ticks_total, "missed": control.ticks_missed},
        "inference_ms": {
            name: round(getattr(inference, name), 3) if inference else None for name in ("p50", "p95", "p99")
        },
    }
    return json.dumps(state)


def idle_state_text(state: str, error: str) -> str:
    """Return the JSON text of ~/state while no policy runs; `error`: why the last transition failed, or empty."""
    latency, ticks = {"p50": None, "p95": None, "p99": None}, {"total": 0, "missed": 0}
    reason = "error" if error else None
    idle = {"state": state, "reason": reason, "detail": error, "command": "", "ticks": ticks, "inference_ms": latency}
    return json.dumps(idle)


def policy_status(
    control: ControlLoop, engine: EngineStatus, camera_to_twist_ms: Summary | None = None
) -> DiagnosticStatus:
    """Report state, latencies and counts; `camera_to_twist_ms`: from a camera's stamp to the twist that answers it."""
    governor, timeline, reason = control.governor, control.timeline.statistics(), control.governor.reason
    level = OK
    if governor.state is State.FAULT:
        level = ERROR
    elif reason is not None and reason not in EXPECTED_REASONS:
        level = WARN
    values: dict[str, Any] = {
        "state": governor.state.value,
        "reason": reason or "",
        "detail": engine.detail,
        "command": engine.command,
        **_percentiles("inference", engine.inference_ms, ("p50", "p95", "p99"), digits=2),
        **_percentiles("plan age", control.plan_age_ms.summary(), ("p50", "p99")),
        **_percentiles("camera to twist", camera_to_twist_ms, ("p50", "p95", "p99")),
        "ticks total": control.ticks_total,
        "ticks missed": control.ticks_missed,
        "ticks starved": timeline.starved,
        "ticks overrun by inference": engine.overruns,
        "ticks per chunk": "" if engine.ticks_per_chunk is None else engine.ticks_per_chunk,
        "ticks limited": governor.ticks_limited,
        "speed scale": governor.scale,
        "chunks posted": timeline.posted,
        "chunks expired": timeline.expired,
        "memory MB": f"{memory_mb():.0f}",
        **{f"stops: {name}": count for name, count in sorted(governor.stops.items())},
    }
    message = governor.state.value if reason is None else f"{governor.state.value}: {reason}"
    return status("policy", level, message, values)


def _percentiles(name: str, summary: Summary | None, which: Sequence[str], digits: int = 1) -> dict[str, str]:
    return {f"{name} {each} ms": f"{getattr(summary, each):.{digits}f}" if summary else "" for each in which}


def memory_mb() -> float:
    """Return the resident memory of this process (Linux) in 10^6 bytes."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() / 1e6


def stream_status(
    name: str, rate: StreamRate, now_ns: int, max_age_s: float, incompatible_qos: int = 0
) -> DiagnosticStatus:
    """Report rate, age and losses of a stream by its stamps; `incompatible_qos`: publishers that cannot reach us."""
    age_s = None if rate.newest_ns is None else (now_ns - rate.newest_ns) / 1e9
    level, message = OK, "receiving"
    if age_s is None:
        level, message = ERROR, "nothing received"
    elif age_s > max_age_s:
        level, message = ERROR, f"silent for {age_s:.2f} s"
    if incompatible_qos and level != OK:
        message += "; QoS mismatch with a publisher"
    values = {
        "rate Hz": f"{rate.rate_hz:.1f}" if rate.rate_hz else "",
        "age s": "" if age_s is None else f"{age_s:.3f}",
        "received": rate.received,
        "lost by stamps": rate.lost,
        "incompatible QoS": incompatible_qos,
    }
    return status(f"stream {name}", level, message, values)


def skew_status(rates: Mapping[str, StreamRate], cameras: Iterable[str], max_skew_s: float) -> DiagnosticStatus:
    """Report how far apart the cameras' newest images are."""
    stamps_ns = [stamp_ns for camera in cameras if (stamp_ns := rates[camera].newest_ns) is not None]
    skew_s = (max(stamps_ns) - min(stamps_ns)) / 1e9 if stamps_ns else 0.0
    values = {"skew s": f"{skew_s:.3f}", "max_skew_s": max_skew_s}
    if skew_s > max_skew_s:
        return status("camera skew", ERROR, f"the cameras are {skew_s:.3f} s apart", values)
    return status("camera skew", OK, "in sync", values)


def outputs_status(values: Mapping[str, str], problem: str | None) -> DiagnosticStatus:
    """Report on what executes the commands; `problem`: why it does not, or not as commanded."""
    return status("outputs", OK if problem is None else WARN, problem or "ready", values)


def inputs_status(mismatches: Sequence[str]) -> DiagnosticStatus:
    """Report operator inputs; `mismatches`: topics with a publisher whose messages cannot arrive."""
    if not mismatches:
        return status("operator inputs", OK, "no QoS mismatch", {})
    message = f"QoS mismatch on {', '.join(mismatches)}: the publisher must be RELIABLE"
    return status("operator inputs", ERROR, message, {})


def transport_status(missing: Sequence[str]) -> DiagnosticStatus:
    """Report whether this process was started with the settings for large images; `missing`: see `transport`."""
    if not missing:
        return status("transport", OK, "settings for images are in place", {})
    message = "raw images may get lost: start this process and the camera's with the settings below"
    return status("transport", WARN, message, {f"set {n}": line for n, line in enumerate(missing, 1)})


def status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
