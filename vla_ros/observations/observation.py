# SPDX-License-Identifier: Apache-2.0
"""The observation buffer: samples of streams in, one observation (or the reason for refusing one) out.

The live node and the bag reader push what they receive and take snapshots on the control grid, so that the frame of
tick t in a bag is the frame of tick t on the robot. The rule for both: a snapshot for time t is taken once the clock
has reached t + settle, and each stream contributes its newest sample stamped at or before t.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec
from vla_ros.imaging.images import Image, contrast, resize
from vla_ros.robot import ObservationLimits

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation  # imported on use: most bags do not need it

Reason = Literal["missing", "stale", "skewed", "frozen", "covered", "undecodable", "invalid", "no_command"]

# How far back a snapshot may reach, at any rate up to KEPT_SAMPLES / KEPT_NS: several settle times.
KEPT_NS = 1_000_000_000
KEPT_SAMPLES = 2000

_PROPRIOCEPTION = tuple(PROPRIOCEPTION_UNITS)
_UNKNOWN_POSE = (np.nan,) * 9


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a policy sees at one tick."""

    time_ns: int
    images: dict[str, Image]  # per camera, (h, w, 3) uint8 RGB at network size
    stamps_ns: dict[str, int]  # per stream, of the sample used
    proprioception: NDArray[np.float32] | None  # (P,) in physical units, in the contract's order
    command: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why there is no observation: the reason, the stream at fault, and a sentence for people."""

    reason: Reason
    stream: str
    detail: str


class Undecodable(NamedTuple):
    """How many ticks a camera's images could not be decoded at, and why the newest can't be; "" if it can."""

    ticks: int
    why: str


class _Samples:
    """The latest samples of one stream by stamp; of two with the same stamp, the last or else the first one counts."""

    def __init__(self, last_counts: bool) -> None:
        self.stamps: list[int] = []
        self.values: list[Any] = []
        self._last_counts = last_counts

    def push(self, stamp_ns: int, value: Any) -> None:
        if not self.stamps or stamp_ns > self.stamps[-1]:  # nearly always
            self.stamps.append(stamp_ns)
            self.values.append(value)
        else:
            index = bisect.bisect_right(self.stamps, stamp_ns)
            if index and self.stamps[index - 1] == stamp_ns:
                if self._last_counts:
                    self.values[index - 1] = value
                return
            self.stamps.insert(index, stamp_ns)
            self.values.insert(index, value)
        # Drop what no snapshot from `before_ns` on would use; that may still use the newest older sample.
        before_ns = stamp_ns - KEPT_NS
        if len(self.stamps) < 2 or (self.stamps[1] > before_ns and len(self.stamps) <= KEPT_SAMPLES):
            return
        expired = max(bisect.bisect_right(self.stamps, before_ns) - 1, len(self.stamps) - KEPT_SAMPLES)
        if expired > 0:
            del self.stamps[:expired], self.values[:expired]

    def newest(self, time_ns: int) -> tuple[int, Any] | None:
        index = bisect.bisect_right(self.stamps, time_ns)
        return (self.stamps[index - 1], self.values[index - 1]) if index else None


class ObservationBuffer:
    """Keeps the newest samples per stream. Not thread-safe: its owner serializes `push` and `snapshot`.

    `allocate` returns the array for one of a camera's images; new memory by default.

    Attributes:
        undecodable: by camera, if one of its images ever was.
    """

    def __init__(
        self, spec: ObservationSpec, limits: ObservationLimits, allocate: Callable[[Camera], Image] | None = None
    ) -> None:
        self._spec, self._limits, self._allocate = spec, limits, allocate
        self.undecodable: dict[str, Undecodable] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all samples, as after a reset of the world or of the clock."""
        # A sensor that repeats a stamp repeats its sample; of two commands at once, the last one counts.
        self._samples = {name: _Samples(last_counts=name == "language") for name in self._spec.streams}
        self._decoded: dict[str, tuple[int, Image]] = {}
        # Per camera: the fingerprint last seen and the stamp of the sample that first had it.
        self._last_change: dict[str, tuple[bytes, int]] = {}

    def push(self, stream: str, stamp_ns: int, value: Any) -> None:
        """Add a sample: a LazyImage (anything with `.rgb()` and `.fingerprint()`), (7,) pose, opening, or text."""
        self._samples[stream].push(stamp_ns, value)

    def value(self, stream: str, time_ns: int) -> Any:
        """Return the stream's newest value stamped at or before `time_ns`, however old, or None."""
        found = self._samples[stream].newest(time_ns)
        return None if found is None else found[1]

    def snapshot(self, time_ns: int) -> Observation | Refusal:
        """Return the observation at `time_ns`, or the reason for refusing it."""
        newest: dict[str, tuple[int, Any]] = {}
        for stream, samples in self._samples.items():
            found = samples.newest(time_ns)
            if found is None:
                reason: Reason = "no_command" if stream == "language" else "missing"
                return Refusal(reason, stream, f"nothing has arrived on stream {stream!r}")
            newest[stream] = found
        command = newest["language"][1]
        refusal = self._age_or_skew(newest, time_ns)
        if refusal is None and not command:
            refusal = Refusal("no_command", "language", "the language command is empty")
        return self._observe(newest, time_ns, command) if refusal is None else refusal

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
            limit = f"more than max_skew_s = {self._limits.max_skew_s}"
            return Refusal("skewed", slowest, f"the cameras are {skew_s:.3f} s apart, {limit}; {slowest!r} lags behind")
        return None

    def _observe(self, newest: dict[str, tuple[int, Any]], time_ns: int, command: str) -> Observation | Refusal:
        images = {}
        for camera in self._spec.cameras:
            stamp_ns, value = newest[camera.name]
            limit_s = self._limits.frozen_s
            if limit_s is not None and self._frozen_s(camera.name, stamp_ns, value) > limit_s:
                detail = f"camera {camera.name!r} has repeated the same image for longer than frozen_s = {limit_s}"
                return Refusal("frozen", camera.name, detail)
            try:
                images[camera.name] = self._image(camera, stamp_ns, value)
            except ValueError as error:
                self._note(camera.name, 1, str(error))
                return Refusal("undecodable", camera.name, f"camera {camera.name!r}: {error}")
            if camera.name in self.undecodable:
                self._note(camera.name, 0, "")
            minimum = self._limits.min_contrast
            if minimum is not None and (seen := contrast(images[camera.name])) < minimum:
                detail = f"camera {camera.name!r} shows a contrast of {seen:.1f}, below min_contrast = {minimum:g}"
                return Refusal("covered", camera.name, f"{detail}: is its lens covered?")
        values = self._proprioception(newest)
        if isinstance(values, Refusal):
            return values
        stamps_ns = {stream: stamp_ns for stream, (stamp_ns, _) in newest.items()}
        return Observation(time_ns, images, stamps_ns, values, command)

    def _note(self, camera: str, ticks: int, why: str) -> None:
        self.undecodable[camera] = Undecodable(self.undecodable.get(camera, (0, ""))[0] + ticks, why)

    def _proprioception(self, newest: dict[str, tuple[int, Any]]) -> NDArray[np.float32] | Refusal | None:
        names = self._spec.proprioception
        if not names:
            return None
        pose, opening = (newest[stream][1] if stream in newest else None for stream in ("ee_pose", "gripper_state"))
        try:
            values = proprioception(names, pose, opening)
        except ValueError as error:
            return Refusal("invalid", "ee_pose", f"stream 'ee_pose': {error}")
        if not math.isfinite(sum(values.tolist())):  # a sum of 32-bit numbers can't overflow 64 bits
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

    def _image(self, camera: Camera, stamp_ns: int, value: Any) -> Image:
        """Decode and resize each frame once."""
        cached = self._decoded.get(camera.name)
        if cached is None or cached[0] != stamp_ns:
            rgb = value.rgb()
            out = None if self._allocate is None else self._allocate(camera)
            cached = self._decoded[camera.name] = (stamp_ns, resize(rgb, camera, out))
        return cached[1]


def proprioception(names: tuple[str, ...], ee_pose: Any, opening: float | None) -> NDArray[np.float32]:
    """Return the proprioception (P,) for `names`, from a pose (7,) (xyz [m], quaternion xyzw) and an opening.

    Raises:
        ValueError: The quaternion is zero.
    """
    values: list[float] = [*_UNKNOWN_POSE, np.nan if opening is None else float(opening)]
    if ee_pose is not None:
        numbers = np.asarray(ee_pose, np.float64).tolist()
        values[:-1] = *numbers[:3], *rotation_6d(*numbers[3:7])
    return np.array([values[index] for index in _indices(names)], np.float32)


@functools.lru_cache(maxsize=8)
def _indices(names: tuple[str, ...]) -> list[int]:
    """Return the positions of `names` among all possible proprioception values."""
    return [_PROPRIOCEPTION.index(name) for name in names]


def rotation_6d(x: float, y: float, z: float, w: float) -> tuple[float, ...]:
    """Return the first two columns of a quaternion's rotation matrix, one after the other (arXiv:1812.07035).

    Bit for bit what `Rotation.from_quat(...).as_matrix()` contains, at a hundredth of its cost: each frame needs it.

    Raises:
        ValueError: All four numbers are zero.
    """
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if length == 0:
        raise ValueError("the quaternion is zero, so it is not a rotation")
    x, y, z, w = x / length, y / length, z / length, w / length
    first = (x * x - y * y - z * z + w * w, 2 * (x * y + z * w), 2 * (x * z - y * w))
    second = (2 * (x * y - z * w), -x * x + y * y - z * z + w * w, 2 * (y * z + x * w))
    return (*first, *second)


def rotation_from_6d(columns: ArrayLike) -> Rotation:
    """Return the rotations of `columns` (..., 6), made orthonormal by Gram-Schmidt (arXiv:1812.07035).

    Raises:
        ValueError: A column is zero, or the two are parallel.
    """
    from scipy.spatial.transform import Rotation

    values = np.asarray(columns, dtype=np.float64)
    first, second = values[..., :3], values[..., 3:]
    third = np.cross(first, second)
    lengths = [np.linalg.norm(axis, axis=-1, keepdims=True) for axis in (first, third)]
    if not all((length > 1e-6).all() for length in lengths):
        raise ValueError("6D rotation columns must not be zero or parallel")
    first, third = first / lengths[0], third / lengths[1]
    return Rotation.from_matrix(np.stack([first, np.cross(third, first), third], axis=-1))


class ObservationQueue:
    """A thread-safe front of an `ObservationBuffer`.

    Any thread calls `push` and `clear`, which never wait long; one thread calls `snapshot`, which decodes. While that
    one is busy, each sensor keeps as much as the buffer would; language commands are never dropped.
    """

    def __init__(self, buffer: ObservationBuffer) -> None:
        self._buffer = buffer
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[tuple[int, Any]]] = {}  # stamp, value
        self._cleared = False

    @property
    def undecodable(self) -> dict[str, Undecodable]:
        """See `ObservationBuffer`; for any thread."""
        return self._buffer.undecodable

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
