# SPDX-License-Identifier: Apache-2.0
"""How big a policy is and what a step of it costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vla_ros.policy.policy import Policy

GRADIENT, ADAM_STATES, AVERAGE = 1, 2, 1  # copies of what is trained: AdamW's are the two moments


@dataclass(frozen=True)
class Part:
    """Parameters of a part of the network, by the name of its module."""

    name: str
    parameters: int
    trainable: int


def parts(policy: nn.Module, depth: int = 2) -> list[Part]:
    """Return the modules at ``depth`` below ``policy`` (parameters above that stand for themselves), each once."""
    counted: dict[str, list[int]] = {}
    for name, parameter in policy.named_parameters():
        owner = name.split(".")[:-1][:depth] or [name]
        counts = counted.setdefault(".".join(owner), [0, 0])
        counts[0] += parameter.numel()
        counts[1] += parameter.numel() * parameter.requires_grad
    return [Part(name, *counts) for name, counts in counted.items()]


def weight_bytes(policy: nn.Module) -> int:
    """Return the bytes of the weights and buffers: what running the policy needs beside its activations."""
    return sum(t.numel() * t.element_size() for t in [*policy.parameters(), *policy.buffers()])


def training_bytes(policy: nn.Module) -> int:
    """Return the bytes of weights, gradients, optimizer states and the moving average, without activations."""
    trained = sum(p.numel() * p.element_size() for p in policy.parameters() if p.requires_grad)
    return weight_bytes(policy) + (GRADIENT + ADAM_STATES + AVERAGE) * trained


@torch.no_grad()
def step_flops(policy: Policy) -> int:
    """Return the floating point operations of a step on the robot with a full history: multiply and add are two.

    Counted are matrix products, convolutions and attention, as ``torch.utils.flop_counter`` does; an LSTM's, which it
    does not see, are added.
    """
    training = policy.training
    policy.eval()
    contract = policy.contract
    text = policy.encode_text(*(tensor.to(policy.device) for tensor in policy.tokenize(["x"])))
    images = {c.name: torch.zeros(1, 3, c.height, c.width, device=policy.device) for c in contract.cameras}
    state_size = len(contract.proprioception.names) if contract.proprioception else 0
    proprioception = torch.zeros(1, state_size, device=policy.device)
    state = None
    for _ in range(contract.timing.history - 1):
        _, state = policy.step(images, proprioception, text, state)
    with FlopCounterMode(display=False) as counter:
        policy.step(images, proprioception, text, state)
    policy.train(training)
    recurrent = sum(_lstm_weights(m) for m in policy.head.modules() if isinstance(m, nn.LSTM))
    return counter.get_total_flops() + 2 * contract.timing.history * recurrent


def _lstm_weights(lstm: nn.LSTM) -> int:
    return sum(weight.numel() for weight in lstm.parameters() if weight.ndim == 2)
