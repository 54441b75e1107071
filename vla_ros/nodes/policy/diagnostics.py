# SPDX-License-Identifier: Apache-2.0
"""What the policy node reports on ~/state and /diagnostics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from vla_ros.nodes.common.diagnostics import ERROR, OK, WARN, memory_mb, percentiles, status
from vla_ros.nodes.policy.cv_bridge_probe import Verdict
from vla_ros.nodes.policy.image_decoding import Layout
from vla_ros.observations.observation import Undecodable
from vla_ros.runtime.planning.engine import EngineStatus
from vla_ros.runtime.safety.governor import FAULTS
from vla_ros.runtime.stats import StreamRate, Summary

# Reasons not to move that are no problem: the arm waits for an operator.
EXPECTED_REASONS = frozenset({"no_command", "latched_command", "planning"})
COMMAND_CHARACTERS = 200
MAX_LOST_SHARE = 0.05


def policy_status(
    engine: EngineStatus, plans: int, waiting: Sequence[str] = (), camera_to_plan_ms: Summary | None = None
) -> DiagnosticStatus:
    """Report what the policy follows, why it has no plan, and how long inference takes.

    Args:
        plans: published so far.
        waiting: commands that will be followed next.
        camera_to_plan_ms: from a camera's stamp to the plan that answers it.
    """
    level = OK
    if engine.reason in FAULTS:
        level = ERROR
    elif engine.reason is not None and engine.reason not in EXPECTED_REASONS:
        level = WARN
    values: dict[str, Any] = {
        "state": "active",
        "reason": engine.reason or "",
        "detail": engine.detail,
        "command": engine.command[:COMMAND_CHARACTERS],
        "waiting commands": ", ".join(text[:80] for text in waiting),
        **percentiles("inference", engine.inference_ms, ("p50", "p95", "p99"), digits=2),
        **percentiles("camera to plan", camera_to_plan_ms, ("p50", "p95", "p99")),
        "ticks overrun by inference": engine.overruns,
        "ticks per chunk": "" if engine.ticks_per_chunk is None else engine.ticks_per_chunk,
        "plans": plans,
        "memory MB": f"{memory_mb():.0f}",
    }
    message = f"planning: {engine.command[:COMMAND_CHARACTERS]!r}" if engine.reason is None else engine.reason
    if engine.reason is not None and engine.detail:
        message += f": {engine.detail.strip().splitlines()[-1]}"
    return status("policy", level, message, values)


def idle_status(state: str, error: str) -> DiagnosticStatus:
    """Report that no policy runs; `error`: why the last transition failed, or empty."""
    values = {"state": state, "reason": "error" if error else "", "detail": error, "command": ""}
    return status("policy", ERROR if error else OK, f"{state}: {error}" if error else state, values)


def stream_status(
    name: str,
    rate: StreamRate,
    now_ns: int,
    max_age_s: float,
    incompatible_qos: int = 0,
    undecodable: Undecodable | None = None,
) -> DiagnosticStatus:
    """Report rate, age and losses of a stream by its stamps, and images that can't be decoded.

    Args:
        incompatible_qos: publishers that cannot reach us.
        undecodable: of a camera, if an image ever was.
    """
    age_s = None if rate.newest_ns is None else (now_ns - rate.newest_ns) / 1e9
    level, message = OK, "receiving"
    if age_s is None:
        level, message = ERROR, "nothing received"
    elif age_s > max_age_s:
        level, message = ERROR, f"silent for {age_s:.2f} s"
    elif undecodable is not None and undecodable.why:
        level, message = ERROR, f"can't be decoded, at {undecodable.ticks} ticks so far: {undecodable.why}"
    elif rate.lost > MAX_LOST_SHARE * (rate.received + rate.lost):
        level, message = WARN, f"{rate.lost / (rate.received + rate.lost):.0%} of the messages are lost"
    if incompatible_qos and level != OK:
        message += "; QoS mismatch with a publisher"
    values = {
        "rate Hz": f"{rate.rate_hz:.1f}" if rate.rate_hz else "",
        "age s": "" if age_s is None else f"{age_s:.3f}",
        "received": rate.received,
        "lost by stamps": rate.lost,
        "incompatible QoS": incompatible_qos,
        "undecodable at ticks": 0 if undecodable is None else undecodable.ticks,
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


def transport_status(missing: Sequence[str]) -> DiagnosticStatus:
    """Report whether this process was started with the settings for large images; `missing`: see `transport`."""
    if not missing:
        return status("transport", OK, "settings for images are in place", {})
    message = "raw images may get lost: start this process and the camera's with the settings below"
    return status("transport", WARN, message, {f"set {n}": line for n, line in enumerate(missing, 1)})


def decoder_status(verdict: Verdict, rejected: Mapping[Layout, str]) -> DiagnosticStatus:
    """Report what decodes raw images, and why; `rejected`: why not cv_bridge, by layout."""
    layouts = {f"{encoding}, width {width}, step {step}": why for (encoding, width, step, _), why in rejected.items()}
    values = {"NumPy": np.__version__, **{layout: f"built-in: {why}" for layout, why in layouts.items()}}
    return status("image decoder", WARN if verdict.broken else OK, str(verdict), values)
