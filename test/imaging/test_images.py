# SPDX-License-Identifier: Apache-2.0
"""Decode, resize and normalize."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from vla_ros.contract import Camera
from vla_ros.imaging import images


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 40)], axis=-1).astype(np.uint8)


def test_jpeg_keeps_the_order_of_the_colours():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    decoded = images.decode_image_file(images.encode_jpeg(red))
    assert abs(int(decoded[..., 0].mean()) - 200) < 5 and decoded[..., 2].mean() < 5


@pytest.mark.parametrize("data", [b"", b"not an image", images.encode_jpeg(np.zeros((16, 16, 3), np.uint8))[:20]])
def test_bytes_that_are_not_an_image_are_rejected(data):
    with pytest.raises(ValueError, match="not a JPEG or PNG"):
        images.decode_image_file(data)


@pytest.mark.parametrize("encode", [".jpg", ".png"])
def test_an_image_of_impossible_size_is_rejected_before_allocating_memory(encode: str) -> None:
    data = bytearray(cv2.imencode(encode, np.zeros((240, 320, 3), np.uint8))[1].tobytes())
    size = (240).to_bytes(4 if encode == ".png" else 2, "big")
    at = data.index(size) if encode == ".jpg" else 20
    data[at : at + len(size)] = b"\xff" * len(size)
    if encode == ".png":
        data[16:20] = (60_000).to_bytes(4, "big")
    else:
        data[at + 2 : at + 4] = (60_000).to_bytes(2, "big")
    with pytest.raises(ValueError, match=r"60000 x \d+ pixels exceeds the limit"):
        images.decode_image_file(bytes(data))


@pytest.mark.parametrize("encode", [".jpg", ".png"])
@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64)])
def test_jpeg_and_png_of_colour_and_grey_are_decoded(encode: str, shape: tuple) -> None:
    decoded = images.decode_image_file(cv2.imencode(encode, np.full(shape, 90, np.uint8))[1].tobytes())
    assert decoded.shape == (48, 64, 3) and abs(int(decoded.mean()) - 90) <= 1


def test_halving_averages_neighbours():
    rgb = gradient(8, 8)
    expected = rgb.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(images.resize(rgb, Camera("c", 4, 4)) - expected).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(4, 4), (128, 128), (96, 128), (120, 160), (400, 400), (4, 40000)])
def test_scaling_by_three_quarters_averages_areas(height: int, width: int) -> None:
    """With all pixels of 0 to 3, every second sum or so lies halfway between two values."""
    rng = np.random.default_rng(0)
    small = height * 3 // 4, width * 3 // 4
    for top in (4, 256):
        rgb = rng.integers(0, top, (height, width, 3), np.uint8)
        thirds = rgb.astype(np.uint16).repeat(3, axis=0).repeat(3, axis=1)
        sums = thirds.reshape(small[0], 4, small[1], 4, 3).sum(axis=(1, 3))
        halves_to_even, halves_up = np.rint(sums / 16), (sums + 8) // 16
        np.testing.assert_array_equal(cv2.resize(rgb, small[::-1], interpolation=cv2.INTER_AREA), halves_to_even)
        found = images.resize(rgb, Camera("c", *small))
        np.testing.assert_array_equal(found, halves_to_even if width > 32767 else halves_up)


@pytest.mark.parametrize("stretched", [(96, 64), (64, 96), (97, 96)])
def test_all_other_ratios_are_opencv_s(stretched: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    expected = cv2.resize(rgb, stretched[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(images.resize(rgb, Camera("c", *stretched)), expected)


def files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    deep = rng.integers(0, 1 << 16, (48, 64, 3)).astype(np.uint16)
    kinds = {"colour": smooth, "grey": smooth[..., 0], "alpha": np.dstack([smooth, smooth[..., :1]])}
    png = {**kinds, "deep colour": deep, "deep grey": deep[..., 0]}
    both = [(".jpg", name, picture) for name, picture in kinds.items()]
    both += [(".png", name, picture) for name, picture in png.items()]
    return {f"{name}{ending}": cv2.imencode(ending, picture)[1].tobytes() for ending, name, picture in both}


@pytest.mark.parametrize("name", files())
def test_older_versions_of_opencv_decode_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = images.decode_image_file(files()[name])
    monkeypatch.setattr(images, "_IMREAD_RGB", None)
    np.testing.assert_array_equal(found, images.decode_image_file(files()[name]))


def test_pad_keeps_the_whole_image_and_crop_its_centre():
    rgb = np.full((40, 80, 3), 200, np.uint8)
    rgb[:, :10] = 0
    padded = images.resize(rgb, Camera("c", 40, 40, resize="pad"))
    assert padded.shape == (40, 40, 3) and (padded[:10] == 0).all() and (padded[12:28, 8:] > 150).all()
    cropped = images.resize(rgb, Camera("c", 40, 40, resize="crop"))
    np.testing.assert_array_equal(cropped, rgb[:, 20:60])


def test_an_image_of_network_size_is_unchanged():
    rgb = gradient(24, 32)
    np.testing.assert_array_equal(images.resize(rgb, Camera("c", 24, 32)), rgb)


def test_to_network_normalises_each_channel():
    camera = Camera("c", 2, 2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = torch.full((5, 2, 2, 3), 255, dtype=torch.uint8)
    result = images.to_network(pixels, camera)
    assert result.shape == (5, 3, 2, 2)
    np.testing.assert_allclose(result[0, :, 0, 0].numpy(), [1.0, 1.0, 0.0])
