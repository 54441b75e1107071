# SPDX-License-Identifier: Apache-2.0
"""Decode raw images with cv_bridge if it is installed and agrees with training's decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging import images
from vla_ros.observations import messages


def raw_decoder(warn: Callable[[str], object]) -> messages.Decoder:
    """Return a decoder from sensor_msgs/Image to (H, W, 3) uint8 RGB; it raises ValueError for invalid images.

    Training reads bags without ROS, with `images.decode_raw`. So the first image of each encoding is decoded both
    ways; if cv_bridge's pixels differ (it scales 16 bits down differently), it is not used, and `warn` is told.
    """
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        return images.decode_raw
    bridge = CvBridge()
    agrees: dict[str, bool] = {}

    def decode_with_bridge(message: Any) -> NDArray[np.uint8]:
        try:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        except (CvBridgeError, TypeError) as error:
            raise ValueError(f"an Image with encoding {message.encoding!r} is not an RGB image: {error}") from None

    def decode(message: Any) -> NDArray[np.uint8]:
        if message.encoding not in agrees:
            ours = images.decode_raw(message)
            agrees[message.encoding] = _same(decode_with_bridge, message, ours)
            if not agrees[message.encoding]:
                warn(f"cv_bridge decodes {message.encoding!r} differently from training; using our own decoder instead")
            return ours
        return decode_with_bridge(message) if agrees[message.encoding] else images.decode_raw(message)

    return decode


def _same(decode: messages.Decoder, message: Any, expected: NDArray[np.uint8]) -> bool:
    try:
        return np.array_equal(decode(message), expected)
    except ValueError:
        return False
