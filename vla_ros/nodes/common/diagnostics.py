# SPDX-License-Identifier: Apache-2.0
"""Diagnostic statuses: how all nodes build them."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vla_ros.runtime.stats import Summary

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def percentiles(name: str, summary: Summary | None, which: Sequence[str], digits: int = 1) -> dict[str, str]:
    """Return "NAME p50 ms" and so on; empty values without a summary."""
    return {f"{name} {each} ms": f"{getattr(summary, each):.{digits}f}" if summary else "" for each in which}


def memory_mb() -> float:
    """Return the resident memory of this process (Linux) in 10^6 bytes."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() / 1e6
