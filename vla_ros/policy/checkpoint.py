# SPDX-License-Identifier: Apache-2.0
"""Checkpoints to deploy: a folder of safetensors and JSON that loads without network, pickle or a base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_ros.contract import ContractError, PolicyContract
from vla_ros.errors import UserError
from vla_ros.policy.config import PolicyConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer

WEIGHTS, CONTRACT, CONFIG, TOKENIZER = "model.safetensors", "contract.json", "config.json", "tokenizer.json"
FILES = (WEIGHTS, CONTRACT, CONFIG, TOKENIZER)
WAY_OUT = "copy the whole checkpoint folder again, or make it anew with `vla fit`"


class CheckpointError(UserError):
    """A checkpoint folder that cannot be loaded or written; the message says what is wrong with which file."""


def save_checkpoint(folder: Path, policy: Policy) -> None:
    """Write ``policy`` to ``folder``, which is complete or absent, never half-written.

    Raises:
        CheckpointError: ``folder`` exists and is not a checkpoint, so it is not replaced.
    """
    if folder.exists() and not (folder / CONTRACT).is_file():
        raise CheckpointError(f"{folder} exists and is not a checkpoint; give another folder, or remove it")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    save_file(state, partial / WEIGHTS)
    (partial / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only; a checkpoint is there to be copied
    policy.contract.save(partial / CONTRACT)
    (partial / CONFIG).write_text(json.dumps(policy.config.to_dict(), indent=2) + "\n")
    policy.tokenizer.save(partial / TOKENIZER)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Return the policy of a checkpoint folder, in evaluation mode on ``device``.

    Raises:
        CheckpointError: a file is missing or damaged, the contract or config has an unknown key, or the weights are not
            exactly those of the network that the config describes.
    """
    folder = Path(folder)
    contract = load_contract(folder)
    config = PolicyConfig.from_dict(_read_json(folder / CONFIG), where=str(folder / CONFIG), error=CheckpointError)
    try:
        tokenizer = CommandTokenizer.load(folder / TOKENIZER)
    except ValueError as error:
        raise CheckpointError(f"{folder / TOKENIZER} is not a tokenizer ({error}); {WAY_OUT}") from None
    try:
        policy = Policy(contract, config, tokenizer)
    except (ContractError, ValueError, KeyError, RuntimeError) as error:  # torch's own for a name or size it can't take
        raise CheckpointError(f"{folder} describes no network that can be built: {error}; {WAY_OUT}") from None
    _load_weights(policy, folder / WEIGHTS)
    return policy.to(device).eval()


def load_contract(folder: str | Path) -> PolicyContract:
    """Return the contract of a checkpoint folder, without its weights.

    Raises:
        CheckpointError: a file of the folder is missing, or the contract is damaged.
    """
    folder = Path(folder)
    _check_files(folder)
    try:
        return PolicyContract.load(folder / CONTRACT)
    except ContractError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder {folder}; a checkpoint is a folder with {', '.join(FILES)}"
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; {WAY_OUT}")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); {WAY_OUT}") from None


def _load_weights(policy: Policy, path: Path) -> None:
    """Copy the tensors of ``path`` into ``policy``; names and shapes must be exactly the policy's."""
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); {WAY_OUT}") from None
    fill(policy, given, path, WAY_OUT)


def fill(policy: Policy, given: Mapping[str, Tensor], where: str | Path, way_out: str) -> None:
    """Copy tensors by name into ``policy``.

    Raises:
        CheckpointError: the names, shapes and types are not exactly the policy's; ends with ``way_out``.
    """
    expected = policy.state_dict()
    for what, names in (("lacks", expected.keys() - given.keys()), ("has the unknown", given.keys() - expected.keys())):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{where} {what} tensor {min(names)}{others}; {way_out}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape or given[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"{where}: tensor {name} is {given[name].dtype} {tuple(given[name].shape)}; the config describes "
                f"{tensor.dtype} {tuple(tensor.shape)}; {way_out}"
            )
    policy.load_state_dict(given)
