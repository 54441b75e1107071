# SPDX-License-Identifier: Apache-2.0
"""Backbones: images, proprioception and a command -> features; see `backbones/backbone.py`."""

from __future__ import annotations

from collections.abc import Callable

from vla_ros.policy.backbones.backbone import Backbone
from vla_ros.policy.backbones.compact import CompactBackbone
from vla_ros.policy.backbones.vlm import VlmBackbone

BACKBONES: dict[str, Callable[..., Backbone]] = {"compact": CompactBackbone, "vlm": VlmBackbone}
