# SPDX-License-Identifier: Apache-2.0
"""Where the threads that receive hand samples to the one thread that makes observations of them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from vla_ros.observations.observation import KEPT_NS, KEPT_SAMPLES, Observation, ObservationBuffer, Refusal

_Waiting = deque[tuple[int, Any]]  # stamp, value


class ObservationIntake:
    """`push` and `clear` from any thread, never waiting long; `snapshot` from the engine's thread, which decodes.

    While a model hangs, each sensor's stream keeps as much as the buffer would; a language command is never dropped.
    """

    def __init__(self, buffer: ObservationBuffer) -> None:
        self._buffer = buffer
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._cleared = False

    def push(self, stream: str, stamp_ns: int, value: Any) -> None:
        """See `ObservationBuffer.push`."""
        with self._lock:
            waiting = self._waiting.setdefault(stream, deque(maxlen=None if stream == "language" else KEPT_SAMPLES))
            waiting.append((stamp_ns, value))
            if stream != "language":
                # The newest sample from before the buffer's memory still counts, hence the second.
                while len(waiting) > 1 and waiting[1][0] <= stamp_ns - KEPT_NS:
                    waiting.popleft()

    def clear(self) -> None:
        """Forget what was pushed until now."""
        with self._lock:
            self._waiting, self._cleared = {}, True

    def snapshot(self, time_ns: int) -> Observation | Refusal:
        """See `ObservationBuffer.snapshot`."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            cleared, self._cleared = self._cleared, False
        if cleared:
            self._buffer.clear()
        for stream, samples in waiting.items():
            for stamp_ns, value in samples:
                self._buffer.push(stream, stamp_ns, value)
        return self._buffer.snapshot(time_ns)
