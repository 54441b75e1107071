# SPDX-License-Identifier: Apache-2.0
"""The table in which a person says where the episodes of bags are and what was done: annotations.csv beside the bags.

One row an episode; times are seconds from the bag's first message. It lies in the folder that holds the bags, or in the
bag's own folder, which goes first, and travels with them. A bag without a row is read as it was recorded.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path

from vla_ros.datasets.bags.episodes.segments import phrasings
from vla_ros.datasets.episode import OUTCOMES
from vla_ros.datasets.errors import BagError

TABLE = "annotations.csv"
COLUMNS = ("bag", "start", "end", "text", "keep", "outcome", "task")
_OPTIONAL = ("outcome", "task")
_KEEP = {"yes": True, "no": False}


@dataclasses.dataclass(frozen=True)
class Row:
    """One episode: `bag` is the name of its folder or file, `text` the command, or several phrasings with | between.

    where: the file and line, for messages.
    """

    bag: str
    start_s: float
    end_s: float
    text: str
    keep: bool
    outcome: str = "unknown"
    task: str = ""
    where: str = ""


def annotation_file(bag: Path) -> Path | None:
    """Return the table that is for `bag`, or None. Whoever keeps what was read from a bag has to look at it, too."""
    folders = [bag, bag.parent] if bag.is_dir() else [bag.parent]
    return next((folder / TABLE for folder in folders if (folder / TABLE).is_file()), None)


def annotations_of(bag: Path) -> list[Row] | None:
    """Return the rows of `bag` in the order of their times, None where no table has any.

    Raises:
        BagError: the table is malformed.
    """
    table = annotation_file(bag)
    if table is None:
        return None
    rows = [row for row in read_table(table) if row.bag == bag.name]
    return sorted(rows, key=lambda row: row.start_s) or None


def read_table(path: Path) -> list[Row]:
    """Read a table, as spreadsheet programs write it: commas or semicolons between, with or without a byte order mark.

    Raises:
        BagError: it can't be read; a column is unknown or missing; a value is not allowed; episodes of a bag overlap.
    """
    status = path.stat()
    return list(_read(path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int, size: int) -> tuple[Row, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f"{path} can't be read as UTF-8 text: {error}") from None
    first = text.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=";" if ";" in first else ",", strict=True))
    except csv.Error as error:
        raise BagError(f"{path} is no table of comma separated values: {error}") from None
    if not lines:
        raise BagError(f"{path} is empty; its first line must be {','.join(COLUMNS)}; `vla annotate` writes it")
    header = [name.strip().lower() for name in lines[0]]
    _check_header(path, header)
    rows = [
        _row(dict(zip(header, line)), f"{path}, line {number}", len(line), len(header))
        for number, line in enumerate(lines[1:], start=2)
        if any(map(str.strip, line))
    ]
    _check_overlaps(rows)
    return tuple(rows)


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write a table; it is either there as a whole or as it was before."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        keep = "yes" if row.keep else "no"
        writer.writerow([row.bag, f"{row.start_s:.3f}", f"{row.end_s:.3f}", row.text, keep, row.outcome, row.task])
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text.getvalue(), encoding="utf-8")
    os.replace(unfinished, path)


def _check_header(path: Path, header: list[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in header and name not in _OPTIONAL]
    if unknown or missing or len(set(header)) < len(header):
        required = ", ".join(name for name in COLUMNS if name not in _OPTIONAL)
        raise BagError(
            f"{path} has the columns {', '.join(header)}; required: {required}; allowed too: {', '.join(_OPTIONAL)}"
        )


def _row(values: dict[str, str], where: str, length: int, expected: int) -> Row:
    if length != expected:
        raise BagError(f"{where} has {length} values; expected {expected}; a text with commas in it needs quotes")
    values = {name: value.strip() for name, value in values.items()}
    start_s, end_s = _seconds(values["start"], f"{where}: start"), _seconds(values["end"], f"{where}: end")
    if not 0 <= start_s < end_s:
        raise BagError(f"{where}: start is {start_s:g}, end is {end_s:g}; allowed: 0 or more, and the end later")
    keep = _KEEP.get(values["keep"].lower())
    if keep is None:
        raise BagError(f"{where}: keep is {values['keep']!r}; allowed: yes, no")
    if keep and not phrasings(values["text"]):
        raise BagError(f"{where}: text is empty; write what was done, or keep: no")
    outcome = values.get("outcome") or "unknown"
    if keep and outcome not in OUTCOMES:
        raise BagError(f"{where}: outcome is {outcome!r}; allowed: {', '.join(OUTCOMES)}")
    return Row(values["bag"], start_s, end_s, values["text"], keep, outcome, values.get("task", ""), where)


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BagError(f"{where} is {text!r}; expected seconds from the bag's first message")
    return value


def _check_overlaps(rows: list[Row]) -> None:
    last: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.bag, row.start_s)):
        before = last.get(row.bag)
        if before is not None and row.start_s < before.end_s:
            raise BagError(f"{row.where}: the episode begins before that of {before.where} ends; shorten one of them")
        last[row.bag] = row
