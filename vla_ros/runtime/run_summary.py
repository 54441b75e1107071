# SPDX-License-Identifier: Apache-2.0
"""The summary of a run that the node logs when it is deactivated."""

from __future__ import annotations

from vla_ros.runtime.execution.control import ControlLoop
from vla_ros.runtime.stats import Summary


def run_summary(
    control: ControlLoop,
    inference_ms: Summary | None,
    overruns: int,
    active_s: float,
    camera_to_twist_ms: Summary | None,
) -> str:
    """Summarize the `active_s` seconds since activation in several lines.

    Args:
        overruns: Ticks overrun by inference.
        camera_to_twist_ms: From the oldest camera stamp in an observation to the twist that responds to it.
    """
    governor, timeline, total = control.governor, control.timeline.statistics(), control.ticks_total
    share = f" ({100 * control.ticks_missed / total:.2f} %)" if total else ""
    stops = ", ".join(f"{reason} {count}" for reason, count in governor.stops.most_common()) or "none"
    return "\n".join(
        [
            f"active for {active_s:.1f} s, controlled by the policy for {total * control.period_ns / 1e9:.1f} s",
            f"ticks: {total}, missed {control.ticks_missed}{share}, limited {governor.ticks_limited}",
            f"chunks: {timeline.posted}, expired {timeline.expired}; ticks overrun by inference: {overruns}",
            f"inference: {_milliseconds(inference_ms)}",
            f"plan age at the twist: {_milliseconds(control.plan_age_ms.summary())}",
            f"camera stamp to twist: {_milliseconds(camera_to_twist_ms)}",
            f"stops: {stops}",
        ]
    )


def _milliseconds(summary: Summary | None) -> str:
    if summary is None:
        return "none"
    shares = f"p50 {summary.p50:.1f} ms, p95 {summary.p95:.1f} ms, p99 {summary.p99:.1f} ms"
    return f"{shares}, worst {summary.maximum:.1f} ms"
