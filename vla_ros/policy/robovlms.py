# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of RoboVLMs (github.com/Robot-VLAs/RoboVLMs, arXiv:2412.14058) as policies of ours: KosMos-2 with LSTM.

The network is taken over whole: the order of the tokens, the readout, the head. Its evaluation wrapper is not: there
the gripper is un-normalised with the arm's bounds, and a padded prompt moves the readout. What a file of RoboVLMs does
not say, what an action of 1 means in m/s and rad/s and at which rate, the caller has to know.
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
from vla_ros.policy.checkpoint import fill
from vla_ros.policy.config import PolicyConfig, RobovlmsConfig, VlmConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer

# What RoboVLMs normalises with KosMos-2, whatever its config says.
IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPT = Kosmos2.prompt

# Key of its config -> the one value that can be imported, and what it takes where the key is missing.
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
# Parts of its network in our names; the first that fits counts. None: not needed to act.
_PARTS = {
    "backbone.text_model.lm_head.": None,  # the embedding once more
    "backbone.": "backbone.model.",
    "clip_norm_head.": None,
    "act_head.rnn.": "head.rnn.",
    "act_head.actions.mlp.": "head.arm.",
    "act_head.gripper.mlp.": "head.gripper.",
    "action_token": "backbone.readout",
}
_BUFFERS = ("embed_positions.weights", "embeddings.position_ids")  # computed, not learned


class RobovlmsError(UserError):
    """A checkpoint or config of RoboVLMs that can't be imported; says what, and what can be."""


@dataclasses.dataclass(frozen=True)
class Motion:
    """What an action of 1 means, which the files of RoboVLMs do not say.

    Attributes:
        control_hz: rate at which the policy is to run.
        linear_mps: m/s along an axis for a translation of 1 (CALVIN: 0.02 m a step at 30 Hz = 0.6).
        angular_radps: rad/s for a rotation of 1 (CALVIN: 0.05 rad a step at 30 Hz = 1.5).
        frame: "base" or "tool".
    """

    control_hz: float
    linear_mps: float
    angular_radps: float
    frame: str

    def __post_init__(self) -> None:
        for name in ("linear_mps", "angular_radps"):
            if not getattr(self, name) > 0:
                raise RobovlmsError(f"{name} is {getattr(self, name)}; allowed: a positive number")


def read_config(path: Path) -> dict[str, Any]:
    """Return the config of a training of RoboVLMs, after checking that its network is one that can be imported.

    Raises:
        RobovlmsError: it is not JSON, lacks a key, or describes another network; names the key.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds {type(config).__name__}")
    except (OSError, ValueError) as error:
        raise RobovlmsError(
            f"{path} is not a JSON config of RoboVLMs ({error}); it is the file *-project.json beside the logs of its "
            "training, or the one published with the weights"
        ) from None
    for key, (allowed, default) in _SUPPORTED.items():
        section, _, name = key.rpartition(".")
        given = ((config.get(section) or {}) if section else config).get(name, default)
        if (given or None) != (allowed or None):  # upstream takes null, false and a missing key alike
            raise RobovlmsError(f"{path}: {key} is {given!r}; only {allowed!r} can be imported")
    bounds = ("norm_min", "norm_max") if config.get("norm_action") else ()
    for key in ("window_size", "fwd_pred_next_n", "use_hand_rgb", "norm_action", *bounds):
        if key not in config:
            raise RobovlmsError(f"{path} lacks the key {key!r}; is it the whole config, without a 'parent' to be read?")
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file (.pt, .ckpt) of RoboVLMs, under the names of its network.

    Raises:
        RobovlmsError: there is no such file, or it is not tensors in plain containers.
    """
    if path.is_dir():
        raise RobovlmsError(
            f"{path} is a folder, as DeepSpeed writes them; run the zero_to_fp32.py in it and give the file it makes"
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise RobovlmsError(f"there is no checkpoint {path}") from None
    except Exception as error:  # of pickle, of zip, or torch's own, whatever the damage is
        raise RobovlmsError(
            f"{path} is damaged, or holds more than tensors, which could run code and is not read "
            f"({str(error).splitlines()[0]}); where you trust it, load it there and save {{'state_dict': ...}} alone"
        ) from None
    found = next((saved[key] for key in ("state_dict", "model_state_dict") if key in saved), None)
    if not isinstance(found, Mapping):
        raise RobovlmsError(f"{path} has neither state_dict nor model_state_dict; is it a checkpoint of RoboVLMs?")
    return {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in found.items()}


def import_policy(weights: Mapping[str, Tensor], config: Mapping[str, Any], vlm: str, motion: Motion) -> Policy:
    """Return the policy of a checkpoint of RoboVLMs, in evaluation mode.

    Args:
        weights: of ``read_weights``.
        config: of ``read_config``.
        vlm: the folder or hub id of KosMos-2 that the training started from: its configuration and tokenizer.

    Raises:
        RobovlmsError: ``vlm`` is not KosMos-2, or its tokenizer does not put tokens around a prompt as it should.
        CheckpointError: the weights are not exactly those of the network that ``config`` and ``vlm`` describe.
        ContractError: the rate or the frame of ``motion`` is not possible.
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
    given = {
        renamed: tensor.float()
        for name, tensor in weights.items()
        if (renamed := _renamed(name)) is not None and not renamed.endswith(_BUFFERS)
    }
    fill(policy, given, "the checkpoint of RoboVLMs", "give the config and the KosMos-2 that it was trained with")
    return policy.eval()


def _renamed(name: str) -> str | None:
    """Return what a tensor is called here; None if it is not needed. Unknown names stay, for ``fill`` to refuse."""
    for theirs, ours in _PARTS.items():
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return name


def _bounds(config: Mapping[str, Any], motion: Motion) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what the network's -1 and 1 mean in m/s and rad/s, by axis."""
    low, high = (config["norm_min"], config["norm_max"]) if config["norm_action"] else (-1, 1)
    scale = (motion.linear_mps,) * 3 + (motion.angular_radps,) * 3
    return tuple(low * unit for unit in scale), tuple(high * unit for unit in scale)


def _read_vlm(name: str) -> tuple[dict[str, Any], CommandTokenizer]:
    """Return the configuration of KosMos-2 and its tokenizer, which begins a prompt as usual, but does not end it.

    RoboVLMs reads the feature out right before the token that ends the prompt, so that this one is never seen.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoTokenizer

    try:
        described = AutoConfig.from_pretrained(name)
        theirs = AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError, ImportError) as error:
        raise RobovlmsError(
            f"--vlm is {name!r}: no configuration and tokenizer in a folder of that name, nor at hand from the hub "
            f"({str(error).splitlines()[0]}); `hf download microsoft/kosmos-2-patch14-224 --local-dir FOLDER` where "
            "there is network; the weights in it are not needed"
        ) from None
    if described.model_type != "kosmos-2":
        raise RobovlmsError(f"--vlm is {name!r}, a model of the type {described.model_type!r}; needed: 'kosmos-2'")
    wrong = RobovlmsError(f"--vlm is {name!r}, whose tokenizer does not begin and end a prompt as KosMos-2's does")
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
