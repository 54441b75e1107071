# SPDX-License-Identifier: Apache-2.0
"""Where and how a policy computes: the device, the precision, and how its step is launched.

    precision    fp32, or the backbone by autocast in bf16 or fp16; heads always compute in fp32
    compile      none: operation by operation; compile: torch.compile; cuda_graph: one launch replays a recorded step

``auto`` takes what fits the device: on an NVIDIA GPU cuda_graph, and bf16 where the GPU computes in it; on anything
else operation by operation in fp32. What is asked for by name is done or refused, never replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import nn

from vla_ros.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILES = ("auto", "none", "compile", "cuda_graph")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Matrix products take their operands in autocast's type, so these weights may be kept in it: nothing changes.
_CAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WARM_UP_STEPS = 3  # what libraries choose and allocate on first use, they have before a step is recorded


class AccelerationError(UserError):
    """A device, precision or way of launching that is not to be had here."""


@dataclass(frozen=True)
class Acceleration:
    """What was chosen; nothing of it is ``auto`` any more.

    Attributes:
        device: of the weights, with an index where there may be several.
        precision: fp32, bf16 or fp16.
        compile: none, compile or cuda_graph.
        by_name: whether ``compile`` was asked for by its name.
    """

    device: torch.device
    precision: str = "fp32"
    compile: str = "none"
    by_name: bool = True

    def autocast(self) -> torch.autocast:
        """The context in which the policy computes; without a cache of weights, which a graph must not record."""
        wanted = self.precision != "fp32"
        dtype = _DTYPES[self.precision] if wanted else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=wanted, cache_enabled=False)

    def convert(self, module: nn.Module) -> None:
        """Keep the weights of matrix products in the type that autocast would bring them to at every step.

        A backbone of billions of weights is read once per step, and that takes most of its time: half the bytes, and
        no cast. The results are autocast's, bit for bit.
        """
        if self.precision == "fp32":
            return
        for layer in module.modules():
            if isinstance(layer, _CAST_LAYERS):
                layer.to(_DTYPES[self.precision])


def choose(device: str = "auto", precision: str = "auto", compile: str = "auto") -> Acceleration:
    """Return what ``auto`` stands for on this machine.

    Raises:
        AccelerationError: something was asked for by name that does not exist or can't be had here.
    """
    for name, value, allowed in (("precision", precision, PRECISIONS), ("compile", compile, COMPILES)):
        if value not in allowed:
            raise AccelerationError(f"the parameter {name} is {value!r}; allowed: {', '.join(allowed)}")
    where = _usable(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    nvidia = where.type == "cuda"
    if compile == "cuda_graph" and not nvidia:
        raise AccelerationError(
            f"the parameter compile is 'cuda_graph', but the device is {where}; a CUDA graph needs an NVIDIA GPU: "
            "take compile auto or none, or device cuda"
        )
    if compile == "compile":
        _require_compiler(where)
    if precision == "auto":
        # Not fp16 on older GPUs: what was trained in fp32 or bf16 may exceed its largest number, 65504.
        precision = "bf16" if nvidia and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    launched = ("cuda_graph" if nvidia else "none") if compile == "auto" else compile
    return Acceleration(where, precision, launched, by_name=compile != "auto")


def _usable(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise AccelerationError(f"the parameter device is {device!r}, not usable here ({reason}); try auto") from None
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else where


def _require_compiler(device: torch.device) -> None:
    """Say what torch.compile lacks before it says so in a hundred lines."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise AccelerationError(
                f"the parameter compile is 'compile', which on the CPU needs a C++ compiler, and there is no "
                f"{compiler!r}; install g++ (or name one in the environment variable CXX), or take compile none"
            )
    elif find_spec("triton") is None:
        raise AccelerationError(
            f"the parameter compile is 'compile', which on {device} needs triton, and it is not installed; install "
            "triton, or take compile cuda_graph or none"
        )


def compiled(step: Callable[[], None]) -> Callable[[], None]:
    """Return ``step`` compiled for its one set of shapes; the first calls of the result compile, for a minute or so."""
    return torch.compile(step, dynamic=False)


class CapturedStep:
    """A step recorded as a CUDA graph; calling it replays the record on the same memory.

    To be made and called by one thread. ``step`` must read and write nothing but memory that stays in its place, wait
    for nothing and look at no value.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        aside = torch.cuda.Stream(device)
        with torch.cuda.device(device):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP_STEPS):
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile, a simulator's renderer for instance.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                step()

    def __call__(self) -> None:
        self._graph.replay()


@contextlib.contextmanager
def naming(setting: str):
    """Turn what goes wrong while a step is compiled or captured into an AccelerationError about ``setting``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AccelerationError(
            f"the parameter compile is {setting!r}, which failed for this policy ({first}); take compile none"
        ) from error
