# SPDX-License-Identifier: Apache-2.0
"""Import checkpoints of RoboVLMs (github.com/Robot-VLAs/RoboVLMs, arXiv:2412.14058): KosMos-2 with an LSTM head.

The network is reproduced exactly: token order, readout, head. Its evaluation wrapper is not: it un-normalises the
gripper with the arm's bounds, and a padded prompt moves its readout. RoboVLMs' files do not state what an action of 1
means in m/s and rad/s, nor at which rate; the caller supplies that as `Motion`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_ros import __version__
from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Provenance, Timing
from vla_ros.errors import first_line
from vla_ros.policy.backbones.families import Kosmos2
from vla_ros.policy.backbones.pretrained import plain_config, wants_code
from vla_ros.policy.checkpoint import load_weights
from vla_ros.policy.config import PolicyConfig, RobovlmsConfig, VlmConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.robovlms_config import RobovlmsError, RobovlmsTraining
from vla_ros.policy.tokenizer import CommandTokenizer

# The normalisation RoboVLMs uses with KosMos-2, whatever its config says.
IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPT = Kosmos2.prompt

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
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise RobovlmsError(f"{name} is {value}; it must be positive and finite")


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
            f"{path} is damaged, or contains pickled objects, which could run code ({first_line(error)}); if "
            "you trust it, load it in RoboVLMs and save only {'state_dict': ...}"
        ) from None
    sections = saved if isinstance(saved, Mapping) else {}
    found = next((sections[key] for key in ("state_dict", "model_state_dict") if key in sections), None)
    if not isinstance(found, Mapping):
        raise RobovlmsError(f"{path} has neither state_dict nor model_state_dict; use a checkpoint of RoboVLMs")
    for name, tensor in found.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise RobovlmsError(f"{path}: {name!r} is of type {type(tensor).__name__}; use a checkpoint of RoboVLMs")
    return {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in found.items()}


def import_policy(weights: Mapping[str, Tensor], training: RobovlmsTraining, vlm: str, motion: Motion) -> Policy:
    """Return the policy of a RoboVLMs checkpoint, in evaluation mode.

    Args:
        weights: from `read_weights`.
        training: from `read_config`.
        vlm: folder or hub id of the KosMos-2 that training started from, for its configuration and tokenizer.

    Raises:
        RobovlmsError: `vlm` is not KosMos-2, takes other images, or its tokenizer is not KosMos-2's.
        CheckpointError: the weights do not match the network that `training` and `vlm` describe.
        ContractError: the rate or the frame of `motion` is invalid.
    """
    model, tokenizer = _read_vlm(vlm)
    size, accepted = training.image_size, model["vision_config"]["image_size"]
    if size != accepted:
        raise RobovlmsError(
            f"image_size is {size} in the config, but --vlm {vlm!r} takes images of {accepted}x{accepted}; use the "
            "KosMos-2 that the training started from"
        )
    names = ("wrist", "static") if training.hand_camera else ("static",)  # the order in its sequence
    network = PolicyConfig(
        backbone="vlm",
        head="robovlms",
        vlm=VlmConfig(model=model, layout="robovlms"),
        robovlms=RobovlmsConfig(hidden_size=training.hidden_size, layers=training.layers),
    )
    scale = (motion.linear_mps,) * 3 + (motion.angular_radps,) * 3
    low, high = (tuple(bound * unit for unit in scale) for bound in training.norm)
    contract = PolicyContract(
        cameras=tuple(Camera(name, size, size, mean=IMAGE_MEAN, std=IMAGE_STD) for name in names),
        proprioception=None,
        language=Language(PROMPT, tokenizer.identity, training.max_tokens),
        timing=Timing(motion.control_hz, training.window_size, training.chunk),
        action=ActionSpace(low=low, high=high, frame=motion.frame),
        provenance=Provenance("vlm", f"RoboVLMs with {Path(vlm).name}", "robovlms", "unknown", __version__),
    )
    _check_head(weights, training)
    try:
        policy = Policy(contract, network, tokenizer)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise RobovlmsError(
            f"--vlm {vlm!r} describes a network that cannot be built ({first_line(error)}); download "
            "microsoft/kosmos-2-patch14-224 again"
        ) from None
    tensors = {
        renamed: tensor.float()
        for name, tensor in weights.items()
        if (renamed := _rename(name)) is not None and not renamed.endswith(_BUFFERS)
    }
    load_weights(policy, tensors, "the RoboVLMs checkpoint", "use the config and the KosMos-2 it was trained with")
    return policy.eval()


def _check_head(weights: Mapping[str, Tensor], training: RobovlmsTraining) -> None:
    """Raise RobovlmsError, before a network of a wrong size fills the memory, if weights and config disagree."""
    for key, given, name in (
        ("act_head.hidden_size", training.hidden_size, "act_head.gripper.mlp.0.weight"),
        ("fwd_pred_next_n", training.chunk, "act_head.gripper.mlp.6.bias"),
    ):
        found = weights[name].shape[-1] if name in weights and weights[name].ndim else given
        if found != given:
            raise RobovlmsError(f"{key} is {given} in the config, but {found} in the weights; use the config they have")
    layers = len({name.rpartition("_l")[2] for name in weights if name.startswith("act_head.rnn.")})
    if training.layers > layers:
        raise RobovlmsError(f"act_head.num_layers is {training.layers}, but the weights have {layers}; correct the key")


def _rename(name: str) -> str | None:
    """Return our name of a tensor, None if it is not needed; unknown names stay, for `load_weights` to refuse."""
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return name


def _read_vlm(name: str) -> tuple[dict[str, Any], CommandTokenizer]:
    """Return KosMos-2's configuration and its tokenizer, without the token that ends a prompt.

    RoboVLMs reads its feature right before that token.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoTokenizer

    try:
        described = AutoConfig.from_pretrained(name, trust_remote_code=False)
        theirs = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises anything for what is missing or malformed
        if wants_code(error):
            raise RobovlmsError(
                f"--vlm is {name!r}, which brings code of its own, and that is never run; use KosMos-2 as Microsoft "
                "publishes it, microsoft/kosmos-2-patch14-224"
            ) from None
        raise RobovlmsError(
            f"--vlm is {name!r}, neither a folder with configuration and tokenizer nor available from the hub "
            f"({first_line(error)}); run `hf download microsoft/kosmos-2-patch14-224 --local-dir FOLDER` on a "
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
