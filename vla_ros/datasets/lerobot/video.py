# SPDX-License-Identifier: Apache-2.0
"""Pictures in mp4 files with PyAV: written without loss, read from whatever codec a data set has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import SourceError

# H.264 without loss, in RGB: a frame comes back bit for bit. A key frame every second one, as LeRobot has it, so that
# any frame is found after decoding two.
CODEC, PIXEL_FORMAT = "libx264rgb", "rgb24"
OPTIONS = {"qp": "0", "g": "2", "preset": "veryfast", "threads": "1"}

Image = NDArray[np.uint8]


class VideoFile:
    """An mp4 file that frames are appended to, one after the other at a steady rate."""

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

    def append(self, pictures: Sequence[Image] | Image) -> None:
        """Append pictures (T, h, w, 3), RGB."""
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, 1 / self._rate_hz
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def read_pictures(
    path: Path, from_s: float, steps: Sequence[int], rate_hz: Fraction, take: Callable[[Image], Image]
) -> list[Image]:
    """Return `take` of the pictures of an episode's `steps`, ascending; step 0 is at `from_s` in the file.

    Raises:
        SourceError: the file is missing or damaged, or has no picture within half a step of where one must be.
    """
    found: list[Image] = []
    half_s = float(1 / rate_hz) / 2
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.time_base is None:
                raise SourceError(f"{path} is damaged: its stream has no time base")
            stream.thread_type = "NONE"
            container.seek(max(0, int((from_s - half_s) / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if len(found) == len(steps):
                    break
                wanted_s = from_s + float(steps[len(found)] / rate_hz)
                if frame.time is None or frame.time < wanted_s - half_s:
                    continue
                if frame.time > wanted_s + half_s:
                    break
                found.append(take(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)))
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise SourceError(f"{path} is damaged or can't be decoded: {error}") from None
    if len(found) < len(steps):
        missing_s = from_s + float(steps[len(found)] / rate_hz)
        raise SourceError(f"{path} has no picture at {missing_s:.3f} s, where an episode has one")
    return found
