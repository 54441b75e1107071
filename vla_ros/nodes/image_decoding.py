# SPDX-License-Identifier: Apache-2.0
"""How raw images are decoded: by cv_bridge where a ROS distribution brings it, else by rosbags-image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import messages


def raw_decoder() -> messages.RawDecoder:
    """The decoder of this machine: sensor_msgs/Image to (H, W, 3) uint8 RGB, ValueError for what is no image."""
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        return messages.decode_raw
    bridge = CvBridge()

    def decode(message: Any) -> NDArray[np.uint8]:
        try:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        except (CvBridgeError, TypeError) as error:
            raise ValueError(f"an Image of encoding {message.encoding!r} is not an RGB image: {error}") from None

    return decode
