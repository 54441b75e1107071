# SPDX-License-Identifier: Apache-2.0
"""The policy node's parameters."""

from __future__ import annotations

from vla_ros.nodes.common.parameters import ParameterSpec
from vla_ros.runtime.planning.command_queue import STOP_WORDS

PARAMETERS = (
    ParameterSpec("checkpoint", "", "Folder of the checkpoint (model.safetensors, contract.json, ...). Required."),
    ParameterSpec("robot", "tabletop", "Robot file (topics, units, limits): a name in config/robots, or a path."),
    ParameterSpec("any_robot", False, "Accept a checkpoint whose recordings are of a robot of another name."),
    ParameterSpec("device", "auto", "Compute device: cpu, cuda, cuda:1, or auto (an NVIDIA GPU if there is one)."),
    ParameterSpec("precision", "auto", "Of the backbone: fp32, bf16, fp16, or auto (bf16 on GPUs that support it)."),
    ParameterSpec("compile", "auto", "Acceleration: none, compile, cuda_graph, or auto (cuda_graph on NVIDIA GPUs)."),
    ParameterSpec("cpu_threads", 1, "CPU threads per operator; more than one helps large policies only.", 1, 256),
    ParameterSpec("autostart", False, "Configure and activate at start-up, without a lifecycle manager."),
    ParameterSpec("stop_with_parent", False, "Exit when the process that started this one ends."),
    ParameterSpec("stop_words", STOP_WORDS, 'Commands that mean stop, besides the empty one; [""]: none.'),
    ParameterSpec("on_new_command", "replace", "When to follow a new command: replace, after_chunk, after_success."),
)
