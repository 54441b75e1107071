# SPDX-License-Identifier: Apache-2.0
"""Images in mp4 files with PyAV, written losslessly and read from any codec; and the statistics that LeRobot keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.metadata import damaged, missing

# Lossless H.264 in RGB: a frame comes back bit for bit. As in LeRobot, every second one is a key frame, so that any is
# found after decoding two.
CODEC, PIXEL_FORMAT = "libx264rgb", "rgb24"
OPTIONS = {"qp": "0", "g": "2", "preset": "veryfast", "threads": "1"}

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Image = NDArray[np.uint8]
Stats = dict[str, NDArray[Any]]


class VideoFile:
    """An mp4 file to which frames are appended at a steady rate."""

    def __init__(self, path: Path, rate_hz: Fraction, height: int, width: int) -> None:
        self.path = path
        self.frames = 0
        self._rate_hz = rate_hz
        self._container = av.open(str(path), "w")
        self._stream = cast(av.VideoStream, self._container.add_stream(CODEC, rate=rate_hz, options=OPTIONS))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, PIXEL_FORMAT
        self._stream.time_base = 1 / rate_hz

    @property
    def duration_s(self) -> float:
        return float(self.frames / self._rate_hz)

    def append(self, images: Image) -> None:
        """Append RGB images (T, h, w, 3)."""
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self.frames, 1 / self._rate_hz
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Flush the encoder and write the file's index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def read_video(
    path: Path, wanted_s: Sequence[float], rate_hz: Fraction, transform: Callable[[Image], Image], what: str
) -> list[Image]:
    """Return the transformed images at the times `wanted_s` in the file, ascending.

    Args:
        what: what needs them, for messages.

    Raises:
        SourceError: the file is missing or damaged, or has no image within half a period of a time.
    """
    found: list[Image] = []
    half_s, last_s = float(1 / rate_hz) / 2, 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.time_base is None:
                raise SourceError(f"{path} is damaged: its stream has no time base")
            stream.thread_type = "NONE"
            container.seek(max(0, int((wanted_s[0] - half_s) / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if len(found) == len(wanted_s):
                    break
                if frame.time is None:
                    continue
                last_s = frame.time
                if frame.time < wanted_s[len(found)] - half_s:
                    continue
                if frame.time > wanted_s[len(found)] + half_s:
                    break
                found.append(transform(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)))
    except FileNotFoundError:
        raise missing(path) from None
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise damaged(path, error) from None
    if len(found) < len(wanted_s):
        lacks = f"no image at {wanted_s[len(found)]:.3f} s"
        if last_s < wanted_s[len(found)]:
            lacks += f": it ends at {last_s:.3f} s, {len(wanted_s) - len(found)} images too early"
        raise SourceError(
            f"{path} has {lacks}, but {what} has a step there. The video does not belong to the metadata; copy or "
            "merge the data set again"
        )
    return found


def vector_stats(values: NDArray[Any]) -> Stats:
    """Return the statistics (D,) of values (n, D), and their count (1,): exact, as the images' are."""
    values = values.astype(np.float64)
    stats: Stats = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }
    return stats | {name: np.quantile(values, q, axis=0) for name, q in QUANTILES.items()}


class ImageStats:
    """Exact statistics of uint8 images, from how often each value occurs in each channel."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, images: Image) -> None:
        """Count images (T, h, w, 3)."""
        for channel in range(3):
            self._counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
        self._images += len(images)

    def merge(self, other: ImageStats) -> None:
        """Add the counts of `other`."""
        self._counts += other._counts
        self._images += other._images

    def stats(self) -> Stats:
        """Return the statistics (3, 1, 1) in [0, 1], and the number of images (1,)."""
        values = np.arange(256)
        total = int(self._counts[0].sum())
        mean = self._counts @ values / total
        variance = np.array([(count * (values - m) ** 2).sum() / total for count, m in zip(self._counts, mean)])
        found = {
            "min": np.array([np.flatnonzero(count)[0] for count in self._counts]),
            "max": np.array([np.flatnonzero(count)[-1] for count in self._counts]),
            "mean": mean,
            "std": np.sqrt(variance),
            **{name: np.array([_quantile(count, q) for count in self._counts]) for name, q in QUANTILES.items()},
        }
        stats: Stats = {name: (value / 255.0).reshape(3, 1, 1) for name, value in found.items()}
        return stats | {"count": np.array([self._images])}


def _quantile(counts: NDArray[np.int64], q: float) -> float:
    """Return the quantile of values 0 .. 255 that occur `counts` times, linearly interpolated as in numpy."""
    at = q * (int(counts.sum()) - 1)
    low = int(np.floor(at))
    ends = np.cumsum(counts)
    ranks = [low, min(low + 1, int(ends[-1]) - 1)]
    first, second = np.searchsorted(ends, ranks, side="right").tolist()
    return float(first + (at - low) * (second - first))
