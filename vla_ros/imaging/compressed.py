# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/CompressedImage to RGB: what its `format` says of the bytes counts, on the robot and in bags alike.

image_transport writes "ENCODING; jpeg compressed bgr8", others "jpeg". JPEG and PNG are read. Everything else that such
messages are used for (video, depth) is refused by name: OpenCV would take some of it for a picture.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla_ros.imaging import images, raw
from vla_ros.imaging.images import Image

_VIDEO = re.compile(r"[hx]\.?26[45]|hevc|avc|av1|vp[89]|mpeg-?[24]|mp4|ffmpeg", re.IGNORECASE)
_BAYER = re.compile(r"(bayer_[rgb]{4})(8|16)", re.IGNORECASE)
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# What files begin with (webp: after the length of a RIFF file).
_OTHERS = {
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "bmp": re.compile(rb"BM"),
    "gif": re.compile(rb"GIF8"),
    "tiff": re.compile(rb"II\*\0|MM\0\*"),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP|\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL"),
    "avif": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "H.264 or H.265 video": re.compile(rb"\0\0\0?\x01"),
    "depth (compressedDepth)": re.compile(rb".{12}\x89PNG", re.DOTALL),
}
_NEEDED = "the topic must have JPEG or PNG pictures, as from image_transport's `compressed`"


def decode_compressed(message: Any) -> Image:
    """Decode a sensor_msgs/CompressedImage, from rclpy or from a bag, into (H, W, 3) uint8 RGB.

    A Bayer mosaic, which image_transport compresses as it is, is debayered.

    Raises:
        ValueError: It is neither JPEG nor PNG, or is depth or video.
        MemoryError: There is too little memory for it.
    """
    data = bytes(memoryview(message.data))
    stated = str(message.format)
    encoding = stated.split(";")[0].strip()
    if (reason := _why_not_stated(stated, encoding) or _why_not_contained(data, stated, encoding)) is not None:
        raise ValueError(reason)
    bayer = _BAYER.fullmatch(encoding)
    return images.decode_image_file(data) if bayer is None else _debayered(data, bayer[1])


def _why_not_stated(stated: str, encoding: str) -> str | None:
    """Return why a message of this format is no picture; None if it may be one."""
    if "compresseddepth" in stated.lower():
        return f"format {stated!r} is depth, not a picture; name the colour topic in the robot file"
    if _VIDEO.search(stated):
        return f"format {stated!r} is video, whose pictures can't be decoded one by one; {_NEEDED}"
    reason = raw.why_depth(encoding)
    return f"format {stated!r}: {reason}" if reason else None


def _why_not_contained(data: bytes, stated: str, encoding: str) -> str | None:
    """Return why these bytes are no picture; None if they may be one, or are damaged."""
    if data.startswith(_PNG):
        deep, grey = data[24:25] == b"\x10", data[25:26] in (b"\0", b"\4")
        if deep and grey and encoding.lower() != "mono16" and not _BAYER.fullmatch(encoding):
            return (
                f"a PNG of 16-bit greys in format {stated!r} is depth, not a picture; name the colour topic in the "
                "robot file (grey cameras have format 'mono16; png compressed')"
            )
    elif not data.startswith(_JPEG):
        for name, begin in _OTHERS.items():
            if begin.match(data):
                return f"the bytes are {name} (format {stated!r}); {_NEEDED}"
    return None


def _debayered(data: bytes, pattern: str) -> Image:
    pixels = images.decode_unconverted(data)
    if pixels.ndim == 3:  # colours already: debayered before it was compressed
        return images.decode_image_file(data)
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"))
    height, width = pixels.shape
    encoding, step = f"{pattern}{8 * pixels.itemsize}", width * pixels.itemsize
    size = {"height": height, "width": width, "step": step, "is_bigendian": 0}
    return raw.decode_raw(SimpleNamespace(encoding=encoding, **size, data=np.ascontiguousarray(pixels).tobytes()))
