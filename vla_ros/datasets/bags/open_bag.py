# SPDX-License-Identifier: Apache-2.0
"""Find and open bags, whoever wrote them and however their recording ended.

A bag is a folder made by `ros2 bag record` (MCAP or sqlite3, compressed or not, split or not), with or without its
metadata.yaml, or a single storage file. A file that can't be opened is left out and described by `Recording.damage`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.storage.container import Damage, StorageFile, inflate_file
from vla_ros.datasets.bags.storage.mcap import McapFile
from vla_ros.datasets.bags.storage.sqlite import SqliteFile
from vla_ros.datasets.bags.storage_order import check_order
from vla_ros.datasets.errors import BagError, unreadable
from vla_ros.files import PARTIAL

logger = logging.getLogger(__name__)

METADATA = "metadata.yaml"
_ZSTD = ".zstd"
_ROS1 = ".bag"
_STORAGE = re.compile(r"(?P<bag>.+?)(_(?P<split>\d+))?(?P<kind>\.mcap|\.db3)(\.zstd)?")
# libyaml, if PyYAML was built with it, is just as safe and ten times as fast; short bags are mostly metadata.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """Return the paths of the bags at `paths`: each is a bag, a storage file, or a folder of these at any depth.

    A bag's folder has a metadata.yaml, or only the storage files of one recording whose recorder was killed: rosbag2
    names them after the folder, FOLDER_0.mcap. Other loose .mcap and .db3 files are a bag each.

    Raises:
        BagError: A path does not exist, or contains no bag.
    """
    bags: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise BagError(f"bag {path} does not exist")
        found = _bags_below(path, frozenset())
        if not found:
            raise _no_bag(path)
        bags += found
    # Each bag once; a storage file belongs to its bag's folder if that is listed, too.
    resolved = {bag.resolve(): bag for bag in bags}
    return [bag for path, bag in resolved.items() if path.parent not in resolved]


def _bags_below(path: Path, above: frozenset[Path]) -> list[Path]:
    """Return the bags at a path and in the folders in it; `above` are the folders that lead there, against links."""
    found = _bags_at(path)
    if not path.is_dir() or found == [path] or path.resolve() in above:
        return found
    if path.name.endswith(PARTIAL):
        if not found:
            logger.warning("skipping %s: an unfinished recording without any message", path)
        return found
    for child in sorted(path.iterdir()):
        if child.is_dir():
            found += _bags_below(child, above | {path.resolve()})
        elif child.suffix == _ROS1:
            logger.warning("skipping %s", _ros1(child))
    return found


def _no_bag(path: Path) -> BagError:
    """Return the error for a path at which there is no bag."""
    ros1 = [path] if path.suffix == _ROS1 else sorted(path.rglob(f"*{_ROS1}")) if path.is_dir() else []
    if ros1:
        return BagError(_ros1(ros1[0]))
    return BagError(
        f"{path} is not a bag and contains none: a bag is a folder made by `ros2 bag record`, or an .mcap or .db3 file"
    )


def _ros1(path: Path) -> str:
    target = path.with_suffix("")
    return f"{path}: a bag of ROS 1; convert it with `rosbags-convert --src {path} --dst {target}` and use {target}"


def _bags_at(path: Path) -> list[Path]:
    """Return the bag that `path` is, or those whose files lie loosely in it."""
    if path.is_file():
        return [path] if _STORAGE.fullmatch(path.name) else []
    if path.name.endswith(PARTIAL):
        inner = path / path.name.removesuffix(PARTIAL)
        return _bags_at(inner) if inner.is_dir() else []
    if (path / METADATA).is_file():
        return [path]
    files = _storage_files(path)
    recordings = {match["bag"] for file in files if (match := _STORAGE.fullmatch(file.name))}
    return [path] if len(files) == 1 or recordings == {path.name} else files


@contextlib.contextmanager
def open_bag(path: str | Path) -> Iterator[Recording]:
    """Open a bag; what is cut off or damaged is read as far as possible, and `Recording.damage` says what is lost.

    Raises:
        BagError: It does not exist, is empty or entirely unreadable, or has two runs over each other; or the disk or
            its permissions prevent reading.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            files, metadata, damage = _open_files(path, stack)
        except OSError as error:
            raise unreadable(path, error) from None
        metadata = metadata or _embedded_metadata(files)
        count = sum(len(file.index) for file in files)
        if count == 0:
            lost = f" ({'; '.join(damage)})" if damage else "; were the publishers running?"
            raise BagError(f"bag {path} is empty: no message was recorded, or none reached the disk{lost}")
        check_order(path, files)
        if metadata is not None and (metadata.messages or 0) > count:
            damage.append(f"{METADATA} counts {metadata.messages} messages, but only {count} exist")
        yield Recording(path, files, metadata.custom_data if metadata else {}, damage)


@dataclasses.dataclass(frozen=True)
class _Metadata:
    """What metadata.yaml adds to the storage files; `messages` is None if unknown."""

    files: tuple[str, ...] = ()
    messages: int | None = None
    custom_data: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _open_files(path: Path, stack: contextlib.ExitStack) -> tuple[list[StorageFile], _Metadata | None, list[str]]:
    """Open a bag's storage files until `stack` ends; return them, its metadata, and the damage."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vla_bag_")))
    paths, metadata, damage = _contents(path)
    files: list[StorageFile] = []
    for number, file_path in enumerate(paths):
        (scratch / str(number)).mkdir()
        try:
            file = _open_file(file_path, scratch / str(number))
        except Damage as error:
            damage.append(f"{file_path.name}: {error}")
            continue
        stack.callback(file.close)
        files.append(file)
        damage += [f"{file_path.name}: {text}" for text in file.damage]
    return files, metadata, damage


def _open_file(path: Path, scratch: Path) -> StorageFile:
    """Open one storage file; `scratch` is a folder for decompressed files and copies.

    Raises:
        Damage: Nothing in it can be read.
        OSError, BagError: It can't be opened or decompressed, for reasons other than its contents.
    """
    plain, problem = path, ""
    if path.name.endswith(_ZSTD):
        plain = scratch / path.name.removesuffix(_ZSTD)
        problem = inflate_file(path, plain)
    try:
        opened: StorageFile = McapFile(plain) if plain.suffix == ".mcap" else SqliteFile(plain, scratch)
    except Damage as error:
        raise Damage(f"{problem}; {error}" if problem else str(error)) from None
    opened.path = path
    if problem:
        opened.damage.insert(0, problem)
    return opened


def _contents(path: Path) -> tuple[list[Path], _Metadata | None, list[str]]:
    """Return a bag's storage files, its metadata if it has any, and the damage so far."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.suffix == _ROS1:
        raise _no_bag(path)
    if path.is_file():
        return [path], None, []
    inner = path / path.name.removesuffix(PARTIAL)  # left by our recorder if it was killed
    if path.name.endswith(PARTIAL) and inner.is_dir():
        path = inner
    damage: list[str] = []
    metadata = None
    if (path / METADATA).is_file():
        try:
            metadata = _parse_metadata((path / METADATA).read_text(errors="replace"))
        except Damage as error:
            damage.append(f"{METADATA} is damaged ({error}); reading the storage files without it")
    else:
        damage.append(f"it has no {METADATA}: its recorder was killed or is still running; reading what is on the disk")
    files, missing = _storage_files(path), list[str]()
    if metadata is not None and metadata.files:
        files = []
        for name in metadata.files:  # compressed or not
            plain = name.removesuffix(_ZSTD)
            existing = [one for one in (name, plain, plain + _ZSTD) if (path / one).is_file()]
            if existing:
                files.append(path / existing[0])
            else:
                missing.append(name)
    damage += [f"{name}, listed in {METADATA}, is missing" for name in missing]
    if not files:
        listed = f"; {METADATA} lists {', '.join(missing)}. If the files were renamed, delete {METADATA}"
        raise BagError(f"{path} is not a bag: it contains no .mcap or .db3 file{listed if missing else ''}")
    return files, metadata, damage


def _storage_files(folder: Path) -> list[Path]:
    """Return a folder's storage files in their order; of a file both plain and compressed, only the plain one.

    A recorder that is killed while it compresses leaves an incomplete compressed file.
    """

    def order(path: Path) -> tuple[str, int, str]:
        match = _STORAGE.fullmatch(path.name)
        return (match["bag"], int(match["split"] or 0), path.name) if match else (path.name, 0, "")

    found = [path for path in folder.iterdir() if _STORAGE.fullmatch(path.name) and path.is_file()]
    names = {path.name for path in found}
    return sorted((path for path in found if path.name.removesuffix(_ZSTD) not in names - {path.name}), key=order)


def _parse_metadata(text: str) -> _Metadata:
    """Parse a metadata.yaml of any version from 1 to 9, or the part of it in a storage file. Raises Damage."""
    try:
        data = yaml.load(text, _SafeLoader)  # noqa: S506  # both are safe loaders
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Damage(f"it is not YAML ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from None
    if isinstance(data, dict):
        data = data.get("rosbag2_bagfile_information", data)  # storage files lack this key
    if not isinstance(data, dict):
        raise Damage("it is not rosbag2 metadata")
    files = data.get("relative_file_paths") or []
    custom = data.get("custom_data") or {}
    messages = data.get("message_count")
    if not isinstance(files, list) or not isinstance(custom, dict):
        raise Damage("relative_file_paths is not a list, or custom_data is not a table")
    return _Metadata(
        # Versions 1 to 3 put the bag's folder in front.
        files=tuple(Path(str(file)).name for file in files),
        messages=messages if isinstance(messages, int) else None,
        custom_data={str(key): str(value) for key, value in custom.items()},
    )


def _embedded_metadata(files: Sequence[StorageFile]) -> _Metadata | None:
    """Return metadata from within the storage files, where some recorders write it before anything else."""
    for file in files:
        if file.metadata:
            with contextlib.suppress(Damage):
                return dataclasses.replace(_parse_metadata(file.metadata), messages=None)
    return None
