# SPDX-License-Identifier: Apache-2.0
"""Where and how a policy computes: the device, the precision, how a step is launched, and the buffers around it.

    precision    fp32, or the backbone by autocast in bf16 or fp16; heads always compute in fp32
    compile      none: eager mode; compile: torch.compile; cuda_graph: one launch replays a captured step

`auto` takes what suits the device: on an NVIDIA GPU cuda_graph, and bf16 if the GPU supports it; otherwise eager fp32.
An explicit choice is honoured or refused, never replaced.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_ros.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILES = ("auto", "none", "compile", "cuda_graph")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Autocast casts the operands of these layers, so keeping their weights in its type changes no result.
_CAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WARM_UP_STEPS = 3  # libraries choose kernels and allocate on first use, which must precede the capture
ALIGNMENT_BYTES = 64  # of a field in `DeviceInputs`: any type can be viewed there

Field = tuple[tuple[int, ...], torch.dtype]


class AccelerationError(UserError):
    """A device, precision or way of launching that is not available."""


@dataclass(frozen=True)
class Acceleration:
    """A choice without any `auto`; the default is eager fp32 on the CPU.

    Attributes:
        device: of the weights, with an index if there may be several.
        precision: fp32, bf16 or fp16.
        compile: none, compile or cuda_graph.
        explicit: whether the user chose `compile`: if it fails, that is an error instead of a fallback.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    compile: str = "none"
    explicit: bool = True

    def autocast(self) -> torch.autocast:
        """Return the context to compute in; it caches no weights, as a graph must not capture the cache."""
        enabled = self.precision != "fp32"
        dtype = _DTYPES[self.precision] if enabled else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=enabled, cache_enabled=False)

    def convert(self, module: nn.Module) -> None:
        """Store the weights that autocast would cast at every step in its type.

        Large backbones are bound by reading their weights; this halves the bytes and saves the cast. Results are
        autocast's, bit for bit.
        """
        if self.precision == "fp32":
            return
        for layer in module.modules():
            if isinstance(layer, _CAST_LAYERS):
                layer.to(_DTYPES[self.precision])


def choose_acceleration(device: str = "auto", precision: str = "auto", compile: str = "auto") -> Acceleration:
    """Resolve `auto` on this machine.

    Raises:
        AccelerationError: an explicit choice does not exist or is not available here.
    """
    for name, value, allowed in (("precision", precision, PRECISIONS), ("compile", compile, COMPILES)):
        if value not in allowed:
            raise AccelerationError(f"the parameter {name} is {value!r}; it must be one of {', '.join(allowed)}")
    chosen = _usable_device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    nvidia = chosen.type == "cuda"
    if compile == "cuda_graph" and not nvidia:
        raise AccelerationError(
            f"the parameter compile is 'cuda_graph', which needs an NVIDIA GPU, but the device is {chosen}; use "
            "compile auto or none, or device cuda"
        )
    if compile == "compile":
        _require_compiler(chosen)
    if precision == "auto":
        # Not fp16 on older GPUs: activations of networks trained in fp32 or bf16 may exceed its maximum, 65504.
        precision = "bf16" if nvidia and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    launch = ("cuda_graph" if nvidia else "none") if compile == "auto" else compile
    return Acceleration(chosen, precision, launch, explicit=compile != "auto")


def _usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise AccelerationError(
            f"the parameter device is {name!r}, which is not usable here ({reason}); try auto"
        ) from None
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else device


def _require_compiler(device: torch.device) -> None:
    """Raise AccelerationError if torch.compile would fail for want of a compiler."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise AccelerationError(
                f"the parameter compile is 'compile', but the C++ compiler {compiler!r}, needed on the CPU, was not "
                "found; install g++, set the environment variable CXX, or use compile none"
            )
    elif find_spec("triton") is None:
        raise AccelerationError(
            f"the parameter compile is 'compile', but triton, needed on {device}, is not installed; install triton, or "
            "use compile cuda_graph or none"
        )


def compile_step(step: Callable[[], None]) -> Callable[[], None]:
    """Return `step` compiled for its one set of shapes; its first calls compile, for a minute or so."""
    return torch.compile(step, dynamic=False)


class CapturedStep:
    """A step captured as a CUDA graph; calling it replays the graph on the same memory.

    Construct and call it in one thread. `step` must use only memory that stays in place, must not synchronise, and must
    not branch on values.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        with torch.cuda.device(device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads, such as a simulator's renderer, may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                step()

    def __call__(self) -> None:
        self._graph.replay()


@contextlib.contextmanager
def compile_errors(setting: str) -> Iterator[None]:
    """Raise errors of compiling or capturing a step as AccelerationError about `setting`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AccelerationError(
            f"the parameter compile is {setting!r}, which failed for this policy ({first}); use compile none"
        ) from error


class DeviceInputs:
    """Named arrays in one buffer on the host, mirrored as tensors in one buffer on the device.

    For a CUDA device the host's buffer is pinned, so that the copy is asynchronous; on the CPU both share memory. After
    `send`, leave the arrays alone until the step is done.

    Args:
        fields: name -> (shape, type), each with at least one element.
    """

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        starts, end = {}, 0
        for name, (shape, dtype) in fields.items():
            starts[name] = end
            used = math.prod(shape) * dtype.itemsize
            end += -(-used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._pinned = device.type == "cuda"
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=self._pinned)
        self._device = self._host if device.type == "cpu" else torch.zeros(end, dtype=torch.uint8, device=device)
        self.arrays: dict[str, NDArray[Any]] = {}  # each field has its own type
        self.tensors: dict[str, Tensor] = {}
        for name, (shape, dtype) in fields.items():
            field = slice(starts[name], starts[name] + math.prod(shape) * dtype.itemsize)
            self.arrays[name] = self._host[field].view(dtype).view(shape).numpy()
            self.tensors[name] = self._device[field].view(dtype).view(shape)

    def send(self) -> None:
        """Copy `arrays` to `tensors`, in order with the device's current stream."""
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=self._pinned)


class OutputBuffer:
    """A tensor on the device and, for CUDA, pinned memory on the host to fetch it into."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.tensor = torch.zeros(shape, device=device)
        self._host = torch.zeros(shape, pin_memory=device.type == "cuda")
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":  # a blocking event yields the CPU, which the control thread may need
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's

    def fetch(self) -> NDArray[np.float32]:
        """Wait for the device and return a copy of `tensor`."""
        self._host.copy_(self.tensor, non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self.tensor.device))
            self._arrived.synchronize()
        return self._host.numpy().copy()
