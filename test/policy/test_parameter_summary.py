# SPDX-License-Identifier: Apache-2.0
"""The size of a policy, checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vla_ros import cli
from vla_ros.policy import parameter_summary as summary
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.policy.tuning import freeze


def test_every_parameter_is_in_one_part(policy) -> None:
    freeze(policy, ["head.lstm.*"])
    parts = {part.name: part for part in summary.count_parameters(policy)}
    assert sum(part.parameters for part in parts.values()) == sum(p.numel() for p in policy.parameters())
    assert parts["head.lstm"].trainable == 0
    assert parts["head.mlp"].trainable == parts["head.mlp"].parameters == 32 * (32 + 24) + 32 + 28 * 32 + 28
    assert {part.name for part in summary.count_parameters(policy, depth=1)} == {"backbone", "head"}


def test_memory_is_weights_for_running_and_five_times_that_for_training(policy) -> None:
    buffers = sum(buffer.numel() for buffer in policy.buffers())
    weights = sum(parameter.numel() for parameter in policy.parameters())
    assert summary.weight_bytes(policy) == 4 * (weights + buffers)
    assert summary.training_bytes(policy) == 4 * (5 * weights + buffers)  # gradient, two moments, average


def test_what_is_frozen_costs_its_weights_only(policy) -> None:
    freeze(policy, ["*"])
    assert summary.training_bytes(policy) == summary.weight_bytes(policy)


def test_operations_of_a_step_include_the_lstm_over_the_history(policy) -> None:
    policy.train()
    lstm = policy.head.lstm
    counted = summary.step_flops(policy)
    policy.head.lstm = torch.nn.LSTM(lstm.input_size, 2 * lstm.hidden_size, batch_first=True)
    policy.head.mlp[0] = torch.nn.Linear(lstm.input_size + 2 * lstm.hidden_size, 32)
    larger = summary.step_flops(policy)
    matrices = [sum(p.numel() for p in module.parameters() if p.ndim == 2) for module in (lstm, policy.head.lstm)]
    assert larger - counted == pytest.approx(2 * 3 * (matrices[1] - matrices[0]) + 2 * 32 * lstm.hidden_size)
    assert policy.training


def test_vla_params_prints_and_writes_parameters_memory_and_operations(policy, tmp_path: Path, capsys) -> None:
    save_checkpoint(tmp_path / "checkpoint", policy)
    file = tmp_path / "params.json"
    assert cli.main(["params", str(tmp_path / "checkpoint"), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["parameters"] == sum(figures["parts"].values()) == sum(p.numel() for p in policy.parameters())
    assert figures["step_mflops"] == pytest.approx(summary.step_flops(policy) / 1e6)
    printed = capsys.readouterr().out
    assert "head.lstm" in printed and f"{figures['parameters']:,}" in printed


def test_vla_params_of_an_invalid_folder_is_an_error(tmp_path: Path, capsys) -> None:
    assert cli.main(["params", str(tmp_path)]) == 2
    assert "lacks model.safetensors" in capsys.readouterr().err
