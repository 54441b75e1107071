# SPDX-License-Identifier: Apache-2.0
"""Heads: a history of frame features -> an action chunk at every position of the history.

A head derives from ``heads.head.Head``: a causal ``context`` over the window and a ``decode`` of each position; the
window of training and the steps on the robot follow from these two. ``losses`` where it is not Huber and cross-entropy.
"""

from __future__ import annotations

from vla_ros.policy.heads.discrete import DiscreteHead
from vla_ros.policy.heads.flow import FlowHead
from vla_ros.policy.heads.gpt import GptHead
from vla_ros.policy.heads.lstm import LstmHead
from vla_ros.policy.heads.mlp import MlpHead
from vla_ros.policy.heads.robovlms import RobovlmsHead

HEADS = {
    "mlp": MlpHead,
    "lstm": LstmHead,
    "robovlms": RobovlmsHead,
    "gpt": GptHead,
    "discrete": DiscreteHead,
    "flow": FlowHead,
}
