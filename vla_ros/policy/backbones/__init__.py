# SPDX-License-Identifier: Apache-2.0
"""Backbones: (images, proprioception, text) of one frame -> one feature.

A backbone is an ``nn.Module`` with ``feature_size`` D, ``fuses_time``, ``pools_text`` (its text is of one size, however
long the command) and three methods:

- ``encode_text(tokens (B, L), token_mask (B, L)) -> text``, called once per command; ``text[rows]`` selects;
- ``encode(images, proprioception, text, camera_keep=None) -> (F, ...)``, called on the newest frame only when live;
- ``read(frames (B, W, ...), valid (B, W), text) -> Readout`` of features of D: the frames as they are where the head
  fuses time; a backbone with ``fuses_time`` looks at the window here, at every step.
"""

from __future__ import annotations

from vla_ros.policy.backbones.compact import CompactBackbone
from vla_ros.policy.backbones.vlm import VlmBackbone

BACKBONES = {"compact": CompactBackbone, "vlm": VlmBackbone}
