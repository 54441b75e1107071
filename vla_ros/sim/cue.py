# SPDX-License-Identifier: Apache-2.0
"""What a task that needs memory shows at the start: in the dark, one block glows.

It goes out as soon as the hand moves, wherever to, and the light is back once the hand is raised. So both ends depend
on what the hand does and on no clock: whoever waits before an episode begins, as a recorder does, misses nothing, and
each picture tells by itself what to do next, but for which block was meant.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

MOVED_M = 0.03  # from where the hand was: the block goes out
RAISED_M = 0.26  # height of the hand: the light is back
DARKNESS = 0.3  # of the light that there was
GLOW = (2.5, 2.4, 1.8)  # colour of a glowing block; what is above 1 makes up for the darkness


class Cue:
    """The lights of `model` and the colours of its blocks, from `begin` until the light is back.

    Attributes:
        lit: the block that glows; empty: none.
        dark: whether the light is out.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._lights = (model.light_diffuse, model.vis.headlight.ambient, model.vis.headlight.diffuse)
        self.lit = ""
        self.dark = False

    def begin(self, color: str, hand: NDArray[np.float64]) -> None:
        """Turn off the light, and let the block of `color` glow while the hand stays at `hand` (3,) [m]."""
        self.end()
        self._bright = [light.copy() for light in self._lights]
        for light in self._lights:
            light *= DARKNESS
        self._hand = hand.copy()
        self._color = self._model.geom(color).rgba.copy()
        self._model.geom(color).rgba[:3] = GLOW
        self.lit, self.dark = color, True

    def follow(self, hand: NDArray[np.float64]) -> None:
        """See to what the hand, now at (3,) [m], has changed."""
        if self.lit and np.linalg.norm(hand - self._hand) > MOVED_M:
            self._put_out()
        if self.dark and not self.lit and hand[2] > RAISED_M:
            self.end()

    def end(self) -> None:
        """Have the light on and no block glow."""
        self._put_out()
        if self.dark:
            for light, bright in zip(self._lights, self._bright, strict=True):
                light[:] = bright
            self.dark = False

    def _put_out(self) -> None:
        if self.lit:
            self._model.geom(self.lit).rgba[:] = self._color
            self.lit = ""
