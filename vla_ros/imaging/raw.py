# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image to RGB: every encoding of colours or greys, with any step and byte order."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging.images import Image


class _PixelFormat(NamedTuple):
    """How `channels` values of type `dtype` make a pixel."""

    dtype: str
    channels: int
    code: int | None  # OpenCV's conversion to RGB; None if the pixels are RGB
    planes: float = 1.0  # rows of memory per image row: 3/2 if subsampled colours follow the brightness


# As in sensor_msgs/image_encodings.hpp. OpenCV names a Bayer pattern after the middle of its second row, ROS after its
# first pixels: ROS's rggb is OpenCV's BG.
_COLOURS = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg": (1, cv2.COLOR_BayerGB2RGB),
}
_ENCODINGS = {
    **{f"{name}8": _PixelFormat("u1", *colour) for name, colour in _COLOURS.items()},
    **{f"{name}16": _PixelFormat("u2", *colour) for name, colour in _COLOURS.items()},
    **dict.fromkeys(("uyvy", "yuv422"), _PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_UYVY)),
    **dict.fromkeys(("yuyv", "yuv422_yuy2"), _PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_YUYV)),
    "nv12": _PixelFormat("u1", 1, cv2.COLOR_YUV2RGB_NV12, 1.5),
    "nv21": _PixelFormat("u1", 1, cv2.COLOR_YUV2RGB_NV21, 1.5),
    "8UC1": _PixelFormat("u1", 1, cv2.COLOR_GRAY2RGB),
}
_BY_LOWER_CASE = {name.lower(): one for name, one in _ENCODINGS.items()}
_NUMBERS = re.compile(r"((?:8|16|32|64)[usf])c([1-4])", re.IGNORECASE)  # OpenCV's types, as in 16UC1
_ORDERS = {"2": "yuyv or uyvy", "3": "rgb or bgr", "4": "rgba or bgra"}


def why_depth(encoding: str) -> str | None:
    """Return why an encoding such as 16UC1 or 32FC1 is not a picture; None if it may be one."""
    found = _NUMBERS.fullmatch(encoding)
    if found is None or (found[1].lower() in ("8u", "16u") and found[2] != "1") or encoding.lower() == "8uc1":
        return None
    return f"encoding {encoding!r} is depth or labels, not a picture; name the colour topic in the robot file"


def _pixel_format(encoding: str) -> _PixelFormat:
    if (reason := why_depth(encoding)) is not None:
        raise ValueError(reason)
    if (numbers := _NUMBERS.fullmatch(encoding)) and numbers[2] in _ORDERS:
        raise ValueError(
            f"encoding {encoding!r} leaves the order of its channels open ({_ORDERS[numbers[2]]}?); the camera's "
            "driver must say"
        )
    found = _BY_LOWER_CASE.get(encoding.lower())  # drivers write RGB8, too
    if found is None:
        raise ValueError(
            f"encoding {encoding!r} is not a colour or grey image; it must be one of {', '.join(sorted(_ENCODINGS))}"
        )
    return found


def decode_raw(message: Any) -> Image:
    """Decode a sensor_msgs/Image, from rclpy or from a bag, into (H, W, 3) uint8 RGB.

    16-bit images are scaled by 255 / 65535 and rounded.

    Raises:
        ValueError: The encoding is not of a colour or grey image (depth, labels), or the data has the wrong size.
        MemoryError: There is too little memory for it.
    """
    pixel_format = _pixel_format(message.encoding)
    try:
        pixels = _pixels(message, pixel_format)
        rgb = pixels if pixel_format.code is None else cv2.cvtColor(pixels, pixel_format.code)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        size = f"{message.width} x {message.height}"
        raise ValueError(f"an image of encoding {message.encoding!r} can't be {size}: {error.err}") from None
    if rgb.dtype == np.uint16:
        rgb = np.rint(rgb * (255 / 65535))
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def _pixels(message: Any, pixel_format: _PixelFormat) -> NDArray[np.integer[Any]]:
    """View the data as (rows, width[, channels]) in native byte order, without padding."""
    dtype = np.dtype(pixel_format.dtype).newbyteorder(">" if message.is_bigendian else "<")
    rows = round(message.height * pixel_format.planes)
    row_bytes = message.width * pixel_format.channels * dtype.itemsize
    data = np.frombuffer(message.data, np.uint8)
    step = message.step
    minimum = step * (rows - 1) + row_bytes  # the last row may lack its padding
    if not (rows > 0 and 0 < row_bytes <= step and minimum <= len(data) <= step * rows):
        raise ValueError(
            f"{message.width} x {message.height} pixels of {message.encoding!r} need {row_bytes} bytes per row, which "
            f"step = {step} and {len(data)} bytes in total do not match{_hint(message, rows, row_bytes)}"
        )
    by_rows = pixel_format.planes > 1
    if (message.width % 2 and (by_rows or pixel_format.channels == 2)) or (message.height % 2 and by_rows):
        raise ValueError(  # OpenCV 4.6 does not say so
            f"an image of encoding {message.encoding!r} can't be {message.width} x {message.height}: its colours are "
            "subsampled, so that the size must be even"
        )
    shape: tuple[int, ...] = (rows, message.width, pixel_format.channels)
    view = np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(view).view(dtype).reshape(shape if pixel_format.channels > 1 else shape[:2])
    return cast("NDArray[np.integer[Any]]", pixels.astype(dtype.newbyteorder("="), copy=False))


def _hint(message: Any, rows: int, row_bytes: int) -> str:
    """Return what a driver that publishes the wrong size has probably mistaken."""
    size, step, height, pixels = len(message.data), message.step, message.height, message.height * message.width
    if not size or not pixels:
        return ": the image is empty"
    if size == rows * row_bytes:
        return f": the driver must publish step = {row_bytes}"
    if rows != height and size == step * height and height % 3 == 0:
        return f": the driver must publish height = {height * 2 // 3}, without the rows of the colours"
    other = {1: "mono8 or bayer", 1.5: "nv12 or nv21", 2: "yuyv or uyvy", 3: "rgb8 or bgr8", 4: "rgba8 or bgra8"}
    kind = other.get(size / pixels)
    return f": the data have the size of {kind}; the driver must publish the right encoding" if kind else ""
