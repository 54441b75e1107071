# SPDX-License-Identifier: Apache-2.0
"""CompressedImage: what its format says counts, and what is not a picture is refused by name."""

from __future__ import annotations

import array
import contextlib
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.imaging import images
from vla_ros.imaging.compressed import decode_compressed

COLOUR = (200, 60, 30)
RGB = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
DEPTH = np.random.default_rng(1).integers(400, 2500, (16, 16)).astype(np.uint16)
# compressed_depth_image_transport's header before the PNG: an enumerator and two floats.
DEPTH_HEADER = struct.pack("<iff", 0, 0.0, 0.0)


def file(pixels: np.ndarray, kind: str = "png") -> bytes:
    return cv2.imencode(f".{kind}", pixels)[1].tobytes()


def message(format: str, data: bytes) -> SimpleNamespace:
    return SimpleNamespace(format=format, data=np.frombuffer(data, np.uint8))


def mosaic(pattern: str) -> np.ndarray:
    """The mosaic of a picture of one colour."""
    cells = np.array([COLOUR["rgb".index(letter)] for letter in pattern], np.uint8).reshape(2, 2)
    return np.tile(cells, (8, 8))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_compressed_bayer_mosaic_is_debayered(pattern: str, bits: int) -> None:
    pixels = mosaic(pattern) if bits == 8 else mosaic(pattern).astype(np.uint16) * 257
    decoded = decode_compressed(message(f"bayer_{pattern}{bits}; png compressed ", file(pixels)))
    assert decoded.shape == (16, 16, 3)
    assert (decoded[4:12, 4:12] == COLOUR).all()


def test_a_bayer_camera_whose_picture_was_debayered_before_compression_is_read_as_it_is() -> None:
    data = images.encode_jpeg(RGB)
    decoded = decode_compressed(message("bayer_rggb8; jpeg compressed bgr8", data))
    np.testing.assert_array_equal(decoded, images.decode_image_file(data))


@pytest.mark.parametrize(
    "format", ["jpeg", "jpg", "", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", "8UC3; jpeg compressed "]
)
def test_colours_are_read_whatever_the_camera_s_encoding_was(format: str) -> None:
    data = images.encode_jpeg(RGB)
    live = SimpleNamespace(format=format, data=array.array("B", data))
    np.testing.assert_array_equal(decode_compressed(live), images.decode_image_file(data))


def test_greys_of_16_bits_are_read_if_the_format_says_so() -> None:
    decoded = decode_compressed(message("mono16; png compressed ", file(DEPTH)))
    assert decoded.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("format", "data", "reason"),
    [
        ("h264", b"\0\0\0\1\x67", "format 'h264' is video.*must have JPEG or PNG"),
        ("hevc;bgr8;yuv420p", b"\0\0\0\1\x40", "format 'hevc;bgr8;yuv420p' is video"),
        ("H.265", b"", "format 'H.265' is video"),
        ("libx264", b"", "is video"),
        ("av1", b"\x12\0", "is video"),
        ("jpeg", b"\0\0\1\x67", "the bytes are H.264 or H.265 video .format 'jpeg'.*must have JPEG or PNG"),
        ("16UC1; compressedDepth png", DEPTH_HEADER + file(DEPTH), "is depth, not a picture; name the colour topic"),
        ("jpeg", DEPTH_HEADER + file(DEPTH), "the bytes are depth .compressedDepth"),
        ("16UC1; png compressed ", file(DEPTH), "'16UC1' is depth or labels.*name the colour topic"),
        ("16UC1; jpeg compressed ", file(DEPTH.astype(np.uint8), "jpg"), "'16UC1' is depth"),
        ("32FC1; png compressed ", file(DEPTH), "'32FC1' is depth"),
        ("png", file(DEPTH), "16-bit greys in format 'png' is depth"),
        ("rgb8; png compressed bgr8", file(DEPTH), "16-bit greys in format .* is depth"),
        ("webp", file(RGB, "webp"), "the bytes are webp .format 'webp'.; the topic must have JPEG or PNG"),
        ("jpeg", file(RGB, "bmp"), "the bytes are bmp"),
        ("rgb8; tiff compressed bgr8", file(RGB, "tiff"), "the bytes are tiff"),
        ("jpeg", b"", "0 bytes are not a JPEG or PNG"),
        ("bayer_rggb8; png compressed ", file(mosaic("rggb"))[:40], "bytes are not a JPEG or PNG|announce an image"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_by_name(format: str, data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_compressed(message(format, data))


@settings(deadline=None)
@given(
    st.sampled_from(["jpeg", "bayer_rggb8; png compressed ", "bayer_gbrg16; jpeg compressed ", "mono16", ""]),
    st.sampled_from([file(RGB), file(RGB, "jpg"), file(DEPTH), file(mosaic("rggb"))]),
    st.integers(0, 1200), st.integers(0, 255),
)  # fmt: skip
def test_damaged_messages_give_an_image_or_an_error(format: str, data: bytes, at: int, value: int) -> None:
    damaged = data[:at] + bytes([value]) + data[at + 1 :]
    with contextlib.suppress(ValueError):
        assert decode_compressed(message(format, damaged)).shape[2] == 3
