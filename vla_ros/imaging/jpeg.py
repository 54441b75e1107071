# SPDX-License-Identifier: Apache-2.0
"""JPEGs decoded by simplejpeg, where it is installed: the same pixels as OpenCV's in 60 % of its time.

Both call libjpeg-turbo, OpenCV with more around it. So that nobody sees other pixels because a library is there or not,
the two are compared once in each process on pictures full of noise, for each way in which colours are subsampled; and
whatever is not a plain JPEG of such a kind, or is damaged, is left to OpenCV.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

JPEG = b"\xff\xd8"
# Markers of frames, which hold the size (ISO/IEC 10918-1, table B.1), and those without a length.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BASELINE = 0xC0
_BARE = {0x01, *range(0xD0, 0xD9)}
# JFIF's, tables and restart interval: what else there is may mean something (a rotation, other colours).
_PLAIN = {0xE0, 0xDB, 0xC4, 0xDD, 0xFE, 0xFF}


class Head(NamedTuple):
    """What the head of a JPEG says; `kind`: precision and subsampling of a plain one, empty for all others."""

    height: int
    width: int
    kind: bytes


def read_head(data: bytes) -> Head:
    """Read the size that a JPEG announces: 0 by 0 where it announces none."""
    global _known
    for begin, head in _known:  # those of one camera all begin alike
        if data.startswith(begin):
            return head
    head, stop = _read_head(data)
    if head.kind:
        _known = (*_known[-3:], (data[:stop], head))
    return head


# Plain heads read lately, and what they say.
_known: tuple[tuple[bytes, Head], ...] = ()


def _read_head(data: bytes) -> tuple[Head, int]:
    """Read the head of a JPEG; return it and where it ends."""
    at, plain = len(JPEG), True
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            # Precision, and for each colour its number and its subsampling; which table it uses does not matter.
            kind = data[at + 4 : at + 5] + b"".join(data[one : one + 2] for one in range(at + 10, stop, 3))
            height, width = (int.from_bytes(data[one : one + 2], "big") for one in (at + 5, at + 7))
            return Head(height, width, kind if plain and marker == _BASELINE and stop <= len(data) else b""), stop
        plain = plain and marker in _PLAIN
        bare = marker in _BARE or marker == 0xFF
        at += (1 if marker == 0xFF else 2) if bare else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return Head(0, 0, b""), at


def decode(data: bytes, head: Head) -> NDArray[np.uint8] | None:
    """Decode a JPEG with this head into (H, W, 3) RGB; None where OpenCV has to."""
    if simplejpeg is None or not head.kind or head.kind not in _equal_kinds():
        return None
    try:
        return _decode(data, "RGB", _room(head.height, head.width))
    except ValueError:  # damaged
        return None


def _decode(data: bytes, order: str, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, order, fastdct=False, fastupsample=False, strict=True, buffer=room
    )
    return decoded


def _room(height: int, width: int) -> NDArray[np.uint8]:
    """Memory for (height, width, 3) that begins 16 bytes beside a multiple of 32.

    At one, libjpeg-turbo writes around the cache, and the resizing that follows takes three times as long.
    """
    room = np.empty(height * width * 3 + 31, np.uint8)
    begin = (16 - room.__array_interface__["data"][0]) % 32
    return room[begin : begin + height * width * 3].reshape(height, width, 3)


@functools.cache
def _equal_kinds() -> frozenset[bytes]:
    """The kinds of JPEGs that simplejpeg and OpenCV decode to the same pixels here."""
    noise = np.random.default_rng(0).integers(0, 256, (67, 93, 3), np.uint8)
    smooth = cv2.resize(noise[:9, :9], (93, 67), interpolation=cv2.INTER_CUBIC)
    samplings = [getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}", None) for name in ("420", "422", "444")]
    ways = [[cv2.IMWRITE_JPEG_SAMPLING_FACTOR, one] for one in samplings if one is not None] or [[]]
    same: dict[bytes, bool] = {}
    for picture in (noise, smooth, noise[..., 0], smooth[..., 0]):
        for way in ways:
            for quality in (50, 95):
                data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality, *way])[1].tobytes()
                kind = read_head(data).kind
                same[kind] = same.get(kind, True) and _decode_equally(data)
    return frozenset(kind for kind, equal in same.items() if equal and kind)


def _decode_equally(data: bytes) -> bool:
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    try:
        return expected is not None and bool((_decode(data, "BGR", np.empty_like(expected)) == expected).all())
    except ValueError:
        return False
