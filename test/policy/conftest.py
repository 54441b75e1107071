# SPDX-License-Identifier: Apache-2.0
"""A policy that is small enough for tests, and windows for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny_heads import TINY_HEADS

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.policy.config import CompactConfig, LstmConfig, PolicyConfig
from vla_ros.policy.module import Batch
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer

HISTORY, CHUNK, SIZE = 3, 4, 16
COMMANDS = ("pick up the red block", "open the drawer")


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> CommandTokenizer:
    return CommandTokenizer.train(COMMANDS, 400)


@pytest.fixture(scope="session")
def contract(tokenizer: CommandTokenizer) -> PolicyContract:
    return PolicyContract(
        cameras=(Camera("static", SIZE, SIZE), Camera("wrist", SIZE, SIZE)),
        proprioception=Proprioception(("ee_x", "gripper_opening"), ("m", "1"), (0.4, 0.5), (0.1, 0.5)),
        language=Language("{command}", tokenizer.identity, 16),
        timing=Timing(control_hz=10.0, history=HISTORY, chunk=CHUNK),
        action=ActionSpace(low=(-0.2,) * 6, high=(0.4,) * 6),
        provenance=Provenance("compact", "from scratch", "lstm", "sha256:0", "0.1.0"),
    )


@pytest.fixture
def policy(contract: PolicyContract, tokenizer: CommandTokenizer) -> Policy:
    config = PolicyConfig(
        compact=CompactConfig(channels=(8, 8, 8, 8), keypoints=8, text_size=16, feature_size=32, dropout=0.1),
        lstm=LstmConfig(hidden_size=24, layers=1, mlp_size=32),
    )
    return Policy(contract, config, tokenizer)


@pytest.fixture
def with_head(policy: Policy) -> Callable[[str], Policy]:
    """Makes a tiny policy with another head."""

    def make(head: str) -> Policy:
        provenance = dataclasses.replace(policy.contract.provenance, head=head)
        config = dataclasses.replace(policy.config, head=head, **{head: TINY_HEADS[head]})
        return Policy(dataclasses.replace(policy.contract, provenance=provenance), config, policy.tokenizer).eval()

    return make


@pytest.fixture
def batch(policy: Policy) -> Batch:
    """Two full windows, one of a single frame; the last chunk positions do not exist."""
    tokens, token_mask = policy.tokenize([COMMANDS[0], COMMANDS[1], COMMANDS[0]])
    valid = torch.tensor([[True] * HISTORY, [True] * HISTORY, [True] + [False] * (HISTORY - 1)])
    action_valid = torch.ones((3, HISTORY, CHUNK), dtype=torch.bool)
    action_valid[1, :, 2:] = False
    actions = torch.rand((3, HISTORY, CHUNK, 7)) * 2 - 1
    actions[..., 6] = (actions[..., 6] > 0).float()
    shape = (3, HISTORY, SIZE, SIZE, 3)
    return {
        "images": {name: torch.randint(0, 256, shape, dtype=torch.uint8) for name in ("static", "wrist")},
        "proprioception": torch.rand((3, HISTORY, 2)),
        "tokens": tokens,
        "token_mask": token_mask,
        "actions": actions,
        "action_valid": action_valid,
        "valid": valid,
    }
