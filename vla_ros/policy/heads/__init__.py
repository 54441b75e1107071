# SPDX-License-Identifier: Apache-2.0
"""Heads: a history of frame features -> an action chunk at every position of the history.

A head derives from `heads.head.Head` and defines a causal `context` over the window and a `decode` of each position;
training on windows and stepping on the robot follow from these. It overrides `losses` if its loss is another one.
"""

from __future__ import annotations

from collections.abc import Callable

from vla_ros.policy.heads.discrete import DiscreteHead
from vla_ros.policy.heads.flow import FlowHead
from vla_ros.policy.heads.gpt import GptHead
from vla_ros.policy.heads.head import Head
from vla_ros.policy.heads.lstm import LstmHead
from vla_ros.policy.heads.mlp import MlpHead
from vla_ros.policy.heads.robovlms import RobovlmsHead

HEADS: dict[str, Callable[..., Head]] = {
    "mlp": MlpHead,
    "lstm": LstmHead,
    "robovlms": RobovlmsHead,
    "gpt": GptHead,
    "discrete": DiscreteHead,
    "flow": FlowHead,
}
