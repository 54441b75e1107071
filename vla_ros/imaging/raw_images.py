# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image to RGB: the one decoder of raw pictures, for the live node and for bags.

Encodings are those of sensor_msgs/image_encodings.hpp. OpenCV names a Bayer pattern by the second row's middle, ROS by
the first pixels: ROS's rggb is OpenCV's BG. 16-bit pictures are scaled by 255 / 65535 and rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray


class _Layout(NamedTuple):
    """How pixels lie in memory: `channels` values of type `kind` each; `code` turns them into RGB, None: they are.

    planes: rows of memory for each row of the picture (3/2 where subsampled colours follow the brightness).
    """

    kind: str
    channels: int
    code: int | None
    planes: float = 1.0


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
_LAYOUTS = {
    **{f"{name}8": _Layout("u1", *colour) for name, colour in _COLOURS.items()},
    **{f"{name}16": _Layout("u2", *colour) for name, colour in _COLOURS.items()},
    **dict.fromkeys(("uyvy", "yuv422"), _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY)),
    **dict.fromkeys(("yuyv", "yuv422_yuy2"), _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV)),
    "nv12": _Layout("u1", 1, cv2.COLOR_YUV2RGB_NV12, 1.5),
    "nv21": _Layout("u1", 1, cv2.COLOR_YUV2RGB_NV21, 1.5),
    "8UC1": _Layout("u1", 1, cv2.COLOR_GRAY2RGB),
}


def decode_raw(message: Any) -> NDArray[np.uint8]:
    """Decode a sensor_msgs/Image, of rclpy or of a bag, into (height, width, 3) uint8 RGB.

    Raises:
        ValueError: the encoding is no colour or grey picture (depth, labels), or the data has another size than said.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise ValueError(
            f"an image of encoding {message.encoding!r} can't be decoded as a colour picture; allowed: "
            f"{', '.join(sorted(_LAYOUTS))}"
        )
    try:
        pixels = _pixels(message, layout)
        rgb = pixels if layout.code is None else cv2.cvtColor(pixels, layout.code)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        size = f"{message.width} x {message.height}"
        raise ValueError(f"an image of encoding {message.encoding!r} can't be {size}: {error.err}") from None
    if rgb.dtype == np.uint16:
        rgb = np.rint(rgb * (255 / 65535))
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def _pixels(message: Any, layout: _Layout) -> NDArray:
    """View the message's data as (rows, width[, channels]) in the machine's byte order, without the rows' padding."""
    kind = np.dtype(layout.kind).newbyteorder(">" if message.is_bigendian else "<")
    rows = round(message.height * layout.planes)
    row_bytes = message.width * layout.channels * kind.itemsize
    data = np.frombuffer(message.data, np.uint8)
    step = message.step
    # The padding of the last row may be missing.
    shortest = step * (rows - 1) + row_bytes
    if not (rows > 0 and 0 < row_bytes <= step and shortest <= len(data) <= step * rows):
        raise ValueError(
            f"{message.width} x {message.height} pixels of {message.encoding!r} take {row_bytes} bytes a row; step "
            f"{message.step} and {len(data)} bytes in all do not fit that"
        )
    shape: tuple[int, ...] = (rows, message.width, layout.channels)
    view = np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(view).view(kind).reshape(shape if layout.channels > 1 else shape[:2])
    return cast(NDArray, pixels.astype(kind.newbyteorder("="), copy=False))
