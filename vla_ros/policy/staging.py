# SPDX-License-Identifier: Apache-2.0
"""The way of a frame to the device and of a chunk back: one copy each, out of memory that stays in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT_BYTES = 64  # of a field in the buffer: any type can be viewed there

Field = tuple[tuple[int, ...], torch.dtype]


class Staging:
    """Named arrays in one buffer on the host, and the same as tensors in one buffer on the device.

    The host's buffer is pinned for a CUDA device, so that the copy needs no CPU and does not wait. On the CPU both are
    the same memory and nothing is copied. What is written on the host until ``send`` must stay until the step is over.

    Args:
        fields: name -> (shape, type), all with at least one element.
    """

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        starts, end = {}, 0
        for name, (shape, dtype) in fields.items():
            starts[name] = end
            used = math.prod(shape) * dtype.itemsize
            end += -(-used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        pinned = device.type == "cuda"
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=pinned)
        self._there = self._host if device.type == "cpu" else torch.zeros(end, dtype=torch.uint8, device=device)
        self._pinned = pinned
        self.arrays: dict[str, NDArray] = {}
        self.tensors: dict[str, Tensor] = {}
        for name, (shape, dtype) in fields.items():
            part = slice(starts[name], starts[name] + math.prod(shape) * dtype.itemsize)
            self.arrays[name] = self._host[part].view(dtype).view(shape).numpy()
            self.tensors[name] = self._there[part].view(dtype).view(shape)

    def send(self) -> None:
        """Bring what is in ``arrays`` to ``tensors``, in the order of the device's current stream."""
        if self._there is not self._host:
            self._there.copy_(self._host, non_blocking=self._pinned)


class Return:
    """One tensor's place on the device and, for a CUDA device, pinned memory on the host that it is fetched to."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.tensor = torch.zeros(shape, device=device)
        self._host = torch.zeros(shape, pin_memory=device.type == "cuda")
        # A blocking event gives the CPU away while the device computes; the control thread may need it.
        self._arrived = torch.cuda.Event(blocking=True) if device.type == "cuda" else None

    def fetch(self) -> NDArray[np.float32]:
        """Wait for the device and return a copy of what ``tensor`` holds."""
        self._host.copy_(self.tensor, non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self.tensor.device))
            self._arrived.synchronize()
        return self._host.numpy().copy()
