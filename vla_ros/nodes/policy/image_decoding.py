# SPDX-License-Identifier: Apache-2.0
"""Decode raw images with cv_bridge where it works and agrees with training's decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging import images
from vla_ros.nodes.policy.cv_bridge_probe import Verdict


class RawDecoder:
    """Decodes sensor_msgs/Image into (H, W, 3) uint8 RGB.

    Training reads bags without ROS, with `images.decode_raw`. So the first image of each encoding is decoded both
    ways; if cv_bridge's pixels differ (it scales 16 bits down differently), or it fails where training's decoder does
    not, it is no longer used for that encoding, and `warn` is told.

    Args:
        verdict: of `cv_bridge_probe.probe`. Unless it says so, cv_bridge is not even imported.
        warn: given a text.

    Attributes:
        rejected: why cv_bridge is not used, by encoding.
    """

    def __init__(self, verdict: Verdict, warn: Callable[[str], object]) -> None:
        self.verdict = verdict
        self.rejected: dict[str, str] = {}
        self._agreed: set[str] = set()
        self._warn = warn
        if verdict.use:
            from cv_bridge import CvBridge

            self._bridge = CvBridge()

    def __call__(self, message: Any) -> NDArray[np.uint8]:
        """Decode a message; ValueError if it is no image."""
        encoding = message.encoding
        if not self.verdict.use or encoding in self.rejected:
            return images.decode_raw(message)
        theirs, why = None, "differently from training"
        try:
            theirs = np.ascontiguousarray(self._bridge.imgmsg_to_cv2(message, "rgb8"))
        except Exception as error:  # of its compiled half, anything
            why = f"not at all ({type(error).__name__}: {error})"
        if theirs is not None and encoding in self._agreed:
            return theirs
        ours = images.decode_raw(message)
        if theirs is not None and np.array_equal(theirs, ours):
            self._agreed.add(encoding)
        else:
            self.rejected[encoding] = f"cv_bridge decodes it {why}"
            self._warn(f"cv_bridge decodes {encoding!r} {why}; using our own decoder instead")
        return ours
