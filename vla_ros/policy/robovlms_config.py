# SPDX-License-Identifier: Apache-2.0
"""Read the training configs of RoboVLMs, and refuse those whose network cannot be imported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.errors import UserError

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
_OPEN_X_DATASET = "OpenVLADataset"
_LARGEST = 1 << 20  # of any size: beyond it, a typing error would fill the memory


class RobovlmsError(UserError):
    """A checkpoint or config of RoboVLMs that cannot be imported."""


@dataclasses.dataclass(frozen=True)
class RobovlmsTraining:
    """What a config says of the network and its actions.

    Attributes:
        norm: what -1 and 1 of the network's arm output mean, in the units of its data.
        hand_camera: whether the network saw the wrist camera.
        in_tool_frame: whether its actions are in the tool's frame.
    """

    window_size: int
    chunk: int
    hand_camera: bool
    image_size: int
    hidden_size: int
    layers: int
    max_tokens: int
    norm: tuple[float, float]
    in_tool_frame: bool


def read_config(path: Path) -> RobovlmsTraining:
    """Return what RoboVLMs' training config says, after checking that its network can be imported.

    Values that it lacks come from its `parent`, relative to the file's folder, and so on.

    Raises:
        RobovlmsError: it is not JSON, lacks a key, has a value of a wrong type, or describes an unsupported network;
            or a parent is missing or its own parent.
    """
    config = _read(path, ())
    for key, (allowed, default) in _SUPPORTED.items():
        given = _get(config, key, path)
        given = default if given is None else given
        # Upstream treats null, false and a missing key alike.
        if given != allowed and (given or allowed):
            raise RobovlmsError(f"{path}: {key} is {given!r}; only {allowed!r} is supported")

    def number(key: str, default: int | None = None) -> int:
        value = _get(config, key, path, default)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise RobovlmsError(f"{path}: {key} is {value!r}; it must be a whole number from 1 to {_LARGEST}")
        return value

    def flag(key: str, default: bool | None = None) -> bool:
        value = _get(config, key, path, default)
        if not isinstance(value, bool):
            raise RobovlmsError(f"{path}: {key} is {value!r}; it must be true or false")
        return value

    def bound(key: str) -> float:
        value = _get(config, key, path)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e6:
            raise RobovlmsError(f"{path}: {key} is {value!r}; it must be a number")
        return float(value)

    _require(config, path, "window_size", "fwd_pred_next_n", "use_hand_rgb", "norm_action")
    norm = (-1.0, 1.0)
    if flag("norm_action"):
        _require(config, path, "norm_min", "norm_max")
        norm = bound("norm_min"), bound("norm_max")
        if not norm[0] < norm[1]:
            raise RobovlmsError(f"{path}: norm_min is {norm[0]} and norm_max {norm[1]}; norm_min must be the smaller")
    return RobovlmsTraining(
        window_size=number("window_size"),
        chunk=number("fwd_pred_next_n"),
        # Its loader of Open X-Embodiment reads the static camera only, whatever use_hand_rgb says.
        hand_camera=flag("use_hand_rgb") and _get(config, "train_dataset.type", path) != _OPEN_X_DATASET,
        image_size=number("image_size", 224),
        hidden_size=number("act_head.hidden_size", 1024),
        layers=number("act_head.num_layers", 4),
        max_tokens=number("tokenizer.max_text_len", 256),
        norm=norm,
        in_tool_frame=flag("tcp_rel", False),
    )


def _get(config: Mapping[str, Any], key: str, path: Path, default: Any = None) -> Any:
    """Return the value of `name` or `section.name`; `default` if it or its section is null or missing."""
    section, _, name = key.rpartition(".")
    values = config.get(section) if section else config
    if values is None:
        return default
    if not isinstance(values, Mapping):
        # The data sets of its co-training are a list.
        if section == "train_dataset":
            return default
        raise RobovlmsError(f"{path}: {section} is {values!r}; it must be an object with the key {name!r}")
    value = values.get(name)
    return default if value is None else value


def _require(config: Mapping[str, Any], path: Path, *keys: str) -> None:
    for key in keys:
        if config.get(key) is None:
            raise RobovlmsError(
                f"{path} lacks the key {key!r}; use the *-project.json from the training's logs, which is complete"
            )


def _read(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Return a config merged over those of its `parent`, as RoboVLMs' `load_config` does."""
    resolved = path.resolve()
    if resolved in children:
        chain = " -> ".join(map(str, (*children, resolved)))
        raise RobovlmsError(f"{path} is its own parent: {chain}; remove one of these 'parent' keys")
    values = _read_file(path, children)
    parent = values.pop("parent", None)
    if not parent:
        return values
    if not isinstance(parent, str) or "\0" in parent:
        raise RobovlmsError(f"{path}: parent is {parent!r}; it must be a config's path, relative to this one's folder")
    return _merge(_read(path.parent / parent, (*children, resolved)), values)


def _merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        if isinstance(value, dict):
            own = {name: one for name, one in value.items() if name != "__override__"}
            inherited = parent.get(key)
            merges = isinstance(inherited, dict) and not value.get("__override__")
            merged[key] = _merge(inherited, own) if merges else own  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


def _read_file(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
        if not isinstance(config, dict):
            raise ValueError(f"expected an object, got {type(config).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        if children:
            raise RobovlmsError(
                f"{path}, the parent of {children[-1]}, cannot be read ({error}); put it there, or remove the key "
                "'parent' if the config is complete without it, as *-project.json are"
            ) from None
        raise RobovlmsError(
            f"{path} is not a JSON config of RoboVLMs ({error}); use the *-project.json from its training logs, or the "
            "one published with the weights"
        ) from None
    return config


def _not_finite(text: str) -> float:
    raise ValueError(f"it contains {text}")
