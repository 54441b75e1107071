# SPDX-License-Identifier: Apache-2.0
"""Which files make up a bag, whether or not its recorder lived to write metadata.yaml."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from vla_ros.datasets.bags.storage.entries import Container, Damage
from vla_ros.datasets.bags.storage.inflate import inflate_file
from vla_ros.datasets.bags.storage.mcap import McapFile
from vla_ros.datasets.bags.storage.sqlite import SqliteFile

METADATA = "metadata.yaml"

# libyaml where PyYAML was built with it: ten times as fast, and short bags are mostly metadata. As safe as the other.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ZSTD = ".zstd"
_STORAGE = re.compile(r"(?P<bag>.+?)(_(?P<split>\d+))?(?P<kind>\.mcap|\.db3)(\.zstd)?")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What metadata.yaml says that the storage files don't: which files there are, how many messages, custom data.

    files: names without folders; messages: of the whole bag, None where it is not told.
    """

    files: tuple[str, ...] = ()
    messages: int | None = None
    custom_data: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parse_metadata(text: str) -> Metadata:
    """Read the text of metadata.yaml, of any of the versions 1 to 9, or what a storage file holds of it.

    Raises:
        Damage: it is not YAML, or has another form.
    """
    try:
        data = yaml.load(text, _SafeLoader)  # noqa: S506  # both are safe loaders
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Damage(f"it is not YAML ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from None
    if isinstance(data, dict):
        data = data.get("rosbag2_bagfile_information", data)  # without this key in the storage files
    if not isinstance(data, dict):
        raise Damage("it is no metadata of rosbag2")
    files = data.get("relative_file_paths") or []
    custom = data.get("custom_data") or {}
    messages = data.get("message_count")
    if not isinstance(files, list) or not isinstance(custom, dict):
        raise Damage("relative_file_paths is no list, or custom_data is no table")
    return Metadata(
        # Versions 1 to 3 write the bag's folder in front.
        files=tuple(Path(str(file)).name for file in files),
        messages=messages if isinstance(messages, int) else None,
        custom_data={str(key): str(value) for key, value in custom.items()},
    )


def storage_files(folder: Path) -> list[Path]:
    """Return the files in a folder that hold messages, each once where it is there both plain and compressed.

    The plain one: a recorder that is killed while it compresses leaves half of the other.
    """
    found = [path for path in folder.iterdir() if _STORAGE.fullmatch(path.name) and path.is_file()]
    plain = {path.name for path in found}
    return sorted((path for path in found if path.name.removesuffix(ZSTD) not in plain - {path.name}), key=_order)


def are_one_recording(files: list[Path]) -> bool:
    """Whether the files are called as the parts of one recording: NAME_0, NAME_1 ..."""
    return len({match["bag"] for file in files if (match := _STORAGE.fullmatch(file.name))}) <= 1


def is_storage_file(path: Path) -> bool:
    """Whether a file is called as one that holds messages."""
    return _STORAGE.fullmatch(path.name) is not None


def listed_files(folder: Path, metadata: Metadata) -> tuple[list[Path], list[str]]:
    """Return the files that metadata.yaml lists, compressed or not, and the names of those that are not there."""
    found, missing = [], []
    for name in metadata.files:
        plain = name.removesuffix(ZSTD)
        candidates = [folder / name, folder / plain, folder / (plain + ZSTD)]
        there = next((path for path in candidates if path.is_file()), None)
        if there is None:
            missing.append(name)
        else:
            found.append(there)
    return found, missing


def open_file(path: Path, scratch: Path) -> Container:
    """Open one storage file; `scratch` is a folder for what has to be decompressed or copied.

    Raises:
        Damage: nothing of it can be read.
        OSError, BagError: it can't be opened, or there is no room for what is decompressed: no fault of the file's.
    """
    plain, wrong = path, ""
    if path.name.endswith(ZSTD):
        plain = scratch / path.name.removesuffix(ZSTD)
        wrong = inflate_file(path, plain)
    try:
        opened: Container = McapFile(plain) if plain.suffix == ".mcap" else SqliteFile(plain, scratch)
    except Damage as error:
        raise Damage(f"{wrong}; {error}" if wrong else str(error)) from None
    opened.path = path
    if wrong:
        opened.damage.insert(0, wrong)
    return opened


def _order(path: Path) -> tuple[str, int, str]:
    match = _STORAGE.fullmatch(path.name)
    return (match["bag"], int(match["split"] or 0), path.name) if match else (path.name, 0, "")
