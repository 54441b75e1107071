# SPDX-License-Identifier: Apache-2.0
"""Whichever library decodes a JPEG, the pixels are OpenCV's."""

from __future__ import annotations

import importlib.metadata

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.imaging import images

with_simplejpeg = pytest.mark.skipif(images.simplejpeg is None, reason="simplejpeg is not installed")
# OpenCV's own constants, which it has since 4.7. Older ones ignore the parameter and write 4:2:0.
SAMPLING_FACTOR = 7
SAMPLINGS = {"411": 0x411111, "420": 0x221111, "422": 0x211111, "440": 0x121111, "444": 0x111111}


def picture(seed: int, height: int, width: int, noisy: bool) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return noise if noisy else cv2.resize(noise[:5, :5], (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(rgb: np.ndarray, *settings_: int) -> bytes:
    return cv2.imencode(".jpg", rgb, list(settings_))[1].tobytes()


def by_opencv(data: bytes) -> np.ndarray | None:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if decoded is None else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def with_rotation(data: bytes) -> bytes:
    """The picture with an Exif head that says that it lies on its side."""
    orientation = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + orientation
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


@with_simplejpeg
def test_plain_jpegs_are_decoded_by_simplejpeg() -> None:
    """Else the next tests compare OpenCV with itself."""
    data = encoded(picture(0, 120, 160, noisy=False))
    header = images.read_header(data)
    assert header.fast
    np.testing.assert_array_equal(images._decode_jpeg(data, header), by_opencv(data))


@with_simplejpeg
@pytest.mark.parametrize("kind", ["grey", "420", "422", "444"])
@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("noisy", [True, False])
def test_simplejpeg_and_opencv_decode_every_fast_kind_to_the_same_pixels(kind: str, quality: int, noisy: bool) -> None:
    """If a new version of either fails here, limit it in setup.py: nothing compares them at run time."""
    rgb = picture(0, 67, 93, noisy)
    sampling = SAMPLINGS.get(kind, SAMPLINGS["444"])
    data = encoded(
        rgb[..., 0] if kind == "grey" else rgb, *(cv2.IMWRITE_JPEG_QUALITY, quality, SAMPLING_FACTOR, sampling)
    )
    header = images.read_header(data)
    assert header.fast
    versions = f"OpenCV {cv2.__version__}, simplejpeg {importlib.metadata.version('simplejpeg')}"
    np.testing.assert_array_equal(images._decode_jpeg(data, header), by_opencv(data), err_msg=versions)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 9), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.sampled_from([*SAMPLINGS.values()]),
    st.integers(1, 100), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_jpeg_is_decoded_to_opencv_s_pixels(
    seed: int, height: int, width: int, noisy: bool, sampling: int, quality: int, grey: bool, progressive: bool,
    turned: bool,
) -> None:  # fmt: skip
    rgb = picture(seed, max(height, 5), max(width, 5), noisy)[:height, :width]
    data = encoded(
        rgb[..., 0] if grey else rgb, cv2.IMWRITE_JPEG_QUALITY, quality, SAMPLING_FACTOR, sampling,
        cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive),
    )  # fmt: skip
    data = with_rotation(data) if turned else data
    np.testing.assert_array_equal(images.decode_image_file(data), by_opencv(data))


@pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 7),
    reason="the libjpeg-turbo of OpenCV before 4.7 fills what is damaged with other pixels than simplejpeg's",
)
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_jpegs_are_decoded_as_opencv_does(drawn: st.DataObject) -> None:
    data = bytearray(encoded(picture(1, 40, 56, noisy=False)))
    for _ in range(drawn.draw(st.integers(0, 4))):
        data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
    cut = bytes(data[: drawn.draw(st.integers(1, len(data)))]) if drawn.draw(st.booleans()) else bytes(data)
    head = images.read_header(cut)
    if head.height * head.width > 1 << 20:
        return
    try:
        expected = by_opencv(cut)
    except cv2.error:
        expected = None
    try:
        found = images.decode_image_file(cut)
    except ValueError:
        found = None
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found, expected)


def test_the_size_is_read_without_decoding_anything() -> None:
    data = encoded(picture(3, 48, 64, noisy=True))
    for one in (data, with_rotation(data)):
        assert images.read_header(one)[:2] == (48, 64)
    assert images.read_header(data).fast and not images.read_header(with_rotation(data)).fast
    assert images.read_header(data[:100]) == (0, 0, False)
