# SPDX-License-Identifier: Apache-2.0
"""The one image path: decode, resize, normalise, augment. Training and the robot both go through here.

Arrays are (height, width, 3) uint8 RGB until `to_network`, which moves them to (..., 3, height, width) floats on
whatever device the tensor is on. torch is imported on use, so that rooms without torch can decode and resize.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import Camera
from vla_ros.imaging import jpeg

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]


# 8192 x 8192: more than any camera of a robot has, and 200 MB. A damaged file may announce anything.
MAX_PIXELS = 1 << 26
_PNG = b"\x89PNG\r\n\x1a\n"
# cv2.remap counts pixels in 16 bits.
_MOST_OF_REMAP = (1 << 15) - 1
_DECODES_TO_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.10


def decode_image_file(data: bytes) -> Image:
    """Decode the bytes of a JPEG or PNG into (H, W, 3) uint8 RGB.

    Raises:
        ValueError: they are no such image, or one of more than `MAX_PIXELS`.
    """
    head = _head(data)
    height, width, _ = head
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels; allowed: {MAX_PIXELS} in all")
    if (rgb := jpeg.decode(data, head)) is not None:
        return rgb
    try:
        decoded = _decode(np.frombuffer(data, np.uint8)) if len(data) else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        raise ValueError(f"{len(data)} bytes announce an image of {width} x {height} pixels: {error.err}") from None
    if decoded is None:
        raise ValueError(f"{len(data)} bytes are not a JPEG or PNG image: the message is cut off or has another format")
    return decoded


def _head(data: bytes) -> jpeg.Head:
    """The size that a JPEG or PNG announces, 0 by 0 where it announces none."""
    if data.startswith(jpeg.JPEG):
        return jpeg.read_head(data)
    if data.startswith(_PNG) and len(data) >= 24:
        return jpeg.Head(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), b"")
    return jpeg.Head(0, 0, b"")


def _decode(data: NDArray[np.uint8]) -> Image | None:
    if _DECODES_TO_RGB is not None:
        return cast("Image | None", cv2.imdecode(data, _DECODES_TO_RGB))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return None if decoded is None else cast(Image, cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def encode_jpeg(rgb: Image, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"an image of shape {rgb.shape} and type {rgb.dtype} can't be encoded as JPEG")
    return data.tobytes()


def resize(rgb: Image, camera: Camera, room: Image | None = None) -> Image:
    """Bring (H, W, 3) to the camera's network size, in an array of its own or in `room`, which is of that size.

    `stretch` ignores the aspect ratio, `pad` keeps all of the picture on black, `crop` keeps the middle of it.
    """
    height, width = rgb.shape[:2]
    if camera.resize == "stretch" or height * camera.width == width * camera.height:
        return _scale(rgb, camera.height, camera.width, room)
    fitted = _fitted(rgb, camera)
    if room is None:
        return fitted
    room[...] = fitted
    return room


def _fitted(rgb: Image, camera: Camera) -> Image:
    height, width = rgb.shape[:2]
    ratios = (camera.height / height, camera.width / width)
    ratio = min(ratios) if camera.resize == "pad" else max(ratios)
    scaled = _scale(rgb, round(height * ratio), round(width * ratio))
    if camera.resize == "crop":
        top, left = (scaled.shape[0] - camera.height) // 2, (scaled.shape[1] - camera.width) // 2
        return np.ascontiguousarray(scaled[top : top + camera.height, left : left + camera.width])
    padded = np.zeros((camera.height, camera.width, 3), np.uint8)
    top, left = (camera.height - scaled.shape[0]) // 2, (camera.width - scaled.shape[1]) // 2
    padded[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return padded


def _scale(rgb: Image, height: int, width: int, room: Image | None = None) -> Image:
    if rgb.shape[:2] == (height, width):
        if room is None:
            return np.ascontiguousarray(rgb)
        room[...] = rgb
        return room
    if room is None:
        room = np.empty((height, width, 3), np.uint8)
    if 4 * height == 3 * rgb.shape[0] and 4 * width == 3 * rgb.shape[1] and max(rgb.shape) < _MOST_OF_REMAP:
        maps = _three_quarters(height, width)
        return cast(Image, cv2.remap(rgb, *maps, cv2.INTER_LINEAR, dst=room))
    how = cv2.INTER_AREA if height <= rgb.shape[0] and width <= rgb.shape[1] else cv2.INTER_LINEAR
    return cast(Image, cv2.resize(rgb, (width, height), room, interpolation=how))


@functools.lru_cache(maxsize=8)
def _three_quarters(height: int, width: int) -> tuple[NDArray, NDArray]:
    """Where `cv2.remap` looks to make (height, width) of what is a third larger: twice as fast as INTER_AREA.

    Of four pixels become three, with the weights 3 1, 2 2 and 1 3 over four: interpolated at 0.25, 1.5 and 2.75. Maps
    of fixed-point numbers hold that exactly, so these are the averages of areas to the bit, but that halves are rounded
    up, where INTER_AREA rounds them to even. Of pictures of 4K neither is faster.
    """
    rows, columns = (
        np.add.outer(4 * np.arange(size // 3), [0.25, 1.5, 2.75]).ravel().astype(np.float32) for size in (height, width)
    )
    whole, fractions = cv2.convertMaps(*np.meshgrid(columns, rows), cv2.CV_16SC2)
    return whole, fractions


def to_network(pixels: torch.Tensor, camera: Camera) -> torch.Tensor:
    """(..., h, w, 3) uint8 to (..., 3, h, w) float32, normalised with the camera's mean and std, on the same device."""
    return normalize(pixels, *statistics(camera, pixels.device))


def statistics(camera: Camera, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The camera's mean and std, each (3,), for who normalises often: this waits until they are on the device."""
    import torch

    return torch.tensor(camera.mean, device=device), torch.tensor(camera.std, device=device)


def normalize(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """`to_network` with the `statistics` of the camera; runs on the device alone."""
    return ((pixels.float() / 255 - mean) / std).movedim(-1, -3)


def random_shift(images: torch.Tensor, pixels: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Shift images (B, W, C, h, w) by up to `pixels` in x and y, edges repeated: one shift per trajectory (DrQ-v2).

    The same shift for all W frames of a window, so that apparent motion stays true. Fastest on uint8.
    """
    import torch

    if pixels == 0:
        return images
    height, width = images.shape[-2:]
    device = images.device
    offsets = torch.randint(-pixels, pixels + 1, (len(images), 2), generator=generator, device=device)
    rows = (offsets[:, :1] + torch.arange(height, device=device)).clamp(0, height - 1)
    columns = (offsets[:, 1:] + torch.arange(width, device=device)).clamp(0, width - 1)
    # Trajectory by trajectory with colours last: whole rows are copied, several times faster than one gather of pixels.
    shifted = [
        frames.index_select(1, row).index_select(2, column)  # (W, h, w, C)
        for frames, row, column in zip(images.movedim(2, -1), rows, columns)
    ]
    return torch.stack(shifted).movedim(-1, 2)


def jitter_colour(
    images: torch.Tensor, brightness: float, contrast: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Scale and offset normalised images (B, W, C, h, w): one draw per trajectory, within +- the limits."""
    import torch

    def draw(limit: float) -> torch.Tensor:
        unit = torch.rand((images.shape[0], 1, 1, 1, 1), generator=generator, device=images.device)
        return (2 * unit - 1) * limit

    scale, offset = 1 + draw(contrast), draw(brightness)
    return torch.addcmul(offset, images, scale)
