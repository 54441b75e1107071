# SPDX-License-Identifier: Apache-2.0
"""A simulated table-top arm with language tasks and a scripted expert (MuJoCo, without torch and ROS)."""

import os
import sys

# MuJoCo chooses its OpenGL backend when it is first imported, and its default needs a display.
if sys.platform.startswith("linux"):
    os.environ.setdefault("MUJOCO_GL", "egl")
