# SPDX-License-Identifier: Apache-2.0
"""Recipes as files: JSON that inherits from a ``parent``, with overrides of the command line, to ``TrainConfig``."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros import resources
from vla_ros.train.config import ConfigError, TrainConfig


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe and apply ``overrides`` of the form ``section.key=value``, the value in JSON or bare text.

    The key ``parent`` names another recipe, relative to the folder of this one, whose values are there where this one
    gives none. Sections (what has its own keys here, such as ``trainer`` or ``policy.lstm``) are merged; values are
    replaced whole, also lists and those that map names (``policy.vlm.model``, ``augment.shift_px``). What a training
    starts from is one choice: a recipe that gives ``init_from`` takes no ``contract`` and ``policy`` from its parent,
    one that gives any of these takes no ``init_from``.

    Raises:
        ConfigError: a file is missing or not JSON, recipes are each other's parents, or a key or value is not allowed.
    """
    values = _read(path, ())
    for override in overrides:
        _apply(values, override)
    return TrainConfig.from_dict(values, str(path))


def _read(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Return the values of a recipe over those of its ``parent``, which is named relative to the recipe's folder."""
    path = path.resolve() if children else path
    if path.resolve() in children:
        chain = " -> ".join(str(file) for file in (*children, path.resolve()))
        raise ConfigError(f"{path} is its own parent: {chain}; remove one of the keys 'parent'")
    values = _read_file(path)
    parent = values.pop("parent", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: parent is {parent!r}; expected a recipe's file, relative to this one's folder")
    inherited = _read((path.parent / parent), (*children, path.resolve()))
    for chosen, others in ((("init_from",), ("contract", "policy")), (("contract", "policy"), ("init_from",))):
        if any(values.get(key) is not None for key in chosen):
            inherited = {key: value for key, value in inherited.items() if key not in others}
    return _merge(TrainConfig, inherited, values)


def _merge(kind: type, parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Return ``parent``, values of the dataclass ``kind``, with those of ``child`` put in; sections are merged."""
    merged = {**parent, **child}
    for key, section in _sections(kind).items():
        if isinstance(parent.get(key), dict) and isinstance(child.get(key), dict):
            merged[key] = _merge(section, parent[key], child[key])
    return merged


def _sections(kind: type) -> dict[str, type]:
    """Return the dataclasses among the fields of the dataclass ``kind``, which may be optional, by name."""
    hints = {
        name: typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        for name, hint in typing.get_type_hints(kind).items()
    }
    chosen = {name: options[0] for name, options in hints.items()}
    return {name: kind for name, kind in chosen.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = resources.path("config/train")
        raise ConfigError(f"there is no training config {path}; the shipped ones are in {shipped}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a training config is a JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; expected an object with the keys of TrainConfig")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"the override is {override!r}; expected section.key=value, for instance trainer.max_steps=100"
        )
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"the override {override!r} goes into {section!r}, which is not a section")
    try:
        values[name] = json.loads(text)
    except json.JSONDecodeError:
        values[name] = text
