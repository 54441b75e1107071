# SPDX-License-Identifier: Apache-2.0
"""Decode raw images with cv_bridge where it works and agrees with training's decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.imaging import raw
from vla_ros.nodes.policy.cv_bridge_probe import Verdict

Layout = tuple[str, int, int, bool]


class RawDecoder:
    """Decodes sensor_msgs/Image into (H, W, 3) uint8 RGB.

    Training reads bags without ROS, with `raw.decode_raw`. So the first image of each layout is decoded both ways;
    if cv_bridge's pixels differ (it scales 16 bits down differently, and misreads rows that are padded by less than a
    pixel), or it fails where training's decoder does not, it is no longer used for that layout, and `warn` is told.

    Args:
        verdict: of `cv_bridge_probe.probe`. Unless it says so, cv_bridge is not even imported.
        warn: given a text.

    Attributes:
        rejected: why cv_bridge is not used, by layout (encoding, width [pixels], step [bytes], byte order).
    """

    def __init__(self, verdict: Verdict, warn: Callable[[str], object]) -> None:
        self.verdict = verdict
        self.rejected: dict[Layout, str] = {}
        self._agreed: set[Layout] = set()
        self._warn = warn
        if verdict.use:
            from cv_bridge import CvBridge

            self._bridge = CvBridge()

    def __call__(self, message: Any) -> NDArray[np.uint8]:
        """Decode a message; ValueError if it is no image."""
        layout = (message.encoding, message.width, message.step, bool(message.is_bigendian))
        if not self.verdict.use or layout in self.rejected:
            return raw.decode_raw(message)
        theirs, why = None, "differently from training"
        try:
            theirs = np.ascontiguousarray(self._bridge.imgmsg_to_cv2(message, "rgb8"))
        except Exception as error:  # of its compiled half, anything
            why = f"not at all ({type(error).__name__}: {error})"
        if theirs is not None and layout in self._agreed:
            return theirs
        ours = raw.decode_raw(message)
        if theirs is not None and np.array_equal(theirs, ours):
            self._agreed.add(layout)
        else:
            self.rejected[layout] = f"cv_bridge decodes it {why}"
            text = f"{message.encoding!r} of width {message.width} and step {message.step}"
            self._warn(f"cv_bridge decodes {text} {why}; using our own decoder instead")
        return ours
