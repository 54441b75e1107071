# SPDX-License-Identifier: Apache-2.0
"""Try cv_bridge in a process of its own, since one that was built for another NumPy ends the process that uses it.

`python -m vla_ros.nodes.policy.cv_bridge_probe` prints the outcome in one line. Neither needs nor imports rclpy.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from vla_ros.imaging import raw

# Encodings of cameras, and their bytes per pixel. Others are compared when their first image arrives.
ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
TIMEOUT_S = 20.0
WORKS = "works"
# NumPy 2 prints this when it loads such a module.
BUILT_FOR_NUMPY_1 = "compiled using NumPy 1.x"


@dataclass(frozen=True)
class Verdict:
    """Whether to use cv_bridge, and why; `broken`: it is installed, but does not work."""

    use: bool
    broken: bool
    reason: str

    def __str__(self) -> str:
        return f"{'cv_bridge' if self.use else 'built-in'}: {self.reason}"


@functools.cache
def probe() -> Verdict:
    """Return which decoder this process should use; the first call starts the process that finds out."""
    if importlib.util.find_spec("cv_bridge") is None:
        return Verdict(False, False, "cv_bridge is not installed")
    command = [sys.executable, "-m", "vla_ros.nodes.policy.cv_bridge_probe"]
    # It must find the cv_bridge and the NumPy that this process finds.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _broken(f"did not answer within {TIMEOUT_S:g} s")
    if result.returncode < 0:
        built_for_numpy_1 = BUILT_FOR_NUMPY_1 in result.stderr
        return _broken(f"crashed ({signal.Signals(-result.returncode).name})", built_for_numpy_1, crashed=True)
    line = (result.stdout.strip().splitlines() or ["ended without an answer"])[-1]
    if result.returncode == 0 and line == WORKS:
        return Verdict(True, False, f"decodes as in training, with NumPy {np.__version__}")
    return _broken(line, BUILT_FOR_NUMPY_1 in result.stderr)


def _broken(what: str, built_for_numpy_1: bool = False, *, crashed: bool = False) -> Verdict:
    remedy = "reinstall cv_bridge"
    if built_for_numpy_1 or (crashed and int(np.__version__.partition(".")[0]) > 1):
        built = "it was built" if built_for_numpy_1 else "it may have been built"
        remedy = f"{built} for NumPy 1.x; install a cv_bridge for NumPy 2, or numpy<2"
    return Verdict(False, True, f"cv_bridge {what} with NumPy {np.__version__}: {remedy}")


def example(encoding: str, channels: int) -> SimpleNamespace:
    """Return the message of a small image with padded rows; it has the attributes of sensor_msgs/Image."""
    step = 10 * channels  # by whole pixels: cv_bridge takes no other padding
    pixels = np.random.default_rng(0).integers(0, 256, (6, step), np.uint8)
    return SimpleNamespace(
        height=6, width=8, encoding=encoding, step=step, is_bigendian=0, data=memoryview(pixels.tobytes())
    )


def main() -> int:
    """Print `WORKS`, or what cv_bridge does wrong."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected, and leaves no file
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
        for encoding, channels in ENCODINGS.items():
            message = example(encoding, channels)
            if not np.array_equal(bridge.imgmsg_to_cv2(message, "rgb8"), raw.decode_raw(message)):
                print(f"decodes {encoding!r} differently from training", flush=True)
                return 1
    except Exception as error:
        print(f"failed ({type(error).__name__}: {' '.join(str(error).split())})", flush=True)
        return 1
    print(WORKS, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
