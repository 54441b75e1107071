# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array

import numpy as np
import pytest

from vla_ros import messages
from vla_ros.nodes.image_decoding import raw_decoder

pytestmark = pytest.mark.ros
sensor_msgs = pytest.importorskip("sensor_msgs.msg")


def message(encoding: str, channels: int, padding: int = 0):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8 * channels + padding), np.uint8)
    return sensor_msgs.Image(
        height=6, width=8, encoding=encoding, step=pixels.shape[1], data=array.array("B", pixels.tobytes())
    )


def test_without_cv_bridge_rosbags_image_decodes():
    if not _cv_bridge_installed():
        assert raw_decoder() is messages.decode_raw


@pytest.mark.parametrize(("encoding", "channels"), [("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("bgra8", 4), ("mono8", 1)])
def test_both_decoders_give_the_same_picture(encoding, channels):
    if not _cv_bridge_installed():
        pytest.skip("cv_bridge is not installed: it comes with a ROS distribution")
    image = message(encoding, channels)
    assert np.array_equal(raw_decoder()(image), messages.decode_raw(image))


def test_what_is_no_image_is_a_value_error():
    with pytest.raises(ValueError):
        raw_decoder()(message("no_such_encoding", 3))


def _cv_bridge_installed() -> bool:
    try:
        import cv_bridge  # noqa: F401
    except ImportError:
        return False
    return True
