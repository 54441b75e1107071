# SPDX-License-Identifier: Apache-2.0
"""What the policy node tells about itself: /diagnostics for monitors, and the JSON of ~/state for programs."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vla_ros.runtime.execution.control import ControlLoop
from vla_ros.runtime.planning.commitment import Delay
from vla_ros.runtime.planning.engine import EngineStatus
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.stats import StreamRate, Summary

# Reasons for not moving that are no trouble: somebody has to say something first.
AT_EASE = frozenset({"no_command", "planning", "disarmed", "disabled"})


def state_text(
    control: ControlLoop, engine: EngineStatus, detail: str = "", waiting: Sequence[str] = (), dry_run: bool = False
) -> str:
    """The JSON text of ~/state."""
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
            "p50": round(inference.p50, 3) if inference else None,
            "p95": round(inference.p95, 3) if inference else None,
            "p99": round(inference.p99, 3) if inference else None,
        },
    }
    return json.dumps(state)


def idle_state_text(state: str, error: str) -> str:
    """The JSON text of ~/state while there is no policy running; `error`: why the last transition failed, or empty."""
    latency, ticks = {"p50": None, "p95": None, "p99": None}, {"total": 0, "missed": 0}
    reason = "error" if error else None
    idle = {"state": state, "reason": reason, "detail": error, "command": "", "ticks": ticks, "inference_ms": latency}
    return json.dumps(idle)


def policy_status(
    control: ControlLoop, engine: EngineStatus, camera_to_twist_ms: Summary | None = None
) -> DiagnosticStatus:
    """State, latencies and counts; `camera_to_twist_ms`: from a camera's stamp to the twist that answers it."""
    governor, timeline, inference = control.governor, control.timeline.statistics(), engine.inference_ms
    level, reason, age = DiagnosticStatus.OK, governor.reason, control.plan_age_ms.summary()
    if governor.state is State.FAULT:
        level = DiagnosticStatus.ERROR
    elif (reason is not None and reason not in AT_EASE) or _clamped(engine.delay):
        level = DiagnosticStatus.WARN
    values: dict[str, Any] = {
        "state": governor.state.value,
        "reason": reason or "",
        "detail": engine.detail,
        "command": engine.command,
        "inference p50 ms": f"{inference.p50:.2f}" if inference else "",
        "inference p95 ms": f"{inference.p95:.2f}" if inference else "",
        "inference p99 ms": f"{inference.p99:.2f}" if inference else "",
        "plan age p50 ms": f"{age.p50:.1f}" if age else "",
        "plan age p99 ms": f"{age.p99:.1f}" if age else "",
        "camera to twist p50 ms": f"{camera_to_twist_ms.p50:.1f}" if camera_to_twist_ms else "",
        "camera to twist p95 ms": f"{camera_to_twist_ms.p95:.1f}" if camera_to_twist_ms else "",
        "camera to twist p99 ms": f"{camera_to_twist_ms.p99:.1f}" if camera_to_twist_ms else "",
        "ticks total": control.ticks_total,
        "ticks missed": control.ticks_missed,
        "ticks starved": timeline.starved,
        "ticks overrun by inference": engine.overruns,
        **_delay_values(engine.delay),
        "ticks limited": governor.ticks_limited,
        "speed scale": governor.scale,
        "chunks posted": timeline.posted,
        "chunks too late": timeline.late,
        "memory MB": f"{memory_mb():.0f}",
        **{f"stops: {name}": count for name, count in sorted(governor.stops.items())},
    }
    message = governor.state.value if reason is None else f"{governor.state.value}: {reason}"
    return status("policy", level, message + _clamped(engine.delay), values)


def _clamped(delay: Delay | None) -> str:
    """What to say where chunks take longer than the policy can be told of."""
    if delay is None or not delay.clamped:
        return ""
    return (
        f"; chunks take up to {delay.ticks} ticks, the policy can be told of {delay.allowed} (max_delay_steps): it may "
        "jerk at a new chunk; train with more, or make inference faster"
    )


def _delay_values(delay: Delay | None) -> dict[str, Any]:
    if delay is None:
        return {}
    told = {"actions told": delay.told, "chunks later than told": delay.overdue} if delay.allowed else {}
    return {"ticks a chunk takes": delay.ticks, **told}


def memory_mb() -> float:
    """The memory that this process occupies (Linux), in 10^6 bytes."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() / 1e6


def stream_status(
    name: str, rate: StreamRate, now_ns: int, max_age_s: float, incompatible_qos: int = 0
) -> DiagnosticStatus:
    """Rate, age and losses of one stream, by its stamps; publishers whose QoS keeps their messages from arriving."""
    age_s = None if rate.newest_ns is None else (now_ns - rate.newest_ns) / 1e9
    level, message = DiagnosticStatus.OK, "arriving"
    if age_s is None:
        level, message = DiagnosticStatus.ERROR, "nothing has arrived"
    elif age_s > max_age_s:
        level, message = DiagnosticStatus.ERROR, f"silent for {age_s:.2f} s"
    if incompatible_qos and level != DiagnosticStatus.OK:
        message += "; a publisher's QoS is incompatible"
    values = {
        "rate Hz": f"{rate.rate_hz:.1f}" if rate.rate_hz else "",
        "age s": "" if age_s is None else f"{age_s:.3f}",
        "received": rate.received,
        "lost by stamps": rate.lost,
        "incompatible QoS": incompatible_qos,
    }
    return status(f"stream {name}", level, message, values)


def skew_status(rates: Mapping[str, StreamRate], cameras: Iterable[str], max_skew_s: float) -> DiagnosticStatus:
    """How far the cameras' newest pictures are apart."""
    stamps_ns = [stamp_ns for camera in cameras if (stamp_ns := rates[camera].newest_ns) is not None]
    skew_s = (max(stamps_ns) - min(stamps_ns)) / 1e9 if stamps_ns else 0.0
    values = {"skew s": f"{skew_s:.3f}", "max_skew_s": max_skew_s}
    if skew_s > max_skew_s:
        return status("camera skew", DiagnosticStatus.ERROR, f"the cameras are {skew_s:.3f} s apart", values)
    return status("camera skew", DiagnosticStatus.OK, "together", values)


def sinks_status(sinks: Mapping[str, str], reason: str | None) -> DiagnosticStatus:
    """What carries the commands out, and the `reason` why it does not, or not as it was told."""
    level = DiagnosticStatus.OK if reason is None else DiagnosticStatus.WARN
    return status("sinks", level, reason or "ready", sinks)


def inputs_status(unheard: Sequence[str]) -> DiagnosticStatus:
    """Whether what people say can be heard; `unheard`: the topics that have a publisher whose QoS does not arrive."""
    if not unheard:
        return status("operator inputs", DiagnosticStatus.OK, "heard", {})
    message = f"unheard, publish reliably: {', '.join(unheard)}"
    return status("operator inputs", DiagnosticStatus.ERROR, message, {})


def transport_status(missing: Sequence[str]) -> DiagnosticStatus:
    """Whether this process was started with the settings that large images need: those of `transport.missing`."""
    if not missing:
        return status("transport", DiagnosticStatus.OK, "settings for images are in place", {})
    message = "raw images may be lost: start this and the camera's process with the settings below"
    return status("transport", DiagnosticStatus.WARN, message, {f"set {n}": line for n, line in enumerate(missing, 1)})


def status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
