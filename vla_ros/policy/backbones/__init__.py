# SPDX-License-Identifier: Apache-2.0
"""Backbones: (images, proprioception, text) of one frame -> one feature.

A backbone is an ``nn.Module`` with ``text_size`` E, ``feature_size`` D and two methods:

- ``encode_text(tokens (B, L), token_mask (B, L)) -> (B, E)``, called once per command;
- ``encode(images, proprioception, text, camera_keep=None) -> (F, D)``, called on the newest frame only when live.
"""

from __future__ import annotations

from vla_ros.policy.backbones.compact import CompactBackbone

BACKBONES = {"compact": CompactBackbone}
