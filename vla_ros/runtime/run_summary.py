# SPDX-License-Identifier: Apache-2.0
"""The summary of a run that the guard logs when it is deactivated."""

from __future__ import annotations

from collections.abc import Mapping

from vla_ros.runtime.safety.guard import Guard


def run_summary(guard: Guard, active_s: float) -> str:
    """Summarize the `active_s` seconds for which `guard` has ticked in several lines."""
    total, period_s = guard.ticks_total, guard.settings.period_ns / 1e9
    share = f" ({100 * guard.ticks_missed / total:.2f} %)" if total else ""
    return "\n".join(
        [
            f"active for {active_s:.1f} s, controlled by the policy for {total * period_s:.1f} s",
            f"ticks: {total}, missed {guard.ticks_missed}{share}, limited {guard.governor.ticks_limited}",
            f"plans: {guard.timeline.statistics().posted}, refused: {_counts(guard.plans_refused)}",
            f"plan age at the twist: {_plan_age(guard)}",
            f"stops: {_counts(guard.governor.stops)}",
        ]
    )


def _counts(counts: Mapping[str, int]) -> str:
    most_common = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count}" for name, count in most_common) or "none"


def _plan_age(guard: Guard) -> str:
    age_ms = guard.plan_age_ms.summary()
    if age_ms is None:
        return "none"
    shares = f"p50 {age_ms.p50:.1f} ms, p95 {age_ms.p95:.1f} ms, p99 {age_ms.p99:.1f} ms"
    return f"{shares}, worst {age_ms.maximum:.1f} ms"
