# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from vla_ros.imaging import raw
from vla_ros.nodes.policy.cv_bridge_probe import ENCODINGS, Verdict, probe
from vla_ros.nodes.policy.image_decoding import RawDecoder

WORKS = Verdict(True, False, "works")


def message(encoding: str = "bgr8", channels: int = 3):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8 * channels), np.uint8)
    return SimpleNamespace(
        height=6, width=8, encoding=encoding, step=8 * channels, is_bigendian=0, data=array.array("B", pixels.tobytes())
    )


@pytest.fixture
def cv_bridge(monkeypatch):
    """A cv_bridge whose pictures the test sets; `calls` counts what it decoded."""
    bridge = SimpleNamespace(calls=0, decode=raw.decode_raw)

    class CvBridge:
        def imgmsg_to_cv2(self, image, encoding):
            assert encoding == "rgb8"
            bridge.calls += 1
            return bridge.decode(image)

    module = ModuleType("cv_bridge")
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    return bridge


def test_a_cv_bridge_that_does_not_work_is_not_even_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    decode = RawDecoder(Verdict(False, True, "it crashed"), pytest.fail)
    assert np.array_equal(decode(message()), raw.decode_raw(message()))


def test_cv_bridge_is_used_where_it_agrees_with_training(cv_bridge):
    decode = RawDecoder(WORKS, pytest.fail)
    for _ in range(3):
        assert np.array_equal(decode(message()), raw.decode_raw(message()))
    assert cv_bridge.calls == 3


def test_if_cv_bridge_gives_different_pixels_it_is_not_used_and_a_warning_is_logged(cv_bridge):
    cv_bridge.decode = lambda image: raw.decode_raw(image)[..., ::-1]
    warnings: list[str] = []
    decode = RawDecoder(WORKS, warnings.append)
    for _ in range(3):
        assert np.array_equal(decode(message()), raw.decode_raw(message()))
    assert cv_bridge.calls == 1
    assert len(warnings) == 1 and "'bgr8'" in warnings[0]


@pytest.mark.parametrize("error", [ImportError("cv_bridge_boost"), RuntimeError("no conversion"), SystemError("null")])
def test_what_cv_bridge_cannot_decode_training_decodes(cv_bridge, error):
    def fail(image):
        raise error

    cv_bridge.decode = fail
    warnings: list[str] = []
    decode = RawDecoder(WORKS, warnings.append)
    for _ in range(3):
        assert decode(message()).shape == (6, 8, 3)
    assert cv_bridge.calls == 1 and len(warnings) == 1
    assert str(error) in decode.rejected["bgr8", 8, 24, False]


def test_another_layout_of_an_encoding_is_compared_anew(cv_bridge):
    def ignore_padding(image):  # as cv_bridge does where it is less than a pixel
        rows = np.frombuffer(image.data, np.uint8)[: image.height * image.width * 3]
        return rows.reshape(image.height, image.width, 3)[..., ::-1]

    cv_bridge.decode = ignore_padding
    warnings: list[str] = []
    decode = RawDecoder(WORKS, warnings.append)
    padded = message()
    padded.step = 25
    padded.data = array.array("B", np.random.default_rng(0).integers(0, 255, 6 * 25, np.uint8).tobytes())
    for image in (message(), padded, message(), padded):
        assert np.array_equal(decode(image), raw.decode_raw(image))
    assert len(warnings) == 1 and "'bgr8' of width 8 and step 25" in warnings[0]


def test_a_damaged_image_does_not_count_against_cv_bridge(cv_bridge):
    decode = RawDecoder(WORKS, pytest.fail)
    decode(message())
    damaged = message()
    damaged.data = damaged.data[:20]
    with pytest.raises(ValueError, match="20 bytes in total"):
        decode(damaged)
    decode(message())
    assert cv_bridge.calls == 3 and not decode.rejected


def test_what_is_no_image_is_a_value_error(cv_bridge):
    with pytest.raises(ValueError, match="no_such_encoding"):
        RawDecoder(WORKS, pytest.fail)(message("no_such_encoding"))


def test_the_installed_cv_bridge_agrees_on_what_cameras_send():
    pytest.importorskip("cv_bridge", reason="cv_bridge is not installed: it comes with a ROS distribution")
    for encoding, channels in ENCODINGS.items():
        decode = RawDecoder(probe(), pytest.fail)
        for _ in range(2):
            image = message(encoding, channels)
            assert np.array_equal(decode(image), raw.decode_raw(image))
