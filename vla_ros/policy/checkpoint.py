# SPDX-License-Identifier: Apache-2.0
"""Checkpoints to deploy: a folder of safetensors and JSON that loads without network, pickle or base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_ros.contract import ContractError, PolicyContract
from vla_ros.errors import UserError
from vla_ros.files import atomic_write
from vla_ros.policy.config import PolicyConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer

WEIGHTS, CONTRACT, CONFIG, TOKENIZER = "model.safetensors", "contract.json", "config.json", "tokenizer.json"
FILES = (WEIGHTS, CONTRACT, CONFIG, TOKENIZER)
WAY_OUT = "copy the whole checkpoint folder again, or train it anew with `vla fit`"


class CheckpointError(UserError):
    """A checkpoint folder that cannot be loaded or written."""


def save_checkpoint(folder: Path, policy: Policy) -> None:
    """Write `policy` to `folder`, which is then complete or absent; replaces a checkpoint.

    Raises:
        CheckpointError: `folder` exists and is not a checkpoint.
    """
    if folder.exists() and not (folder / CONTRACT).is_file():
        raise CheckpointError(f"{folder} exists and is not a checkpoint; choose another folder, or remove it")
    with atomic_write(folder) as partial:
        partial.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
        save_file(state, partial / WEIGHTS)
        (partial / WEIGHTS).chmod(0o644)  # safetensors makes it readable for the owner only
        policy.contract.save(partial / CONTRACT)
        (partial / CONFIG).write_text(json.dumps(policy.config.to_dict(), indent=2) + "\n")
        policy.tokenizer.save(partial / TOKENIZER)
        if folder.exists():
            shutil.rmtree(folder)


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu", contract: PolicyContract | None = None
) -> Policy:
    """Return the policy of a checkpoint folder, in evaluation mode on `device`.

    Args:
        contract: the folder's contract, if it has been read already.

    Raises:
        CheckpointError: a file is missing or damaged, has an unknown key, or the weights do not match the network.
    """
    folder = Path(folder)
    if contract is None:
        contract = load_contract(folder)
    else:
        _check_files(folder)
    config = PolicyConfig.from_dict(_read_json(folder / CONFIG), where=str(folder / CONFIG), error=CheckpointError)
    try:
        tokenizer = CommandTokenizer.load(folder / TOKENIZER)
    except ValueError as error:
        raise CheckpointError(f"{folder / TOKENIZER} is not a tokenizer ({error}); {WAY_OUT}") from None
    try:
        policy = Policy(contract, config, tokenizer)
    except (ContractError, ValueError, KeyError, RuntimeError) as error:  # torch raises RuntimeError for bad sizes
        raise CheckpointError(f"{folder} describes a network that cannot be built: {error}; {WAY_OUT}") from None
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged ({error}); {WAY_OUT}") from None
    load_weights(policy, tensors, folder / WEIGHTS, WAY_OUT)
    return policy.to(device).eval()


def load_contract(folder: str | Path) -> PolicyContract:
    """Return the contract of a checkpoint folder without loading its weights.

    Raises:
        CheckpointError: a file of the folder is missing, or the contract is damaged.
    """
    folder = Path(folder)
    _check_files(folder)
    try:
        return PolicyContract.load(folder / CONTRACT)
    except ContractError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None


def load_weights(policy: Policy, tensors: Mapping[str, Tensor], source: str | Path, way_out: str) -> None:
    """Copy `tensors` into `policy`; names, shapes and types must match exactly.

    Raises:
        CheckpointError: they do not; the message ends with `way_out`.
    """
    expected = policy.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{source} {problem} tensor {min(names)}{others}; {way_out}")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"{source}: tensor {name} is {tensors[name].dtype} {tuple(tensors[name].shape)}, but the config "
                f"describes {tensor.dtype} {tuple(tensor.shape)}; {way_out}"
            )
    policy.load_state_dict(tensors)


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; a checkpoint is a folder with {', '.join(FILES)}")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; {WAY_OUT}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); {WAY_OUT}") from None
    return values
