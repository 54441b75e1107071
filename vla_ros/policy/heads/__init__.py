# SPDX-License-Identifier: Apache-2.0
"""Heads: a history of frame features -> an action chunk at every position of the history.

A head is an ``nn.Module``: ``head(features (B, W, D), valid (B, W)) -> ActionPrediction``.
"""

from __future__ import annotations

from vla_ros.policy.heads.lstm import LstmHead

HEADS = {"lstm": LstmHead}
