# SPDX-License-Identifier: Apache-2.0
"""Load recipes: JSON files that may inherit from a `parent`, with overrides from the command line."""

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
    """Read a recipe and apply `overrides` of the form `section.key=value`, the value in JSON or bare text.

    The key `parent` names another recipe, relative to this one's folder, that provides the values this one lacks.
    Sections (such as `trainer` or `policy.lstm`) are merged; values are replaced whole, including lists and maps
    (`policy.vlm.model`, `augment.shift_px`). The starting point is one choice: a recipe with `init_from` does not
    inherit `contract` and `policy`, and one with either of these does not inherit `init_from`.

    What a recipe has written to, `output` and `data.store`, is below the working directory; anything else must be said
    on the command line, by whoever runs the recipe.

    Raises:
        ConfigError: a file is missing or not JSON, parents form a cycle, or a key or value is invalid.
    """
    values = _read(path, ())
    given = {override.partition("=")[0] for override in overrides}
    for key, option in (("output", "--output FOLDER"), ("data.store", "--set data.store=FOLDER")):
        if key not in given:
            _require_below(path, values, key, option)
    for override in overrides:
        _apply(values, override)
    return TrainConfig.from_dict(values, str(path))


def _require_below(path: Path, values: dict[str, Any], key: str, option: str) -> None:
    """Raise ConfigError if the folder at `key` of a recipe may be outside of the working directory."""
    section, _, name = key.rpartition(".")
    held = values.get(section) if section else values
    folder = held.get(name) if isinstance(held, dict) else None
    if isinstance(folder, str) and (Path(folder).is_absolute() or ".." in Path(folder).parts):
        raise ConfigError(
            f"{path}: {key} is {folder!r}; a recipe may only write below the working directory. Give the folder on the "
            f"command line: {option}"
        )


def _read(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Return the values of a recipe merged over those of its `parent`."""
    path = path.resolve() if children else path
    if path.resolve() in children:
        chain = " -> ".join(str(file) for file in (*children, path.resolve()))
        raise ConfigError(f"{path} is its own parent: {chain}; remove one of these 'parent' keys")
    values = _read_file(path)
    parent = values.pop("parent", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: parent is {parent!r}; it must be a recipe's path, relative to this one's folder")
    inherited = _read((path.parent / parent), (*children, path.resolve()))
    for chosen, others in ((("init_from",), ("contract", "policy")), (("contract", "policy"), ("init_from",))):
        if any(values.get(key) is not None for key in chosen):
            inherited = {key: value for key, value in inherited.items() if key not in others}
    return _merge(TrainConfig, inherited, values)


def _merge(kind: type, parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Return `child` merged over `parent`, both values of the dataclass `kind`."""
    merged = {**parent, **child}
    for key, section in _sections(kind).items():
        if isinstance(parent.get(key), dict) and isinstance(child.get(key), dict):
            merged[key] = _merge(section, parent[key], child[key])
    return merged


def _sections(kind: type) -> dict[str, type]:
    """Return the fields of the dataclass `kind` that are dataclasses themselves, possibly optional, by name."""
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
        raise ConfigError(f"there is no recipe {path}; the shipped ones are in {shipped}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a recipe is a JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} contains {type(values).__name__}; it must be an object with the keys of TrainConfig")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"the override is {override!r}; it must be section.key=value, such as trainer.max_steps=100")
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"the override {override!r} names {section!r}, which is not a section")
    try:
        values[name] = json.loads(text)
    except json.JSONDecodeError:
        values[name] = text
