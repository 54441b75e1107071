# SPDX-License-Identifier: Apache-2.0
"""The size of a policy and the cost of a step: parameters, memory, floating point operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vla_ros.policy.policy import Policy

GRADIENT, ADAM_MOMENTS, AVERAGE = 1, 2, 1  # copies of each trained weight


@dataclass(frozen=True)
class ParameterCount:
    """The parameters of the module `name`."""

    name: str
    parameters: int
    trainable: int


def count_parameters(policy: nn.Module, depth: int = 2) -> list[ParameterCount]:
    """Return the counts of the modules at `depth` below `policy`; parameters above that are listed by themselves."""
    counted: dict[str, list[int]] = {}
    for name, parameter in policy.named_parameters():
        owner = name.split(".")[:-1][:depth] or [name]
        counts = counted.setdefault(".".join(owner), [0, 0])
        counts[0] += parameter.numel()
        counts[1] += parameter.numel() * parameter.requires_grad
    return [ParameterCount(name, *counts) for name, counts in counted.items()]


def weight_bytes(policy: nn.Module) -> int:
    """Return the bytes of weights and buffers: what running the policy needs besides activations."""
    return sum(t.numel() * t.element_size() for t in [*policy.parameters(), *policy.buffers()])


def training_bytes(policy: nn.Module) -> int:
    """Return the bytes of weights, gradients, optimizer states and the moving average, without activations."""
    trained = sum(p.numel() * p.element_size() for p in policy.parameters() if p.requires_grad)
    return weight_bytes(policy) + (GRADIENT + ADAM_MOMENTS + AVERAGE) * trained


@torch.no_grad()
def step_flops(policy: Policy) -> int:
    """Return the floating point operations of a step with a full history; a multiply-add counts as two.

    Counts matrix products, convolutions and attention, as `torch.utils.flop_counter` does, and the LSTMs it misses.
    """
    training = policy.training
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    policy.eval().requires_grad_(False)  # FlopCounterMode cannot follow views of trained parameters
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
    for parameter in trained:
        parameter.requires_grad_(True)
    recurrent = sum(
        weight.numel()
        for module in policy.head.modules()
        if isinstance(module, nn.LSTM)
        for weight in module.parameters()
        if weight.ndim == 2
    )
    return int(counter.get_total_flops()) + 2 * contract.timing.history * recurrent
