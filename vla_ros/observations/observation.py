# SPDX-License-Identifier: Apache-2.0
"""The observation buffer: streams of samples in, one observation (or the reason why not) out.

The live node and the bag reader both push what they receive and ask for a snapshot on the control grid, so that the
frame of tick t from a bag is the frame of tick t on the robot. The rule, for both: a snapshot at time t is taken once
the clock has reached t + settle; each stream contributes its newest sample stamped at or before t.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec
from vla_ros.imaging import images
from vla_ros.robot import ObservationLimits

Reason = Literal["missing", "stale", "skewed", "frozen", "undecodable", "invalid", "no_command"]

# How much of the past of a stream can be asked for, at any rate up to KEPT_SAMPLES / KEPT_NS: several settle times.
KEPT_NS = 1_000_000_000
KEPT_SAMPLES = 2000

_PROPRIOCEPTION = tuple(PROPRIOCEPTION_UNITS)
_UNKNOWN_POSE = (np.nan,) * 9


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a policy sees at one tick.

    `images`: (h, w, 3) uint8 RGB at network size for each camera; `stamps_ns`: the stamp of each sample used;
    `proprioception`: (P,) float32 in physical units, in the contract's order, or None.
    """

    time_ns: int
    images: dict[str, NDArray[np.uint8]]
    stamps_ns: dict[str, int]
    proprioception: NDArray[np.float32] | None
    command: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why there is no observation: the reason, the stream it lies in, and a sentence for people."""

    reason: Reason
    stream: str
    detail: str


class _Samples:
    """The last samples of one stream in the order of their stamps.

    `last_counts`: of two values with the same stamp, the later replaces the earlier; otherwise it is ignored.
    """

    def __init__(self, last_counts: bool) -> None:
        self.stamps: list[int] = []
        self.values: list[Any] = []
        self._last_counts = last_counts

    def push(self, stamp_ns: int, value: Any) -> None:
        if not self.stamps or stamp_ns > self.stamps[-1]:  # nearly always
            self.stamps.append(stamp_ns)
            self.values.append(value)
            self._forget(stamp_ns - KEPT_NS)
            return
        index = bisect.bisect_right(self.stamps, stamp_ns)
        if index and self.stamps[index - 1] == stamp_ns:
            if self._last_counts:
                self.values[index - 1] = value
            return
        self.stamps.insert(index, stamp_ns)
        self.values.insert(index, value)
        self._forget(stamp_ns - KEPT_NS)

    def _forget(self, before_ns: int) -> None:
        """Drop what no snapshot since `before_ns` would take: that still takes the newest one of before."""
        if len(self.stamps) < 2 or (self.stamps[1] > before_ns and len(self.stamps) <= KEPT_SAMPLES):
            return
        over = max(bisect.bisect_right(self.stamps, before_ns) - 1, len(self.stamps) - KEPT_SAMPLES)
        if over > 0:
            del self.stamps[:over], self.values[:over]

    def newest(self, time_ns: int) -> tuple[int, Any] | None:
        index = bisect.bisect_right(self.stamps, time_ns)
        return (self.stamps[index - 1], self.values[index - 1]) if index else None


class ObservationBuffer:
    """Newest samples per stream; not thread-safe: its owner serialises `push` and `snapshot`.

    room: gives memory for a picture of a camera, for who wants to say where they lie.
    """

    def __init__(
        self, spec: ObservationSpec, limits: ObservationLimits, room: Callable[[Camera], images.Image] | None = None
    ) -> None:
        self._room = room
        self._spec = spec
        self._streams = spec.streams
        self._limits = limits
        # A sensor that repeats a stamp repeats itself; whoever says two things at once means the last.
        self._samples = {name: _Samples(last_counts=name == "language") for name in spec.streams}
        self._decoded: dict[str, tuple[int, NDArray[np.uint8]]] = {}
        # Per camera: the fingerprint last seen and the stamp of the sample that first showed it.
        self._last_change: dict[str, tuple[bytes, int]] = {}

    def push(self, stream: str, stamp_ns: int, value: Any) -> None:
        """Add a sample. Values: LazyImage (anything with `.rgb()` and `.fingerprint()`), (7,) pose, opening, or text.

        Raises KeyError for a stream that the observation does not need.
        """
        self._samples[stream].push(stamp_ns, value)

    def clear(self) -> None:
        """Forget all samples (a reset of the world or of the clock)."""
        self.__init__(self._spec, self._limits, self._room)  # type: ignore[misc]

    def newest_stamp_ns(self, stream: str) -> int | None:
        """Stamp of the stream's newest sample, for reports of its age."""
        stamps = self._samples[stream].stamps
        return stamps[-1] if stamps else None

    def value(self, stream: str, time_ns: int) -> Any:
        """The stream's newest value stamped at or before `time_ns`, however old, or None."""
        found = self._samples[stream].newest(time_ns)
        return None if found is None else found[1]

    def snapshot(self, time_ns: int) -> Observation | Refusal:
        """The observation at `time_ns`, or why there is none."""
        newest: dict[str, tuple[int, Any]] = {}
        for stream in self._streams:
            found = self._samples[stream].newest(time_ns)
            if found is None:
                reason: Reason = "no_command" if stream == "language" else "missing"
                return Refusal(reason, stream, f"nothing has arrived on stream {stream!r}")
            newest[stream] = found
        command = newest["language"][1]
        refusal = self._age_or_skew(newest, time_ns)
        if refusal is None and not command:
            refusal = Refusal("no_command", "language", "the language command is empty")
        if refusal is not None:
            return refusal
        return self._observe(newest, time_ns, command)

    def _age_or_skew(self, newest: dict[str, tuple[int, Any]], time_ns: int) -> Refusal | None:
        for stream, (stamp_ns, _) in newest.items():
            age_s = (time_ns - stamp_ns) / 1e9
            if stream != "language" and age_s > self._limits.max_age_s:
                limit = f"older than max_age_s = {self._limits.max_age_s}"
                return Refusal("stale", stream, f"stream {stream!r} is {age_s:.3f} s old, {limit}")
        stamps = {camera.name: newest[camera.name][0] for camera in self._spec.cameras}
        skew_s = (max(stamps.values()) - min(stamps.values())) / 1e9
        if skew_s > self._limits.max_skew_s:
            slowest = min(stamps, key=lambda name: stamps[name])
            limit = f"further than max_skew_s = {self._limits.max_skew_s}"
            return Refusal("skewed", slowest, f"the cameras are {skew_s:.3f} s apart, {limit}; {slowest!r} is behind")
        return None

    def _observe(self, newest: dict[str, tuple[int, Any]], time_ns: int, command: str) -> Observation | Refusal:
        pictures = {}
        for camera in self._spec.cameras:
            stamp_ns, value = newest[camera.name]
            limit_s = self._limits.frozen_s
            if limit_s is not None and self._frozen_s(camera.name, stamp_ns, value) > limit_s:
                detail = f"camera {camera.name!r} has shown the very same picture for longer than frozen_s = {limit_s}"
                return Refusal("frozen", camera.name, detail)
            try:
                pictures[camera.name] = self._picture(camera, stamp_ns, value)
            except ValueError as error:
                return Refusal("undecodable", camera.name, f"camera {camera.name!r}: {error}")
        values = self._proprioception(newest)
        if isinstance(values, Refusal):
            return values
        stamps_ns = {stream: stamp_ns for stream, (stamp_ns, _) in newest.items()}
        return Observation(time_ns, pictures, stamps_ns, values, command)

    def _proprioception(self, newest: dict[str, tuple[int, Any]]) -> NDArray[np.float32] | Refusal | None:
        names = self._spec.proprioception
        if not names:
            return None
        pose, opening = (newest[stream][1] if stream in newest else None for stream in ("ee_pose", "gripper_state"))
        try:
            values = proprioception(names, pose, opening)
        except ValueError as error:  # a quaternion of zeros
            return Refusal("invalid", "ee_pose", f"stream 'ee_pose': {error}")
        if not math.isfinite(sum(values.tolist())):  # sums of numbers of 32 bits have room in 64
            name, value = next((name, value) for name, value in zip(names, values) if not np.isfinite(value))
            stream = "gripper_state" if name == "gripper_opening" else "ee_pose"
            return Refusal("invalid", stream, f"stream {stream!r}: {name} is {value}")
        return values

    def _frozen_s(self, camera: str, stamp_ns: int, value: Any) -> float:
        fingerprint = value.fingerprint()
        last = self._last_change.get(camera)
        if last is None or last[0] != fingerprint or stamp_ns < last[1]:
            self._last_change[camera] = (fingerprint, stamp_ns)
            return 0.0
        return (stamp_ns - last[1]) / 1e9

    def _picture(self, camera: Camera, stamp_ns: int, value: Any) -> NDArray[np.uint8]:
        """Decode and resize, once for each frame."""
        cached = self._decoded.get(camera.name)
        if cached is None or cached[0] != stamp_ns:
            rgb = value.rgb()
            room = None if self._room is None else self._room(camera)
            cached = (stamp_ns, images.resize(rgb, camera, room))
            self._decoded[camera.name] = cached
        return cached[1]


def proprioception(names: tuple[str, ...], ee_pose: Any, opening: float | None) -> NDArray[np.float32]:
    """The proprioception vector (P,) float32 for `names`, from a pose (7,) (xyz, quaternion xyzw) and an opening."""
    values: list[float] = [*_UNKNOWN_POSE, np.nan if opening is None else float(opening)]
    if ee_pose is not None:
        numbers = np.asarray(ee_pose, np.float64).tolist()
        values[:-1] = *numbers[:3], *actions.rotation_columns(*numbers[3:7])
    return np.array([values[place] for place in _places(names)], np.float32)


@functools.lru_cache(maxsize=8)
def _places(names: tuple[str, ...]) -> list[int]:
    """Where `names` are among all that there may be in a proprioception vector."""
    return [_PROPRIOCEPTION.index(name) for name in names]
