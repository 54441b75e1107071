# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image of every common encoding becomes the same RGB."""

from __future__ import annotations

import array
import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.imaging.raw import decode_raw

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.full((6, 8, 1), 7, np.uint8)


def message(encoding: str, rows: np.ndarray, height: int = 6, width: int = 8, padding: int = 0, big: bool = False):
    """An Image whose rows of memory are `rows`, each with `padding` bytes behind it."""
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    data = np.pad(data, ((0, 0), (0, padding)), constant_values=123)
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=data.shape[1], is_bigendian=int(big), data=data.reshape(-1)
    )  # fmt: skip


def wide(pixels: np.ndarray) -> np.ndarray:
    """8 bits to the 16 bits of the same brightness."""
    return pixels.astype(np.uint16) * 257


COLOUR = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "rgba8": np.concatenate([RGB, ALPHA], axis=-1),
    "bgra8": np.concatenate([RGB[..., ::-1], ALPHA], axis=-1),
    "rgb16": wide(RGB),
    "bgr16": wide(RGB[..., ::-1]),
    "rgba16": wide(np.concatenate([RGB, ALPHA], axis=-1)),
    "bgra16": wide(np.concatenate([RGB[..., ::-1], ALPHA], axis=-1)),
}


@pytest.mark.parametrize("encoding", COLOUR)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_colour_order_and_depth_gives_the_same_image(encoding: str, padding: int) -> None:
    if encoding.endswith("16"):
        padding *= 2
    decoded = decode_raw(message(encoding, COLOUR[encoding], padding=padding))
    np.testing.assert_array_equal(decoded, RGB)
    assert decoded.flags.c_contiguous and decoded.dtype == np.uint8


@pytest.mark.parametrize(("encoding", "rows"), [("mono8", GREY), ("8UC1", GREY), ("mono16", wide(GREY))])
def test_grey_becomes_three_equal_channels(encoding: str, rows: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_raw(message(encoding, rows)), np.repeat(GREY[..., None], 3, axis=-1))


def test_byte_order_is_as_the_message_says() -> None:
    np.testing.assert_array_equal(decode_raw(message("rgb16", wide(RGB).astype(">u2"), big=True)), RGB)
    values = np.full((6, 8), 0x1234, ">u2")
    assert (decode_raw(message("mono16", values, big=True)) == 0x12).all()
    assert (decode_raw(message("mono16", values.astype("<u2"))) == 0x12).all()


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight() -> None:
    values = np.array([[0, 128, 129, 257, 385, 386, 65406, 65407]] * 6, np.uint16)
    assert decode_raw(message("mono16", values))[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 254, 255]


# Rows and columns of the pattern's two by two cells, and which colour lies there.
PATTERNS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("colour", "RGB")
@pytest.mark.parametrize("bits", [8, 16])
def test_a_bayer_image_of_one_colour_is_that_colour(pattern: str, colour: str, bits: int) -> None:
    lit = np.array([200 if cell == colour else 0 for cell in PATTERNS[pattern]], np.uint8).reshape(2, 2)
    mosaic = np.tile(lit, (4, 4))
    decoded = decode_raw(message(f"bayer_{pattern}{bits}", mosaic if bits == 8 else wide(mosaic), 8, 8))
    expected = [200 if channel == colour else 0 for channel in "RGB"]
    assert decoded[3:5, 3:5].reshape(-1, 3).tolist() == [expected] * 4


RED_YUV = (82, 90, 240)  # BT.601, limited range


@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "UYVY"), ("yuv422", "UYVY"), ("yuyv", "YUYV"), ("yuv422_yuy2", "YUYV")]
)
def test_packed_yuv_of_one_colour_is_that_colour(encoding: str, order: str) -> None:
    y, u, v = RED_YUV
    chroma = iter((u, v))
    pair = [y if letter == "Y" else next(chroma) for letter in order]
    decoded = decode_raw(message(encoding, np.tile(np.array(pair, np.uint8), (6, 4)), padding=3))
    np.testing.assert_allclose(decoded.reshape(-1, 3), np.tile([255, 0, 0], (48, 1)), atol=3)


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", (90, 240)), ("nv21", (240, 90))])
def test_planar_yuv_of_one_colour_is_that_colour(encoding: str, chroma: tuple[int, int]) -> None:
    rows = np.concatenate([np.full((6, 8), 82, np.uint8), np.tile(np.array(chroma, np.uint8), (3, 4))])
    decoded = decode_raw(message(encoding, rows, padding=4))
    assert decoded.shape == (6, 8, 3)
    np.testing.assert_allclose(decoded.reshape(-1, 3), np.tile([255, 0, 0], (48, 1)), atol=3)


@pytest.mark.parametrize("encoding", ["RGB8", "Rgb8"])
def test_encodings_in_wrong_case_are_read_as_meant(encoding: str) -> None:
    np.testing.assert_array_equal(decode_raw(message(encoding, RGB)), RGB)


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("16UC1", "'16UC1' is depth or labels, not a picture; name the colour topic in the robot file"),
        ("32fc1", "'32fc1' is depth"),
        ("32SC1", "'32SC1' is depth"),
        ("32FC3", "'32FC3' is depth"),
        ("8UC3", r"'8UC3' leaves the order of its channels open \(rgb or bgr\?\); the camera's driver must say"),
        ("8UC4", "rgba or bgra"),
        ("8UC2", "yuyv or uyvy"),
    ],
)
def test_numbers_that_are_no_colours_are_refused_by_name(encoding: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_raw(message(encoding, RGB))


@pytest.mark.parametrize(
    ("encoding", "step", "size", "hint"),
    [
        ("rgb8", 16, 144, ": the driver must publish step = 24$"),  # the step of YUYV
        ("rgb8", 0, 144, ": the driver must publish step = 24$"),
        ("yuyv", 8, 96, ": the driver must publish step = 16$"),
        ("rgb8", 16, 96, ": the data have the size of yuyv or uyvy; the driver must publish the right encoding$"),
        ("yuyv", 12, 144, ": the data have the size of rgb8 or bgr8"),
        ("nv12", 8, 48, ": the driver must publish height = 4, without the rows of the colours$"),
        ("rgb8", 24, 0, ": the image is empty$"),
        ("rgb8", 24, 143, "143 bytes in total do not match$"),
    ],
)
def test_the_likely_mistake_of_the_driver_is_named(encoding: str, step: int, size: int, hint: str) -> None:
    wrong = message(encoding, np.zeros((6, 24), np.uint8))
    wrong.step, wrong.data = step, bytes(size)
    with pytest.raises(ValueError, match=hint):
        decode_raw(wrong)


@pytest.mark.parametrize("encoding", ["jpeg2000", "", "rgb"])
def test_unknown_encodings_are_rejected_with_the_list_of_known_ones(encoding: str) -> None:
    with pytest.raises(ValueError, match=rf"'{encoding}' is not a colour or grey image.*one of .*bayer_rggb8.*yuv422"):
        decode_raw(message(encoding, RGB))


@pytest.mark.parametrize(
    "spoil",
    [{"step": 23}, {"step": 0}, {"height": 7}, {"height": 0}, {"width": 0}, {"width": 9}, {"height": 2**32 - 1}],
)
def test_sizes_that_do_not_match_the_data_are_rejected(spoil: dict) -> None:
    wrong = message("rgb8", RGB)
    wrong.__dict__.update(spoil)
    with pytest.raises(ValueError, match=r"pixels of 'rgb8' need \d+ bytes per row, which step"):
        decode_raw(wrong)


@pytest.mark.parametrize(
    ("encoding", "shape", "size"), [("uyvy", (6, 14), (6, 7)), ("nv12", (9, 7), (6, 7)), ("nv21", (8, 8), (5, 8))]
)
def test_odd_sizes_are_rejected_for_subsampled_encodings(encoding: str, shape: tuple, size: tuple) -> None:
    odd = message(encoding, np.zeros(shape, np.uint8), width=size[1])
    odd.height = size[0]
    with pytest.raises(ValueError, match=f"{encoding}.*{size[1]} x {size[0]}.*even"):
        decode_raw(odd)


def test_the_padding_behind_the_last_row_may_be_missing() -> None:
    padded = message("rgb8", RGB, padding=5)
    padded.data = padded.data[:-5]
    np.testing.assert_array_equal(decode_raw(padded), RGB)


def test_rclpy_messages_are_read_like_recorded_ones() -> None:
    live = message("bgr8", RGB[..., ::-1])
    live.data = array.array("B", live.data.tobytes())
    np.testing.assert_array_equal(decode_raw(live), RGB)


@settings(deadline=None)
@given(
    st.sampled_from(["rgb8", "mono16", "bayer_grbg8", "yuyv", "nv21"]),
    st.integers(0, 40), st.integers(0, 40), st.integers(0, 100), st.binary(max_size=400),
)  # fmt: skip
def test_any_message_gives_an_image_of_its_size_or_an_error(
    encoding: str, height: int, width: int, step: int, data: bytes
) -> None:
    image = SimpleNamespace(encoding=encoding, height=height, width=width, step=step, is_bigendian=0, data=data)
    with contextlib.suppress(ValueError):
        assert decode_raw(image).shape == (height, width, 3)
