# SPDX-License-Identifier: Apache-2.0
"""Pictures of the simulated scene, rendered off-screen."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import mujoco
import numpy as np

if TYPE_CHECKING:
    from vla_ros.sim.physics import TabletopSim

CAMERAS = ("static", "wrist")
GL_HELP = (
    "install Mesa's software renderer (Debian, Ubuntu: apt install libegl1 libegl-mesa0 libgl1-mesa-dri), import "
    "vla_ros.sim before mujoco or set MUJOCO_GL=egl before Python starts; libosmesa6 with MUJOCO_GL=osmesa works too"
)


class Cameras:
    """The scene's static and wrist camera.

    An OpenGL context belongs to the thread that made it: create, use and close one instance in one thread.

    Args:
        sim: the simulator to look at.
        height, width: picture size in pixels, at most 480 x 640.

    Raises:
        RuntimeError: no off-screen OpenGL; the text names the packages to install.
    """

    def __init__(self, sim: TabletopSim, height: int, width: int) -> None:
        self._sim = sim
        self._thread = threading.get_ident()
        try:
            self._renderer = mujoco.Renderer(sim.model, height, width)
        except ValueError:  # the size does not fit; MuJoCo's text says so
            raise
        except Exception as error:  # each backend fails in its own way
            raise RuntimeError(f"no off-screen OpenGL for rendering ({error!r}); {GL_HELP}") from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        # Closed at the interpreter's exit at the latest: later, EGL is already gone and prints tracebacks.
        self._close = weakref.finalize(self, self._renderer.close)

    def capture(self) -> dict[str, np.ndarray]:
        """One RGB picture (height, width, 3) uint8 per camera.

        Raises:
            RuntimeError: called after `close`, or from another thread than the one that created this object.
        """
        self._check_thread("capture")
        if not self._close.alive:
            raise RuntimeError("Cameras.capture() was called after close(); create new Cameras")
        pictures = {}
        for camera in CAMERAS:
            self._renderer.update_scene(self._sim.data, camera=camera)
            pictures[camera] = self._renderer.render().copy()
        return pictures

    def close(self) -> None:
        """Free the OpenGL context; the object is of no use afterwards. A second close does nothing."""
        if self._close.alive:
            self._check_thread("close")
            self._close()

    def _check_thread(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"Cameras.{method}() was called from thread {threading.get_ident()}, but its OpenGL context belongs to "
                f"thread {self._thread}; create, use and close Cameras in one thread"
            )


def project(sim: TabletopSim, camera: str, points: np.ndarray) -> np.ndarray:
    """Where `points` (N, 3) in base_link [m] appear in a square picture of `camera`.

    Returns:
        (N, 2) right and down in [0, 1] inside the picture; NaN for points behind the camera.
    """
    index = sim.model.camera(camera).id
    rotation = sim.data.cam_xmat[index].reshape(3, 3)
    local = (np.atleast_2d(points) - sim.data.cam_xpos[index]) @ rotation  # x right, y up, -z forward
    depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
    scale = 0.5 / np.tan(np.deg2rad(sim.model.cam_fovy[index]) / 2)
    return np.stack([0.5 + scale * local[:, 0] / depth, 0.5 - scale * local[:, 1] / depth], axis=1)
