# SPDX-License-Identifier: Apache-2.0
"""Training recipes as frozen dataclasses, parsed strictly from JSON."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vla_ros import schema
from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, Language, Timing
from vla_ros.datasets.sources import FORMATS
from vla_ros.errors import UserError
from vla_ros.files import is_plain_name
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.backbones import BACKBONES
from vla_ros.policy.config import LossConfig, PolicyConfig, without_removed_keys
from vla_ros.policy.heads import HEADS
from vla_ros.policy.module import RetainConfig
from vla_ros.policy.tuning import OptimizerConfig


class ConfigError(UserError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True)
class SourceConfig:
    """Demonstrations in one format; docs/data.md defines the path for each format.

    Attributes:
        weight: share of the training windows, relative to the other sources, which then all need a weight; null in all
            sources draws all windows equally often.
        annotations: for CALVIN, the folder of a split's annotations; null finds it.
        motion_only: for CALVIN, learn from all motion of a split, under the empty command.
    """

    format: str
    path: str
    weight: float | None = None
    annotations: str | None = None
    motion_only: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format is {self.format!r} for {self.path}; must be one of {', '.join(FORMATS)}")
        if self.weight is not None and not self.weight > 0:
            raise ConfigError(f"weight is {self.weight} for {self.path}; it must be positive or null")
        if self.format != "calvin" and (self.annotations is not None or self.motion_only):
            raise ConfigError(f"annotations and motion_only are for the format calvin; {self.path} is {self.format}")
        if self.motion_only and self.annotations is not None:
            raise ConfigError(f"motion_only is true for {self.path}, so annotations are not read; remove one of them")


@dataclass(frozen=True)
class DataConfig:
    """The demonstrations to learn from.

    Attributes:
        bags: bags, or folders of bags, relative to the working directory; short for a list of `sources`.
        sources: demonstrations in any mix of formats.
        robot: the robot's YAML file, or the name of a shipped one, for bags.
        validation_fraction: share of the recorded episodes that is held out, of each source but those that bring a
            validation split (CALVIN's task_D_D).
        include_failures: also learn from episodes marked as failed.
        policy_frames: for bags recorded while a policy ran: "drop" its own actions and learn only a person's
            corrections, or "imitate" both.
        store: folder for decoded demonstrations; null: `.vla_store` next to each source.
        workers: decoding processes; 0: one per core.
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
            raise ConfigError(f"data.validation_fraction is {self.validation_fraction}; it must be in [0, 1)")
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers}; it must be 0 (one per core) or more")
        if self.bags and self.sources:
            raise ConfigError(
                "data.bags (or --bags) and data.sources are both set; list the bags in data.sources, as "
                '{"format": "bags", "path": "FOLDER"}'
            )
        unweighted = [source.path for source in self.sources if source.weight is None]
        if unweighted and len(unweighted) < len(self.sources):
            raise ConfigError(f"data.sources: {unweighted[0]} has no weight, but others do; give all one, or none")
        paths = [source.path for source in self.sources]
        if len(set(paths)) < len(paths):
            raise ConfigError(f"data.sources lists a path twice: {', '.join(paths)}; use weights instead")


@dataclass(frozen=True)
class ContractConfig:
    """The part of the policy contract that a recipe chooses; statistics, tokenizer and provenance come from the data.

    `vocabulary_size` is that of the trained tokenizer; `prompt_template` null takes the template that the backbone's
    model was trained with; the rest is explained in `vla_ros.contract`.
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
            raise ConfigError(f"contract.cameras has the names {names}; there must be at least one, and no name twice")
        for name in self.proprioception:
            if name not in PROPRIOCEPTION_UNITS:
                raise ConfigError(f"contract.proprioception: {name!r}; {schema.suggestion(name, PROPRIOCEPTION_UNITS)}")
        _ = self.timing, self.language("not trained yet")  # both validate their values

    @property
    def timing(self) -> Timing:
        """The contract's timing."""
        return Timing(self.control_hz, self.history, self.chunk, self.settle_s)

    def language(self, tokenizer: str, default_prompt: str = "{command}") -> Language:
        """Return the contract's language for a tokenizer's identity; `default_prompt` is the backbone's."""
        template = default_prompt if self.prompt_template is None else self.prompt_template
        return Language(template, tokenizer, self.max_tokens)


@dataclass(frozen=True)
class KeepConfig:
    """How fine-tuning retains the skills of the starting policy.

    Attributes:
        bags: demonstrations of the old tasks, to rehearse.
        fraction: share of the training windows drawn from `bags`.
        retain: self-distillation, which needs no old demonstrations.
    """

    bags: tuple[str, ...] = ()
    fraction: float = 0.3
    retain: RetainConfig = field(default_factory=RetainConfig)

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ConfigError(f"keep.fraction is {self.fraction}; it must be in (0, 1)")


@dataclass(frozen=True)
class TrainerConfig:
    """How long to train, and on which hardware.

    Attributes:
        max_steps: optimizer steps.
        batch_windows: history windows per step and process (train/run.sh), of at most `history` frames each.
        accumulate_batches: batches whose gradients make one step, for more windows than fit into memory; losses are
            means over each batch.
        gradient_clip_norm: largest norm of a step's gradient; 0 disables clipping by norm.
        gradient_clip_value: largest absolute value in a step's gradient, instead; 0 disables it.
        ema_decay: of the moving average of the weights, which is validated and exported; 0 uses the weights themselves.
        validate_every_steps: interval of validation on the held-out episodes.
        monitor: metric that tells the best validations, the largest if it is an accuracy, else the smallest.
        save_top_k: number of best validations whose Lightning checkpoints are kept; -1 keeps all.
        checkpoint_name: file name of these, with Lightning's placeholders for epoch, step and metrics, such as
            "checkpoint-{epoch:02d}-{val_loss:.2f}".
        patience_validations: stop after this many validations without a better `monitor`; 0 trains all steps.
        export: which averaged weights to export: "last", or "best_validation", those with the best `monitor`
            (whose loss says little about success on the robot: compare rollouts before you rely on it).
        encode_once: encode every frame once, before training, and train only what follows the backbone; requires a
            frozen backbone (`optimizer.freeze`: `backbone.*`) and no `augment`.
        gradient_checkpointing: recompute the vision-language model's activations instead of keeping them.
        threads: CPU threads of torch; 0: torch's default.
        accelerator: Lightning's name; mps and tpu are untested.
        strategy: of several processes (train/run.sh). "auto" is "ddp": each has the whole network. "fsdp" shards the
            network, for those that do not fit on one GPU; "deepspeed" (ZeRO 2) and any other name of Lightning's are
            handed to it, untested.
        precision: any name of Lightning's; mps always takes "32-true".
        plugins: names of Lightning's plugins (`pytorch_lightning.plugins`), such as "TorchSyncBatchNorm".
        wandb_project: also log to this project of Weights & Biases: offline, into the run folder, unless the
            environment variable WANDB_MODE is "online".
    """

    max_steps: int = 6000
    batch_windows: int = 32
    accumulate_batches: int = 1
    gradient_clip_norm: float = 1.0
    gradient_clip_value: float = 0.0
    ema_decay: float = 0.998
    validate_every_steps: int = 1000
    monitor: str = "val_loss"
    save_top_k: int = 1
    checkpoint_name: str = "best"
    patience_validations: int = 0
    export: Literal["last", "best_validation"] = "last"
    encode_once: bool = False
    gradient_checkpointing: bool = False
    threads: int = 0
    accelerator: Literal["auto", "cpu", "gpu", "mps", "tpu"] = "auto"
    strategy: str = "auto"
    precision: str = "32-true"
    plugins: tuple[str, ...] = ()
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"trainer.ema_decay is {self.ema_decay}; it must be in [0, 1)")
        for name, least in (
            ("gradient_clip_norm", 0),
            ("gradient_clip_value", 0),
            ("save_top_k", -1),
            ("patience_validations", 0),
            ("max_steps", 1),
            ("batch_windows", 1),
            ("accumulate_batches", 1),
            ("validate_every_steps", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"trainer.{name} is {getattr(self, name)}; it must be at least {least}")
        if self.gradient_clip_norm and self.gradient_clip_value:
            raise ConfigError(
                "trainer.gradient_clip_norm and trainer.gradient_clip_value are both set; set one of them to 0"
            )
        name = self.checkpoint_name
        if not name or "/" in re.sub(r"{.*?}", "", name) or name in ("last", "checkpoint", ".", ".."):
            raise ConfigError(f"trainer.checkpoint_name is {name!r}; it must be a file name other than 'last'")
        if self.save_top_k not in (0, 1) and "{" not in name:
            raise ConfigError(
                f"trainer.save_top_k is {self.save_top_k}, but trainer.checkpoint_name is {name!r} for all of them; "
                'add a placeholder, as in "checkpoint-{step}-{val_loss:.2f}"'
            )
        if self.export == "best_validation" and not self.save_top_k:
            raise ConfigError("trainer.export is 'best_validation', but trainer.save_top_k is 0; it must be 1 or more")


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: `contract` trains from scratch, `init_from` fine-tunes the policy of a checkpoint folder.

    With `init_from`, contract and policy are the checkpoint's. A run is written to `output`/`name`.
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
        if not is_plain_name(self.name) or len(os.fsencode(self.name)) > 200:
            raise ConfigError(
                f"name is {self.name!r}; it must be the name of a folder, without / and \\, as the run is written to "
                "OUTPUT/NAME. Set the folder around it with --output"
            )
        if self.init_from is None and (self.keep.bags or self.keep.retain.weight):
            raise ConfigError(
                "keep is set but init_from is not, so there is nothing to retain; set init_from to a checkpoint"
            )
        if self.init_from is not None:
            for name in ("contract", "policy"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name} and init_from are both set, but fine-tuning keeps the {name} of the checkpoint; "
                        f"remove {name}, or remove init_from to train from scratch"
                    )
        if self.trainer.encode_once:
            self._check_encoded_once()
        if self.contract is not None:
            _check_network(self.policy or PolicyConfig(), self.contract)
            self.check_loss(self.contract.cameras)
        elif self.init_from is None:
            raise ConfigError(
                "neither init_from nor contract is set; set the checkpoint to start from with --set init_from=FOLDER, "
                "or add a contract to train from scratch"
            )

    def _check_encoded_once(self) -> None:
        """Raise ConfigError if encodings would change during training, or a loss needs images."""
        unchanged = AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0)
        for key, value, allowed in (
            ("optimizer.freeze", list(self.optimizer.freeze), ["backbone.*"]),
            ("augment", dataclasses.asdict(self.augment), dataclasses.asdict(unchanged)),
            ("loss.forward_prediction", self.loss.forward_prediction, None),
            ("keep.retain.weight", self.keep.retain.weight, 0.0),
        ):
            if value != allowed:
                raise ConfigError(
                    f"trainer.encode_once is set, but {key} is {value}; it must be {allowed}, as frames are encoded "
                    "before training, or set encode_once=false"
                )

    def check_loss(self, cameras: Sequence[Camera]) -> None:
        """Raise ConfigError if a loss does not fit the images of `cameras`."""
        if self.loss.forward_prediction is not None:
            try:
                self.loss.forward_prediction.check_image_sizes({c.name: (c.height, c.width) for c in cameras})
            except ValueError as error:
                raise ConfigError(str(error)) from None

    @property
    def run_folder(self) -> Path:
        """The folder that this run writes to."""
        return Path(self.output) / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "config") -> TrainConfig:
        """Parse plain types; raises ConfigError naming the key."""
        for section in ("policy", "loss"):
            if isinstance(values.get(section), dict):
                kept = without_removed_keys(values[section], section, f"{where}: {section}", ConfigError)
                values = {**values, section: kept}
        try:
            return schema.parse(cls, values, where, ConfigError)
        except ConfigError:
            raise
        except (UserError, ValueError) as error:  # from the dataclasses
            raise ConfigError(f"{where}: {error}") from None


def _check_network(network: PolicyConfig, contract: ContractConfig) -> None:
    """Raise, before minutes are spent on reading bags, what building the network would raise."""
    names: tuple[tuple[str, str, Iterable[str]], ...] = (
        ("backbone", network.backbone, BACKBONES),
        ("head", network.head, HEADS),
    )
    for key, name, known in names:
        if name not in known:
            raise ConfigError(f"policy.{key} is {name!r}; it must be one of {', '.join(known)}")
    if network.backbone == "vlm" and network.vlm.pretrained is None and not network.vlm.model:
        raise ConfigError(
            "policy.vlm has neither pretrained nor model; set policy.vlm.pretrained to a folder or hub id, or "
            "policy.vlm.model to a model's configuration to start from random weights"
        )
