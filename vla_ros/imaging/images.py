# SPDX-License-Identifier: Apache-2.0
"""The one image path, for training and for the robot: decode to RGB, resize, normalize.

Images are (height, width, 3) uint8 RGB until `to_network` turns them into (..., 3, height, width) floats on the
tensor's device. torch is imported on use, so that packages without torch can decode and resize.

JPEGs are decoded by simplejpeg if it is installed, to the pixels of OpenCV in 60 % of its time: both call
libjpeg-turbo. test/imaging/test_jpeg.py proves it for the kinds of JPEG listed here; OpenCV decodes all others.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import Camera

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]

# 8192 x 8192, or 200 MB: more than any robot's camera has. A damaged file may announce anything.
MAX_PIXELS = 1 << 26
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# JPEG markers (ISO/IEC 10918-1, table B.1): frame headers, which hold the size; those without a length; and those of a
# plain file (JFIF, tables, restart interval, comment): any other may change the pixels (a rotation, other colours).
_BASELINE = 0xC0
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}
_PLAIN = {0xE0, 0xDB, 0xC4, 0xDD, 0xFE, 0xFF}
# 8 bits, and the number and subsampling of each component: grey, 4:4:4, 4:2:2 and 4:2:0.
_FAST_KINDS = {bytes.fromhex(kind) for kind in ("080111", "08011102110311", "08012102110311", "08012202110311")}
_JPEG_HEAD_BYTES = 256  # up to the frame header of a plain file
_REMAP_MAX_SIZE = (1 << 15) - 1  # cv2.remap indexes pixels with 16 bits
_ARENA_BYTES = 1 << 23
_IMREAD_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.10


class ImageHeader(NamedTuple):
    """The size an image file announces, 0 by 0 if unknown; `fast`: a JPEG that simplejpeg decodes as OpenCV does."""

    height: int
    width: int
    fast: bool = False


def decode_image_file(data: bytes) -> Image:
    """Decode the bytes of a JPEG or PNG into (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The bytes are not such an image, or it has more than `MAX_PIXELS`.
        MemoryError: There is too little memory for it.
    """
    header = read_header(data)
    if header.fast and simplejpeg is not None and header.height * header.width <= MAX_PIXELS:
        with contextlib.suppress(ValueError):  # damaged: OpenCV decides what can be decoded
            return _decode_jpeg(data, header)
    return cast(Image, _by_opencv(data, header, _decode))


def decode_unconverted(data: bytes) -> NDArray[Any]:
    """Decode the bytes of a JPEG or PNG as they are, (H, W) or (H, W, BGR), 8 or 16 bits; errors as above."""
    return _by_opencv(data, read_header(data), lambda file: cv2.imdecode(file, cv2.IMREAD_UNCHANGED))


def _by_opencv(
    data: bytes, header: ImageHeader, decode: Callable[[NDArray[np.uint8]], NDArray[Any] | None]
) -> NDArray[Any]:
    if header.height * header.width > MAX_PIXELS:
        raise ValueError(f"an image of {header.width} x {header.height} pixels exceeds the limit of {MAX_PIXELS}")
    try:
        decoded = decode(np.frombuffer(data, np.uint8)) if len(data) else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        raise ValueError(
            f"{len(data)} bytes announce an image of {header.width} x {header.height} pixels: {error.err}"
        ) from None
    if decoded is None:
        raise ValueError(f"{len(data)} bytes are not a JPEG or PNG image: they are cut off or have another format")
    return decoded


def read_header(data: bytes) -> ImageHeader:
    """Read the size that a JPEG or PNG announces."""
    if data.startswith(_PNG) and len(data) >= 24:
        return ImageHeader(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    if not data.startswith(_JPEG):
        return ImageHeader(0, 0)
    header = _cached_jpeg_header(data[:_JPEG_HEAD_BYTES])
    return header if header.height else _jpeg_header(data)


def _jpeg_header(data: bytes) -> ImageHeader:
    at, plain = len(_JPEG), True
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            # Precision, then number and subsampling of each component; its table does not matter.
            kind = data[at + 4 : at + 5] + b"".join(data[one : one + 2] for one in range(at + 10, stop, 3))
            height, width = (int.from_bytes(data[one : one + 2], "big") for one in (at + 5, at + 7))
            fast = plain and marker == _BASELINE and stop <= len(data) and kind in _FAST_KINDS
            return ImageHeader(height, width, fast)
        plain = plain and marker in _PLAIN
        bare = marker in _BARE or marker == 0xFF
        at += (1 if marker == 0xFF else 2) if bare else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return ImageHeader(0, 0)


_cached_jpeg_header = functools.lru_cache(maxsize=16)(_jpeg_header)  # a camera's images all begin alike


def _decode_jpeg(data: bytes, header: ImageHeader) -> Image:
    # Memory that starts 16 bytes past a multiple of 32: at a multiple, libjpeg-turbo writes around the cache, and the
    # resizing that follows takes three times as long.
    size = header.height * header.width * 3
    memory = np.empty(size + 31, np.uint8)
    begin = (16 - memory.__array_interface__["data"][0]) % 32
    pixels = memory[begin : begin + size].reshape(header.height, header.width, 3)
    return cast(
        Image, simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True, buffer=pixels)
    )


def _decode(data: NDArray[np.uint8]) -> Image | None:
    if _IMREAD_RGB is not None:
        return cast("Image | None", cv2.imdecode(data, _IMREAD_RGB))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return None if decoded is None else cast(Image, cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def encode_jpeg(rgb: Image, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"an image of shape {rgb.shape} and type {rgb.dtype} can't be encoded as JPEG")
    return data.tobytes()


def resize(rgb: Image, camera: Camera, out: Image | None = None) -> Image:
    """Resize (H, W, 3) to the camera's network size, into `out` of that size or a new array.

    `stretch` ignores the aspect ratio, `pad` keeps the whole image on black, `crop` keeps its centre.
    """
    height, width = rgb.shape[:2]
    if camera.resize == "stretch" or height * camera.width == width * camera.height:
        return _scale(rgb, camera.height, camera.width, out)
    ratios = (camera.height / height, camera.width / width)
    ratio = min(ratios) if camera.resize == "pad" else max(ratios)
    scaled = _scale(rgb, round(height * ratio), round(width * ratio))
    if out is None:
        out = np.empty((camera.height, camera.width, 3), np.uint8)
    if camera.resize == "crop":
        top, left = (scaled.shape[0] - camera.height) // 2, (scaled.shape[1] - camera.width) // 2
        out[...] = scaled[top : top + camera.height, left : left + camera.width]
    else:
        top, left = (camera.height - scaled.shape[0]) // 2, (camera.width - scaled.shape[1]) // 2
        out[...] = 0
        out[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return out


def _scale(rgb: Image, height: int, width: int, out: Image | None = None) -> Image:
    if rgb.shape[:2] == (height, width):
        if out is None:
            return np.ascontiguousarray(rgb)
        out[...] = rgb
        return out
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if 4 * height == 3 * rgb.shape[0] and 4 * width == 3 * rgb.shape[1] and max(rgb.shape) < _REMAP_MAX_SIZE:
        maps = _three_quarters(height, width)
        return cast(Image, cv2.remap(rgb, *maps, cv2.INTER_LINEAR, dst=out))
    how = cv2.INTER_AREA if height <= rgb.shape[0] and width <= rgb.shape[1] else cv2.INTER_LINEAR
    return cast(Image, cv2.resize(rgb, (width, height), out, interpolation=how))


@functools.lru_cache(maxsize=8)
def _three_quarters(height: int, width: int) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Return maps with which `cv2.remap` scales by 3/4 to (height, width), twice as fast as INTER_AREA.

    Three pixels average four with the weights 3 1, 2 2 and 1 3: interpolation at 0.25, 1.5 and 2.75, which fixed-point
    maps represent exactly. The result is INTER_AREA's, except that halves are rounded up instead of to even.
    """
    rows, columns = (
        np.add.outer(4 * np.arange(size // 3), [0.25, 1.5, 2.75]).ravel().astype(np.float32) for size in (height, width)
    )
    whole, fractions = cv2.convertMaps(*np.meshgrid(columns, rows), cv2.CV_16SC2)
    return cast("NDArray[np.int16]", whole), cast("NDArray[np.uint16]", fractions)


class FrameArena:
    """Allocates the images of consecutive ticks side by side, so that an episode's frames are a view of one block."""

    def __init__(self) -> None:
        self._free: dict[str, tuple[Image, int]] = {}  # per camera, a block (n, h, w, 3) and its first free index

    def __call__(self, camera: Camera) -> Image:
        """Return an array (h, w, 3) that nothing else uses."""
        block, index = self._free.get(camera.name, (np.empty((0, 0, 0, 3), np.uint8), 0))
        if index == len(block):
            count = max(1, _ARENA_BYTES // (camera.height * camera.width * 3))
            block, index = np.empty((count, camera.height, camera.width, 3), np.uint8), 0
        self._free[camera.name] = block, index + 1
        frame: Image = block[index]
        return frame


def contrast(rgb: Image) -> float:
    """Return the standard deviation of the image's 8 x 8 block means [gray levels]; noise averages out."""
    return float(cv2.resize(rgb, (8, 8), interpolation=cv2.INTER_AREA).mean(axis=2).std())


def stack_frames(frames: Sequence[Image]) -> Image:
    """Stack images to (T, h, w, 3): as a view if they lie side by side in an arena's block, else as a copy."""
    block, size = frames[0].base, frames[0].nbytes
    if isinstance(block, np.ndarray) and all(frame.base is block for frame in frames):
        origin, *addresses = (int(one.__array_interface__["data"][0]) for one in (block, *frames))
        if block.shape[1:] == frames[0].shape and addresses == list(range(addresses[0], addresses[-1] + size, size)):
            index = (addresses[0] - origin) // size
            view: Image = block[index : index + len(frames)]
            return view
    return np.stack(frames)


def to_network(pixels: torch.Tensor, camera: Camera) -> torch.Tensor:
    """Turn (..., h, w, 3) uint8 into (..., 3, h, w) float32, normalized with the camera's mean and std."""
    return normalize(pixels, *statistics(camera, pixels.device))


def statistics(camera: Camera, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the camera's mean and std, each (3,); creating them waits for the device, so keep them."""
    import torch

    return torch.tensor(camera.mean, device=device), torch.tensor(camera.std, device=device)


def normalize(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Do what `to_network` does, with the camera's `statistics`, without waiting for the device."""
    return ((pixels.float() / 255 - mean) / std).movedim(-1, -3)
