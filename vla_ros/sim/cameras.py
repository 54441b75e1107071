# SPDX-License-Identifier: Apache-2.0
"""Camera images of the simulated scene, rendered off-screen."""

from __future__ import annotations

import threading
import weakref

import mujoco
import numpy as np
from numpy.typing import NDArray

from vla_ros.sim.physics import TabletopSim

CAMERAS = ("static", "wrist")
GL_HELP = (
    "install Mesa's software renderer (Debian, Ubuntu: apt install libegl1 libegl-mesa0 libgl1-mesa-dri), import "
    "vla_ros.sim before mujoco or set MUJOCO_GL=egl before Python starts; libosmesa6 with MUJOCO_GL=osmesa works too"
)


class Cameras:
    """The scene's static and wrist cameras, with images of at most 480 x 640 pixels.

    An OpenGL context belongs to the thread that created it: create, use and close an instance in one thread.
    RuntimeError without off-screen OpenGL; the message names the packages to install.
    """

    def __init__(self, sim: TabletopSim, height: int, width: int) -> None:
        self._sim = sim
        self._thread = threading.get_ident()
        try:
            self._renderer = mujoco.Renderer(sim.model, height, width)
        except ValueError:  # the image is too large; MuJoCo's message says so
            raise
        except Exception as error:  # each backend fails in its own way
            raise RuntimeError(f"no off-screen OpenGL for rendering ({error!r}); {GL_HELP}") from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        # At the latest before the interpreter exits: after that, EGL is gone and closing prints tracebacks.
        self._close = weakref.finalize(self, self._renderer.close)

    def capture(self) -> dict[str, NDArray[np.uint8]]:
        """Render one RGB image (height, width, 3) per camera."""
        self._check_thread("capture")
        if not self._close.alive:
            raise RuntimeError("Cameras.capture() was called after close(); create new Cameras")
        images = {}
        for camera in CAMERAS:
            self._renderer.update_scene(self._sim.data, camera=camera)
            images[camera] = self._renderer.render().copy()
        return images

    def close(self) -> None:
        """Free the OpenGL context. Closing twice is harmless."""
        if self._close.alive:
            self._check_thread("close")
            self._close()

    def _check_thread(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"Cameras.{method}() was called from thread {threading.get_ident()}, but its OpenGL context belongs to "
                f"thread {self._thread}; create, use and close Cameras in one thread"
            )
