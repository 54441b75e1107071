# SPDX-License-Identifier: Apache-2.0
"""Every head, as small as it gets."""

from vla_ros.policy.config import DiscreteConfig, FlowConfig, GptConfig, LstmConfig, MlpConfig, RobovlmsConfig

TINY_HEADS = {
    "mlp": MlpConfig(mlp_size=16, layers=1),
    "lstm": LstmConfig(hidden_size=12, mlp_size=32),
    "robovlms": RobovlmsConfig(hidden_size=12, layers=1, mlp_sizes=(16,)),
    "gpt": GptConfig(width=16, layers=1, attention_heads=2),
    "discrete": DiscreteConfig(bins=16, hidden_size=12, mlp_size=16, token_size=8),
    "flow": FlowConfig(hidden_size=12, width=16, blocks=1, integration_steps=2),
}
