# SPDX-License-Identifier: Apache-2.0
"""Print the size of a checkpoint's policy: parameters by module, memory and FLOPs per step.

vla params config/checkpoints/tabletop

Training memory covers weights, gradients, AdamW's states and the moving average, but no activations, and assumes that
everything is trained; `vla fit` prints what a recipe actually trains.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--depth", type=int, default=2, help="depth of the listed modules (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from vla_ros.files import write_json
    from vla_ros.policy import parameter_summary as summary
    from vla_ros.policy.checkpoint import load_checkpoint

    policy = load_checkpoint(args.checkpoint)
    parts = summary.count_parameters(policy, args.depth)
    figures = {
        "parts": {part.name: part.parameters for part in parts},
        "parameters": sum(part.parameters for part in parts),
        "weights_mib": summary.weight_bytes(policy) / 2**20,
        "training_mib": summary.training_bytes(policy) / 2**20,
        "step_mflops": summary.step_flops(policy) / 1e6,
    }
    table = Table("part", "parameters")
    for part in parts:
        table.add_row(part.name, f"{part.parameters:,}")
    table.add_row("all", f"{figures['parameters']:,}", style="bold")
    Console().print(table)
    print(
        f"weights {figures['weights_mib']:.1f} MiB; training {figures['training_mib']:.1f} MiB plus activations; "
        f"{figures['step_mflops']:.0f} MFLOP per step"
    )
    if args.json:
        write_json(args.json, figures)
    return 0
