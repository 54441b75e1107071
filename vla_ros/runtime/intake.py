# SPDX-License-Identifier: Apache-2.0
"""Where the threads that receive hand samples to the one thread that makes observations of them."""

from __future__ import annotations

from collections import deque
from typing import Any

from vla_ros.observation import Observation, ObservationBuffer, Refusal

# Samples that may wait for a snapshot. A control period brings a few dozen; only a model that hangs lets them pile up.
WAITING_SAMPLES = 256

_CLEAR = ("", 0, None)


class ObservationIntake:
    """`push` and `clear` from any thread, never waiting; `snapshot` from the engine's thread, which decodes images."""

    def __init__(self, buffer: ObservationBuffer) -> None:
        self._buffer = buffer
        # Appending to and popping from a deque is atomic.
        self._waiting: deque[tuple[str, int, Any]] = deque(maxlen=WAITING_SAMPLES)

    def push(self, stream: str, stamp_ns: int, value: Any) -> None:
        """See `ObservationBuffer.push`."""
        self._waiting.append((stream, stamp_ns, value))

    def clear(self) -> None:
        """Forget what was pushed until now."""
        self._waiting.append(_CLEAR)

    def snapshot(self, time_ns: int) -> Observation | Refusal:
        """See `ObservationBuffer.snapshot`."""
        while self._waiting:
            sample = self._waiting.popleft()
            if sample is _CLEAR:
                self._buffer.clear()
            else:
                self._buffer.push(*sample)
        return self._buffer.snapshot(time_ns)
