# SPDX-License-Identifier: Apache-2.0
"""The policy that a training starts from: a new one for its demonstrations, or one to fine-tune."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vla_ros import __version__
from vla_ros.contract import ActionSpace, Camera, ObservationSpec, PolicyContract, Provenance, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.policy.backbones.families import FAMILIES
from vla_ros.policy.backbones.pretrained import Pretrained, load_pretrained
from vla_ros.policy.checkpoint import load_checkpoint, load_contract
from vla_ros.policy.config import PolicyConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.demonstrations import recorded_robots
from vla_ros.train.statistics import action_bounds, data_digest, proprioception_statistics


def observation_spec(config: TrainConfig) -> tuple[ObservationSpec, Timing]:
    """Return how demonstrations are sampled for this recipe."""
    if config.init_from is not None:
        contract = load_contract(config.init_from)
        return contract.observation_spec, contract.timing
    chosen = config.contract
    assert chosen is not None  # TrainConfig requires it without init_from
    return ObservationSpec(chosen.cameras, chosen.proprioception), chosen.timing


def new_policy(config: TrainConfig, training: Sequence[Episode]) -> Policy:
    """Return an untrained policy with statistics, tokenizer and provenance of the `training` episodes only."""
    chosen, network = config.contract, config.policy or PolicyConfig()
    assert chosen is not None  # TrainConfig requires it without init_from
    pretrained = None
    if network.backbone == "vlm" and network.vlm.pretrained is not None:
        pretrained = load_pretrained(network.vlm)
        _check_normalisation(chosen.cameras, pretrained)
        network = dataclasses.replace(network, vlm=pretrained.config)
        tokenizer = pretrained.tokenizer
    else:
        template = chosen.language("not trained yet", _default_prompt(network))
        prompts = [template.prompt(command) for episode in training for command in episode.commands]
        tokenizer = CommandTokenizer.train(prompts, chosen.vocabulary_size)
    low, high = action_bounds(training)
    contract = PolicyContract(
        cameras=chosen.cameras,
        proprioception=proprioception_statistics(training, chosen.proprioception),
        language=chosen.language(tokenizer.identity, _default_prompt(network)),
        timing=chosen.timing,
        action=ActionSpace(low=low, high=high),
        provenance=Provenance(
            backbone=network.backbone,
            backbone_revision=pretrained.revision if pretrained else "from scratch",
            head=network.head,
            data_digest=data_digest(training),
            package_version=__version__,
            robots=recorded_robots(config),
        ),
    )
    try:
        return Policy(contract, network, tokenizer, pretrained.model if pretrained else None)
    except ValueError as error:  # what only the model knows, such as its image sizes
        raise ConfigError(f"the {network.backbone} backbone cannot be built from this recipe: {error}") from None


def _default_prompt(network: PolicyConfig) -> str:
    """Return the prompt template that the backbone's model was trained with."""
    family = FAMILIES.get(network.vlm.model.get("model_type", "")) if network.backbone == "vlm" else None
    return "{command}" if family is None else family.prompt


def _check_normalisation(cameras: Sequence[Camera], pretrained: Pretrained) -> None:
    """Raise ConfigError if a camera is not normalised as the pretrained model's images were."""
    for camera in cameras:
        for key, given, needed in (
            ("mean", camera.mean, pretrained.image_mean),
            ("std", camera.std, pretrained.image_std),
        ):
            if needed is not None and any(abs(a - b) > 1e-4 for a, b in zip(given, needed, strict=True)):
                raise ConfigError(
                    f"contract.cameras: {camera.name} has the {key} {list(given)}; it must be {list(needed)}, which "
                    f"{pretrained.revision} was trained with"
                )


def tuned_policy(config: TrainConfig, training: Sequence[Episode]) -> Policy:
    """Return the policy of `init_from`, to fine-tune on `training`; it keeps its statistics and tokenizer.

    It becomes a policy of the robots that it is tuned on, if they are known.
    """
    assert config.init_from is not None
    policy = load_checkpoint(config.init_from)
    start = policy.contract.provenance
    provenance = dataclasses.replace(
        start,
        data_digest=data_digest(training),
        package_version=__version__,
        robots=recorded_robots(config) or start.robots,
    )
    policy.contract = dataclasses.replace(policy.contract, provenance=provenance)
    return policy.train()
