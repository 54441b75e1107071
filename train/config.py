# SPDX-License-Identifier: Apache-2.0
"""Training recipes: strict JSON to frozen dataclasses. Every key has a default that is meant; there are no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vla_ros import schema
from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, Language, Timing
from vla_ros.datasets.sources import FORMATS
from vla_ros.errors import UserError
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.backbones import BACKBONES
from vla_ros.policy.config import LossConfig, PolicyConfig, without_removed_key
from vla_ros.policy.heads import HEADS
from vla_ros.policy.module import RetainConfig
from vla_ros.policy.tuning import OptimizerConfig


class ConfigError(UserError):
    """A recipe that cannot be followed; names the key, its value, what is allowed and the way out."""


@dataclass(frozen=True)
class SourceConfig:
    """Demonstrations of one format at one place; docs/data.md says what the path is for each format.

    Attributes:
        weight: how many windows are drawn from it, relative to the other sources, which then all have a weight; null
            where none has: all windows of all sources count alike.
    """

    format: str
    path: str
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format is {self.format!r} for {self.path}; must be one of {', '.join(FORMATS)}")
        if self.weight is not None and not self.weight > 0:
            raise ConfigError(f"weight is {self.weight} for {self.path}; allowed: a positive number, or null")


@dataclass(frozen=True)
class DataConfig:
    """Which demonstrations.

    Attributes:
        bags: bag folders, or folders of them, relative to the working directory: short for a list of ``sources``.
        sources: any mixture of formats.
        robot: the robot's YAML file, or the name of a shipped one, for bags.
        validation_fraction: part of the recorded episodes that is held out, of each source.
        include_failures: also learn from episodes that were marked as failed.
        policy_frames: of bags that were recorded beside a policy: "drop" what it did itself and learn a person's
            corrections only, or "imitate" both.
        store: folder for decoded demonstrations; null: ``.vla_store`` beside each source.
        workers: processes that decode; 0: one for each core.
    """

    bags: tuple[str, ...] = ()
    sources: tuple[SourceConfig, ...] = ()
    robot: str = "tabletop"
    validation_fraction: float = 0.05
    include_failures: bool = False
    policy_frames: Literal["drop", "imitate"] = "drop"
    store: str | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; allowed: 0 up to, without, 1")
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers}; allowed: 0 (one for each core) or more")
        if self.bags and self.sources:
            raise ConfigError(
                "data.bags (or --bags) and data.sources are both set; list the bags in data.sources too, as "
                '{"format": "bags", "path": "FOLDER"}'
            )
        unweighted = [source.path for source in self.sources if source.weight is None]
        if unweighted and len(unweighted) < len(self.sources):
            raise ConfigError(f"data.sources: {unweighted[0]} has no weight, others have; give all one, or none")
        paths = [source.path for source in self.sources]
        if len(set(paths)) < len(paths):
            raise ConfigError(f"data.sources names a path twice: {', '.join(paths)}; use weights instead")


@dataclass(frozen=True)
class ContractConfig:
    """The part of the policy contract that is chosen; statistics, tokenizer and provenance come from the data.

    ``vocabulary_size`` is the size of the token table that is trained; ``prompt_template`` null takes the one that the
    backbone's model was trained with; the rest is explained in ``vla_ros.contract``.
    """

    cameras: tuple[Camera, ...] = (Camera("static", 64, 64), Camera("wrist", 64, 64))
    proprioception: tuple[str, ...] = ("ee_x", "ee_y", "ee_z", *(f"ee_r{i}" for i in range(6)), "gripper_opening")
    prompt_template: str | None = None
    max_tokens: int = 32
    vocabulary_size: int = 1024
    control_hz: float = 10.0
    history: int = 4
    chunk: int = 8
    settle_s: float = 0.02

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"contract.cameras has the names {names}; expected one camera or more, names that differ")
        for name in self.proprioception:
            if name not in PROPRIOCEPTION_UNITS:
                raise ConfigError(f"contract.proprioception: {name!r}; {schema.suggestion(name, PROPRIOCEPTION_UNITS)}")
        _ = self.timing, self.language("not trained yet")  # both check their values

    @property
    def timing(self) -> Timing:
        """The contract's timing."""
        return Timing(self.control_hz, self.history, self.chunk, self.settle_s)

    def language(self, tokenizer: str, own_prompt: str = "{command}") -> Language:
        """Return the contract's language with the token table ``tokenizer``; ``own_prompt`` is the backbone's."""
        template = own_prompt if self.prompt_template is None else self.prompt_template
        return Language(template, tokenizer, self.max_tokens)


@dataclass(frozen=True)
class KeepConfig:
    """How fine-tuning keeps what the starting policy could do.

    Attributes:
        bags: demonstrations of the old tasks, to rehearse.
        fraction: the part of the training windows that is drawn from ``bags``.
        retain: self-distillation, which needs no old demonstrations.
    """

    bags: tuple[str, ...] = ()
    fraction: float = 0.3
    retain: RetainConfig = field(default_factory=RetainConfig)

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ConfigError(f"keep.fraction is {self.fraction}; allowed: between 0 and 1")


@dataclass(frozen=True)
class TrainerConfig:
    """How long and on what.

    Attributes:
        max_steps: optimizer steps.
        batch_windows: history windows per step, in each process (train/run.sh); the cost is in the frames, at most
            ``history`` times as many.
        accumulate_batches: batches whose gradients make one step, for more windows than fit into memory at once; terms
            are means over each batch.
        gradient_clip_norm: largest norm of a step's gradient; 0 for any.
        ema_decay: of the moving average of the weights that is validated and kept; 0 keeps the weights themselves.
        validate_every_steps: how often the held-out episodes are looked at.
        patience_validations: stop after so many validations without a better loss; 0 trains all steps.
        export: which weights the checkpoint folder holds, always their moving average: "last", of the last step, or
            "best_validation", of the validation with the smallest loss (the imitation loss says little about how well
            the robot does: compare rollouts before you trust it).
        encode_once: encode every frame once, before the training, and train what comes after the backbone on that: for
            a backbone that is frozen as a whole (``optimizer.freeze``: ``backbone.*``), without ``augment``.
        gradient_checkpointing: recompute the vision-language model's activations instead of keeping them.
        threads: CPU threads of torch; 0 leaves torch's own choice.
        accelerator: "auto" takes what there is, in the order tpu, gpu (NVIDIA), mps (Apple), cpu.
        strategy: of several processes (train/run.sh). "auto" is "ddp": each has the whole network. "fsdp": each keeps a
            piece of it, for networks that are too large; "deepspeed": a piece of gradients and moments (ZeRO 2).
        precision: as Lightning names them.
        wandb_project: also log to Weights & Biases, under this project: into the run folder, or to its server where the
            environment has WANDB_MODE=online.
    """

    max_steps: int = 6000
    batch_windows: int = 32
    accumulate_batches: int = 1
    gradient_clip_norm: float = 1.0
    ema_decay: float = 0.998
    validate_every_steps: int = 1000
    patience_validations: int = 0
    export: Literal["last", "best_validation"] = "last"
    encode_once: bool = False
    gradient_checkpointing: bool = False
    threads: int = 0
    accelerator: Literal["auto", "cpu", "gpu", "mps", "tpu"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"trainer.ema_decay is {self.ema_decay}; allowed: 0 up to, without, 1")
        if self.gradient_clip_norm < 0:
            raise ConfigError(f"trainer.gradient_clip_norm is {self.gradient_clip_norm}; allowed: 0 or more")
        for name in ("max_steps", "batch_windows", "accumulate_batches", "validate_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.patience_validations < 0:
            raise ConfigError(f"trainer.patience_validations is {self.patience_validations}; allowed: 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: ``contract`` trains from scratch, ``init_from`` (a checkpoint folder) tunes what is there.

    With ``init_from``, ``contract`` and ``policy`` are the checkpoint's, where ``policy`` may say ``max_delay_steps``
    for a checkpoint that was trained without delays; without ``init_from``, ``policy`` has a default.
    """

    name: str
    output: str = "runs"
    seed: int = 0
    init_from: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    contract: ContractConfig | None = None
    policy: PolicyConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.init_from is None and (self.keep.bags or self.keep.retain.weight):
            raise ConfigError(
                "keep is set but init_from is not: there is nothing to keep; name a checkpoint in init_from"
            )
        if self.init_from is not None:
            if self.contract is not None:
                raise _both_set("contract")
            delays = self.policy.max_delay_steps if self.policy else 1
            if self.policy not in (None, PolicyConfig(max_delay_steps=max(1, delays))):
                raise _policy_is_the_checkpoint_s()
        if self.trainer.encode_once:
            self._check_encoded_once()
        if self.contract is not None:
            _check_network(self.policy or PolicyConfig(), self.contract)
            self.check_loss(self.contract.cameras)
        elif self.init_from is None:
            raise ConfigError(
                "neither init_from nor contract is set; name the checkpoint to start from with --set init_from=FOLDER, "
                "or give a contract to train from scratch"
            )

    def _check_encoded_once(self) -> None:
        """Raise ConfigError if what a frame is encoded into changes in the training, or a loss wants its pictures."""
        unchanged = AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0)
        for key, value, allowed in (
            ("optimizer.freeze", list(self.optimizer.freeze), ["backbone.*"]),
            ("augment", dataclasses.asdict(self.augment), dataclasses.asdict(unchanged)),
            ("loss.forward_prediction", self.loss.forward_prediction, None),
            ("keep.retain.weight", self.keep.retain.weight, 0.0),
        ):
            if value != allowed:
                raise ConfigError(
                    f"trainer.encode_once is set, but {key} is {value}; allowed: {allowed}, as frames are encoded "
                    "before the training, or encode_once=false"
                )

    def check_loss(self, cameras: Sequence[Camera]) -> None:
        """Raise ConfigError if a loss does not fit the pictures of ``cameras``."""
        if self.loss.forward_prediction is not None:
            try:
                self.loss.forward_prediction.check_image_sizes({c.name: (c.height, c.width) for c in cameras})
            except ValueError as error:
                raise ConfigError(str(error)) from None

    @property
    def run_folder(self) -> Path:
        """Where everything of this run is written."""
        return Path(self.output) / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        values = dataclasses.asdict(self)
        if self.init_from is not None and self.policy is not None:
            values["policy"] = {"max_delay_steps": self.policy.max_delay_steps}  # all that it says
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "config") -> TrainConfig:
        """Build from plain types; raises ConfigError that names the key."""
        for section, key in (("policy", "delay_mode"), ("loss", "language_weight")):
            if isinstance(values.get(section), dict):
                kept = without_removed_key(values[section], key, f"{where}: {section}", ConfigError)
                values = {**values, section: kept}
        try:
            config = schema.parse(cls, values, where, ConfigError)
        except ConfigError:
            raise
        except (UserError, ValueError) as error:  # the dataclasses' own checks
            raise ConfigError(f"{where}: {error}") from None
        if config.init_from is not None and (values.get("policy") or {}).keys() - {"max_delay_steps"}:
            raise _policy_is_the_checkpoint_s()  # what it names is the default, not the checkpoint's
        return config


def _policy_is_the_checkpoint_s() -> ConfigError:
    return _both_set("policy", ", but for a max_delay_steps of 1 or more")


def _both_set(name: str, exception: str = "") -> ConfigError:
    return ConfigError(
        f"{name} and init_from are both set; a fine-tuned policy has the {name} of its starting checkpoint{exception}: "
        f"remove {name}, or remove init_from to train from scratch"
    )


def _check_network(network: PolicyConfig, contract: ContractConfig) -> None:
    """Raise what building the network would raise, before minutes are spent on reading bags."""
    for key, name, known in (("backbone", network.backbone, BACKBONES), ("head", network.head, HEADS)):
        if name not in known:
            raise ConfigError(f"policy.{key} is {name!r}; allowed: {', '.join(known)}")
    if network.backbone == "compact":
        for camera in contract.cameras:
            network.compact.check_image_size(camera.height, camera.width)
    if network.max_delay_steps >= contract.chunk:
        raise ConfigError(
            f"policy.max_delay_steps is {network.max_delay_steps}, but contract.chunk is {contract.chunk}; "
            "allowed: less"
        )
    if network.backbone == "vlm" and network.vlm.pretrained is None and not network.vlm.model:
        raise ConfigError(
            "policy.vlm has neither pretrained nor model; name a folder or hub id in policy.vlm.pretrained, or give a "
            "model's configuration in policy.vlm.model to start from random weights"
        )
