# SPDX-License-Identifier: Apache-2.0
"""How the node decodes raw images: by cv_bridge where a ROS distribution brings it, as long as training would agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging import images
from vla_ros.observations import messages


def raw_decoder(warn: Callable[[str], object]) -> messages.Decoder:
    """The decoder of this machine: sensor_msgs/Image to (H, W, 3) uint8 RGB, ValueError for what is no image.

    Training reads bags without ROS, by `images.decode_raw`. So the first picture of each encoding is decoded both
    ways; where cv_bridge gives other pixels (it scales 16 bits down in its own way), the node does without it, and
    says so by `warn`.
    """
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        return images.decode_raw
    bridge = CvBridge()
    agrees: dict[str, bool] = {}

    def by_bridge(message: Any) -> NDArray[np.uint8]:
        try:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        except (CvBridgeError, TypeError) as error:
            raise ValueError(f"an Image of encoding {message.encoding!r} is not an RGB image: {error}") from None

    def decode(message: Any) -> NDArray[np.uint8]:
        if message.encoding not in agrees:
            ours = images.decode_raw(message)
            agrees[message.encoding] = _same(by_bridge, message, ours)
            if not agrees[message.encoding]:
                warn(f"cv_bridge decodes {message.encoding!r} in another way than training does; it is not used for it")
            return ours
        return by_bridge(message) if agrees[message.encoding] else images.decode_raw(message)

    return decode


def _same(decode: messages.Decoder, message: Any, expected: NDArray[np.uint8]) -> bool:
    try:
        return np.array_equal(decode(message), expected)
    except ValueError:
        return False
