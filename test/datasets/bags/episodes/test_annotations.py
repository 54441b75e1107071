# SPDX-License-Identifier: Apache-2.0
"""Where episodes are and what was done in them: by table, markers, language or custom data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from recordings import read_bag
from rosbags.rosbag2 import Writer

from vla_ros.cli import main
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.episodes.segmentation import TABLE, Annotation, annotation_file, read_table, write_table
from vla_ros.datasets.bags.open_bag import find_bags
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.errors import BagError
from vla_ros.datasets.sources import FORMATS, Source
from vla_ros.datasets.store.store import load_shards
from vla_ros.robot import Robot

if TYPE_CHECKING:
    from recordings import BagBuilder

HEADER = "bag,start,end,text,keep,outcome,task\n"


def table(path: Path, text: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / TABLE).write_text(text, encoding="utf-8")
    return path / TABLE


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_table_gives_episodes_and_their_phrasings(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path, place: str
) -> None:
    bag = demonstration.write(tmp_path / "bag")
    with_row = f"{HEADER}bag,0.039,0.95,open the drawer | pull it open,yes,success,drawer\nbag,1.0,1.5,no good,no,,\n"
    table(tmp_path if place == "beside" else bag, with_row)
    (episode,), report = read_bag(bag, robot, spec, timing)
    assert (episode.command, episode.task, episode.outcome) == ("open the drawer", "drawer", "success")
    assert episode.phrasings == ("open the drawer", "pull it open")
    assert len(episode) == 9  # from the bag's first message, 39 ms before the first tick
    assert dict(report.dropped) == {"episode discarded: no under keep in annotations.csv": 4}


def test_a_bag_without_a_row_is_read_as_it_was_recorded(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    demonstration.write(tmp_path / "one")
    demonstration.write(tmp_path / "two")
    table(tmp_path, f"{HEADER}two,0,9,say it so,yes,,\n")
    (one,), (two,) = (read_bag(tmp_path / name, robot, spec, timing)[0] for name in ("one", "two"))
    assert (one.command, one.task, one.phrasings) == ("pick up the red block", "pick_red", ())
    assert (two.command, two.outcome, two.phrasings) == ("say it so", "unknown", ("say it so",))


def test_failures_in_a_table_are_dropped_unless_requested(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    bag = demonstration.write(tmp_path / "bag")
    table(tmp_path, f"{HEADER}bag,0,9,say it so,yes,failure,\n")
    with pytest.raises(BagError, match="episode failure"):
        read_bag(bag, robot, spec, timing)
    assert read_bag(bag, robot, spec, timing, include_failures=True)[0][0].outcome == "failure"


def test_a_table_replaces_the_language_topic(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    bag = demonstration.without("episode").without("language_command").write(tmp_path / "bag")
    with pytest.raises(BagError, match=r"does not say what was done in it.*vla annotate"):
        read_bag(bag, robot, spec, timing)
    table(tmp_path, f"{HEADER}bag,0.039,1.039,open the drawer,yes,,\n")
    (episode,), _ = read_bag(bag, robot, spec, timing)
    assert (episode.command, len(episode)) == ("open the drawer", 10)


def with_custom_data(built: BagBuilder, folder: Path, task: str) -> Path:
    writer = Writer(folder, version=9)
    writer.set_custom_data("task", task)
    with writer:
        topics: dict = {}
        for time_ns, topic, kind, message in sorted(built.messages, key=lambda entry: entry[0]):
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(topics[topic], time_ns, typestore().serialize_cdr(message, kind))
    return folder


def test_one_bag_is_one_episode_of_the_task_in_its_custom_data(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    built = demonstration.without("episode").without("language_command")
    bag = with_custom_data(built, tmp_path / "bag", "open the drawer | pull it open")
    (episode,), _ = read_bag(bag, robot, spec, timing)
    assert (episode.command, episode.outcome) == ("open the drawer", "unknown")
    assert episode.phrasings == ("open the drawer", "pull it open")
    assert len(episode) == 20


def test_spoken_commands_take_precedence_over_custom_data(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    bag = with_custom_data(demonstration.without("episode"), tmp_path / "bag", "open the drawer")
    (episode,), _ = read_bag(bag, robot, spec, timing)
    assert episode.command == "pick up the red block"


def test_annotate_writes_what_bags_contain_and_keeps_existing_rows(
    demonstration: BagBuilder, bag: type[BagBuilder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstration.mark(2010, "start", 1).mark(2040, "discard", 1).write(tmp_path / "marked")
    bag().say(-9).say(500, "open the drawer").gripper(-8, 0.08).move(0, 1050).write(tmp_path / "spoken")
    bag().gripper(-8, 0.08).move(0, 1050).write(tmp_path / "mute")
    assert main(["annotate", str(tmp_path)]) == 0
    assert "0 rows kept, 5 added, 1 without a text" in capsys.readouterr().out
    rows = read_table(tmp_path / TABLE)
    assert [(row.bag, row.text, row.keep, row.outcome, row.task) for row in rows] == [
        ("marked", "pick up the red block", True, "success", "pick_red"),
        ("marked", "pick up the red block", False, "unknown", "pick_red"),
        ("mute", "", None, "unknown", ""),
        ("spoken", "pick up the red block", True, "unknown", ""),
        ("spoken", "open the drawer", True, "unknown", ""),
    ]
    assert (rows[0].start_s, rows[0].end_s) == pytest.approx((0.029, 2.0395), abs=1e-3)
    (tmp_path / TABLE).write_text((tmp_path / TABLE).read_text().replace("open the drawer", "open it"))
    demonstration.write(tmp_path / "new")
    assert main(["annotate", str(tmp_path / "new"), str(tmp_path)]) == 0
    again = read_table(tmp_path / TABLE)
    assert [row.text for row in again[:5]] == [*(row.text for row in rows[:4]), "open it"]
    assert {row.bag for row in again[5:]} == {"new"}


def test_reading_what_annotate_wrote_changes_nothing(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    path = demonstration.write(tmp_path / "bag")
    (before,), _ = read_bag(path, robot, spec, timing)
    main(["annotate", str(path)])
    (after,), _ = read_bag(path, robot, spec, timing)
    assert annotation_file(path) == tmp_path / TABLE
    assert after.phrasings == (before.command,)
    for name in ("command", "task", "outcome", "source", "start_ns"):
        assert getattr(after, name) == getattr(before, name)
    assert (after.actions == before.actions).all() and (after.images["static"] == before.images["static"]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; its first line must be"),
        ("bag,start,end,text\n", "it must have bag, start, end, text, keep"),
        ("bag,start,end,text,keep,colour\n", "may have outcome, task"),
        (HEADER + "bag,0,9,open it, then close it,yes,,\n", "line 2 has 8 values instead of 7.*quotes"),
        (HEADER + "bag,zero,9,open it,yes,,\n", "line 2: start must be seconds .*; got 'zero'"),
        (HEADER + "bag,nan,9,open it,yes,,\n", "line 2: start must be seconds .*; got 'nan'"),
        (HEADER + "bag,9,3,open it,yes,,\n", "line 2: start must be 0 or more, and end later; got 9 and 3"),
        (HEADER + "bag,0,9,open it,maybe,,\n", "line 2: keep must be yes or no, or empty .*; got 'maybe'"),
        (HEADER + "bag,0,9, | ,yes,,\n", "line 2: text is empty"),
        (
            HEADER + "bag,0,9,open it,yes,great,\n",
            "line 2: outcome must be one of success, failure, unknown; got 'great'",
        ),
        (HEADER + "bag,0,2,a,yes,,\nbag,1,3,b,yes,,\n", "line 3: the episode begins before that of .*line 2 ends"),
        (HEADER + "bag,99,100,a,yes,,\n", "line 2: start is 99 s, but bag .* lasts only 2.08 s"),
        (HEADER + 'bag,0,2,"a,yes,,\n', "is not a table of comma-separated values"),
    ],
)
def test_an_invalid_table_is_rejected_naming_the_line(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path, text: str, said: str
) -> None:
    bag = demonstration.write(tmp_path / "bag")
    table(tmp_path, text)
    with pytest.raises(BagError, match=said):
        read_bag(bag, robot, spec, timing)


def test_a_table_written_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = "\ufeffBag;Start;End;Text;Keep\r\none;0,5;2;öffne sie, langsam;YES\r\n;;;;\r\n"
    (tmp_path / TABLE).write_bytes(text.encode())
    (row,) = read_table(tmp_path / TABLE)
    assert (row.bag, row.start_s, row.end_s, row.text, row.keep) == ("one", 0.5, 2.0, "öffne sie, langsam", True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_is_read_in_the_encodings_of_spreadsheets(tmp_path: Path, encoding: str) -> None:
    text = "bag\tstart\tend\ttext\tkeep\r\none\t0,5\t2\töffne sie\t\r\n"
    (tmp_path / TABLE).write_bytes(text.encode(encoding))
    (row,) = read_table(tmp_path / TABLE)
    assert (row.start_s, row.text, row.keep) == (0.5, "öffne sie", True)


@pytest.mark.parametrize(("text", "keep"), [("open it", True), ("", None)])
def test_an_undecided_row_is_kept_once_it_has_a_text(tmp_path: Path, text: str, keep: bool | None) -> None:
    write_table(tmp_path / TABLE, [Annotation("bag", 0.0, 1.0, "", None)])
    written = (tmp_path / TABLE).read_text()
    (tmp_path / TABLE).write_text(written.replace("1.000,,", f"1.000,{text},"))
    assert read_table(tmp_path / TABLE)[0].keep is keep


def test_a_written_table_reads_back_unchanged(tmp_path: Path) -> None:
    rows = [
        Annotation("a, b", 0.5, 2.25, 'say "hello" | wave', True, "success", "hi"),
        Annotation("c", 0.0, 1.0, "", False),
    ]
    write_table(tmp_path / TABLE, rows)
    read = read_table(tmp_path / TABLE)
    assert [(r.bag, r.start_s, r.end_s, r.text, r.keep, r.outcome, r.task) for r in read] == [
        (r.bag, r.start_s, r.end_s, r.text, r.keep, r.outcome, r.task) for r in rows
    ]
    assert [path.name for path in tmp_path.iterdir()] == [TABLE]


def test_a_table_edited_while_bags_are_read_does_not_change_their_episodes(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    """What a store keeps is what its key says, whenever a process gets to decode it."""
    demonstration.write(tmp_path / "bag")
    table(tmp_path, f"{HEADER}bag,0,9,before,yes,,\n")
    parts = bag_shards([tmp_path], robot, spec, timing)
    table(tmp_path, f"{HEADER}bag,0,9,afterwards,yes,,\n")
    assert [episode.command for episode in load_shards(parts, workers=1).episodes] == ["before"]
    again = load_shards(bag_shards([tmp_path], robot, spec, timing), workers=1)
    assert [episode.command for episode in again.episodes] == ["afterwards"]


@pytest.mark.parametrize("where", [".", "..", "bag/..", "bag"])
def test_a_table_is_found_for_every_spelling_of_the_path(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path, monkeypatch, where
) -> None:
    bag = demonstration.write(tmp_path / "bags" / "bag")
    (bag / "inner").mkdir()
    table(tmp_path / "bags", f"{HEADER}bag,0,9,say it so,yes,,\n")
    monkeypatch.chdir({".": bag, "..": bag / "inner"}.get(where, bag.parent))
    (part,) = FORMATS["bags"](Source("bags", "bags", [where], robot), spec, timing)
    assert (part.name, part.root) == ("bag", tmp_path / "bags")
    (episode,) = load_shards([part], workers=1).episodes
    assert (episode.command, episode.source) == ("say it so", "bag#0")
    if where == ".":
        assert read_bag(where, robot, spec, timing)[0][0].command == "say it so"


def test_a_bag_and_one_of_its_files_are_one_bag(demonstration: BagBuilder, tmp_path: Path) -> None:
    bag = demonstration.write(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    assert find_bags([file, bag]) == find_bags([bag, file, tmp_path]) == [bag]
    assert find_bags([file]) == [file]
