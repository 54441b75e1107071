# SPDX-License-Identifier: Apache-2.0
"""Import checkpoints of RoboVLMs (github.com/Robot-VLAs/RoboVLMs, arXiv:2412.14058): KosMos-2 with an LSTM head.

The network is reproduced exactly: token order, readout, head. Its evaluation wrapper is not: it un-normalises the
gripper with the arm's bounds, and a padded prompt moves its readout. RoboVLMs' files do not state what an action of 1
means in m/s and rad/s, nor at which rate; the caller supplies that as `Motion`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_ros import __version__
from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Provenance, Timing
from vla_ros.errors import UserError
from vla_ros.policy.backbones.families import Kosmos2
from vla_ros.policy.backbones.pretrained import plain_config
from vla_ros.policy.checkpoint import load_weights
from vla_ros.policy.config import PolicyConfig, RobovlmsConfig, VlmConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer

# The normalisation RoboVLMs uses with KosMos-2, whatever its config says.
IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPT = Kosmos2.prompt

# Key of its config -> the only value that can be imported, and its default.
_SUPPORTED: dict[str, tuple[Any, Any]] = {
    "model": ("kosmos", None),
    "act_head.type": ("LSTMDecoder", None),
    "act_head.action_dim": (7, None),
    "act_head.action_space": ("continuous", "continuous"),
    "act_head.history_type": ("post", "post"),
    "act_head.down_sample": ("none", None),
    "act_head.latent": (1, 1),
    "act_head.fill_zero": (False, False),
    "fwd_head": (None, None),
    "use_vision_resampler": (False, False),
    "use_state": (False, False),
    "use_mu_law": (False, False),
    "regular_action": (False, False),
}
# Prefix of its tensor names -> ours; the first match counts. None: not needed for inference.
_PREFIXES = {
    "backbone.text_model.lm_head.": None,  # tied to the embedding
    "backbone.": "backbone.model.",
    "clip_norm_head.": None,
    "act_head.rnn.": "head.rnn.",
    "act_head.actions.mlp.": "head.arm.",
    "act_head.gripper.mlp.": "head.gripper.",
    "action_token": "backbone.readout",
}
_BUFFERS = ("embed_positions.weights", "embeddings.position_ids")  # computed, not learned


class RobovlmsError(UserError):
    """A checkpoint or config of RoboVLMs that cannot be imported."""


@dataclasses.dataclass(frozen=True)
class Motion:
    """What an action of 1 means, which RoboVLMs' files do not state.

    Attributes:
        control_hz: rate at which the policy runs.
        linear_mps: m/s along an axis for a translation of 1 (CALVIN: 0.02 m per step at 30 Hz = 0.6).
        angular_radps: rad/s for a rotation of 1 (CALVIN: 0.05 rad per step at 30 Hz = 1.5).
        frame: "base" or "tool".
    """

    control_hz: float
    linear_mps: float
    angular_radps: float
    frame: str

    def __post_init__(self) -> None:
        for name in ("linear_mps", "angular_radps"):
            if not getattr(self, name) > 0:
                raise RobovlmsError(f"{name} is {getattr(self, name)}; it must be positive")


def read_config(path: Path) -> dict[str, Any]:
    """Return RoboVLMs' training config after checking that its network can be imported.

    Raises:
        RobovlmsError: it is not JSON, lacks a key, or describes an unsupported network.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"expected an object, got {type(config).__name__}")
    except (OSError, ValueError) as error:
        raise RobovlmsError(
            f"{path} is not a JSON config of RoboVLMs ({error}); use the *-project.json from its training logs, or the "
            "one published with the weights"
        ) from None
    for key, (allowed, default) in _SUPPORTED.items():
        section, _, name = key.rpartition(".")
        given = ((config.get(section) or {}) if section else config).get(name, default)
        if (given or None) != (allowed or None):  # upstream treats null, false and a missing key alike
            raise RobovlmsError(f"{path}: {key} is {given!r}; only {allowed!r} is supported")
    bounds = ("norm_min", "norm_max") if config.get("norm_action") else ()
    for key in ("window_size", "fwd_pred_next_n", "use_hand_rgb", "norm_action", *bounds):
        if key not in config:
            raise RobovlmsError(f"{path} lacks the key {key!r}; use the complete config, not one with a 'parent'")
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file (.pt, .ckpt) of RoboVLMs, under its own names.

    Raises:
        RobovlmsError: the file does not exist, or is not tensors in plain containers.
    """
    if path.is_dir():
        raise RobovlmsError(
            f"{path} is a folder, as DeepSpeed writes; run its zero_to_fp32.py and use the resulting file"
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise RobovlmsError(f"there is no checkpoint {path}") from None
    except Exception as error:  # pickle's, zip's or torch's, depending on the damage
        raise RobovlmsError(
            f"{path} is damaged, or contains pickled objects, which could run code ({str(error).splitlines()[0]}); if "
            "you trust it, load it in RoboVLMs and save only {'state_dict': ...}"
        ) from None
    found = next((saved[key] for key in ("state_dict", "model_state_dict") if key in saved), None)
    if not isinstance(found, Mapping):
        raise RobovlmsError(f"{path} has neither state_dict nor model_state_dict; use a checkpoint of RoboVLMs")
    return {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in found.items()}


def import_policy(weights: Mapping[str, Tensor], config: Mapping[str, Any], vlm: str, motion: Motion) -> Policy:
    """Return the policy of a RoboVLMs checkpoint, in evaluation mode.

    Args:
        weights: from `read_weights`.
        config: from `read_config`.
        vlm: folder or hub id of the KosMos-2 that training started from, for its configuration and tokenizer.

    Raises:
        RobovlmsError: `vlm` is not KosMos-2, or its tokenizer is not KosMos-2's.
        CheckpointError: the weights do not match the network that `config` and `vlm` describe.
        ContractError: the rate or the frame of `motion` is invalid.
    """
    model, tokenizer = _read_vlm(vlm)
    size = config.get("image_size", 224)
    names = ("wrist", "static") if config["use_hand_rgb"] else ("static",)  # the order in its sequence
    head = config["act_head"]
    network = PolicyConfig(
        backbone="vlm",
        head="robovlms",
        vlm=VlmConfig(model=model, layout="robovlms"),
        robovlms=RobovlmsConfig(hidden_size=head.get("hidden_size", 1024), layers=head.get("num_layers", 4)),
    )
    low, high = _bounds(config, motion)
    contract = PolicyContract(
        cameras=tuple(Camera(name, size, size, mean=IMAGE_MEAN, std=IMAGE_STD) for name in names),
        proprioception=None,
        language=Language(PROMPT, tokenizer.identity, config.get("tokenizer", {}).get("max_text_len", 256)),
        timing=Timing(motion.control_hz, config["window_size"], config["fwd_pred_next_n"]),
        action=ActionSpace(low=low, high=high, frame=motion.frame),
        provenance=Provenance("vlm", f"RoboVLMs with {Path(vlm).name}", "robovlms", "unknown", __version__),
    )
    policy = Policy(contract, network, tokenizer)
    tensors = {
        renamed: tensor.float()
        for name, tensor in weights.items()
        if (renamed := _rename(name)) is not None and not renamed.endswith(_BUFFERS)
    }
    load_weights(policy, tensors, "the RoboVLMs checkpoint", "use the config and the KosMos-2 it was trained with")
    return policy.eval()


def _rename(name: str) -> str | None:
    """Return our name of a tensor, None if it is not needed; unknown names stay, for `load_weights` to refuse."""
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return name


def _bounds(config: Mapping[str, Any], motion: Motion) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what -1 and 1 of each arm axis mean, in m/s and rad/s."""
    low, high = (config["norm_min"], config["norm_max"]) if config["norm_action"] else (-1, 1)
    scale = (motion.linear_mps,) * 3 + (motion.angular_radps,) * 3
    return tuple(low * unit for unit in scale), tuple(high * unit for unit in scale)


def _read_vlm(name: str) -> tuple[dict[str, Any], CommandTokenizer]:
    """Return KosMos-2's configuration and its tokenizer, without the token that ends a prompt.

    RoboVLMs reads its feature right before that token.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoTokenizer

    try:
        described = AutoConfig.from_pretrained(name)
        theirs = AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError, ImportError) as error:
        raise RobovlmsError(
            f"--vlm is {name!r}, neither a folder with configuration and tokenizer nor available from the hub "
            f"({str(error).splitlines()[0]}); run `hf download microsoft/kosmos-2-patch14-224 --local-dir FOLDER` on a "
            "machine with network access (its weights are not needed)"
        ) from None
    if described.model_type != "kosmos-2":
        raise RobovlmsError(f"--vlm is {name!r}, a {described.model_type!r} model; it must be 'kosmos-2'")
    wrong = RobovlmsError(f"--vlm is {name!r}, whose tokenizer does not add KosMos-2's start and end tokens")
    begin = theirs.bos_token
    if begin is None or theirs.eos_token is None:
        raise wrong
    text = PROMPT.replace("{command}", "open the drawer")
    whole = list(theirs(text)["input_ids"])
    backend = theirs.backend_tokenizer
    backend.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, theirs.bos_token_id)])
    ours = CommandTokenizer.adapt(backend)
    if [*ours.encode(text), theirs.eos_token_id] != whole:
        raise wrong
    return plain_config(described), ours
