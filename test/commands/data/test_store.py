# SPDX-License-Identifier: Apache-2.0
"""`vla store` tells what is of use from what is not, and removes only the latter."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ros import cli
from vla_ros.commands.data.store import Entry, remove
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.store.entry import MARKER
from vla_ros.datasets.store.store import load_shards

KEY = "0123456789abcdef0123"  # as many digits as a name has


@pytest.fixture
def bags(demonstration, robot, spec, timing, tmp_path: Path) -> Path:
    """Two bags, decoded."""
    bag = demonstration.write(tmp_path / "bags" / "a")
    shutil.copytree(bag, tmp_path / "bags" / "b")
    load_shards(bag_shards([tmp_path / "bags"], robot, spec, timing), workers=1)
    return tmp_path / "bags"


def half_done(partial: Path) -> None:
    """What a run leaves that is killed while it decodes."""
    partial.mkdir()
    (partial / MARKER).touch()
    (partial / "actions").write_bytes(b"half")


def states(bags: Path, *arguments: str) -> dict[str, str]:
    file = bags.parent / "list.json"
    assert cli.main(["store", str(bags), "--json", str(file), *arguments]) == 0
    return {row["name"]: row["state"] for row in json.loads(file.read_text())}


def test_current_entries_are_listed_and_survive_cleaning(bags: Path, capsys) -> None:
    assert states(bags, "--clean") == {"a": "current", "b": "current"}
    assert "2 entries" in (printed := capsys.readouterr().out) and "removed 0 entries" in printed
    assert states(bags / "a") == states(bags / ".vla_store") == states(bags)


def test_stale_entries_are_removed(bags: Path, robot, spec, timing) -> None:
    episodes, *_ = load_shards(bag_shards([bags], robot, spec, timing), workers=1)
    kept = np.array(episodes[0].images["static"])
    shutil.rmtree(bags / "a")
    with (bags / "b" / "metadata.yaml").open("a") as file:
        file.write("\n")
    store = bags / ".vla_store"
    half_done(store / f"c-{KEY}.partial")
    (store / f"d-{KEY}.partial").mkdir()  # killed before anything was in it
    (store / f"e-{KEY}.lock").touch()
    assert states(bags, "--clean") == {
        "a": "its recording is gone",
        "b": "its recording was changed",
        f"c-{KEY}.partial": "left by a killed run",
        f"d-{KEY}.partial": "left by a killed run",
        f"e-{KEY}.lock": "left by a killed run",
    }
    assert not list(store.iterdir())
    np.testing.assert_array_equal(episodes[0].images["static"], kept)  # a run that has it open goes on


def test_a_touched_bag_is_current(bags: Path) -> None:
    (bags / "a" / "metadata.yaml").touch()
    assert states(bags)["a"] == "current"


def test_entries_of_other_code_are_stale(bags: Path, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.commands.data.store.reader_digest", lambda: "newer")
    assert states(bags) == {"a": "decoded by another version", "b": "decoded by another version"}


def test_an_entry_being_written_is_left_alone(bags: Path) -> None:
    store = bags / ".vla_store"
    half_done(store / f"c-{KEY}.partial")
    with (store / f"c-{KEY}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert states(bags, "--clean", "--all")[f"c-{KEY}.partial"] == "being written"
        assert sorted(path.name for path in store.iterdir()) == [f"c-{KEY}.lock", f"c-{KEY}.partial"]


def test_no_store_and_all_without_clean_are_errors(tmp_path: Path, bags: Path, capsys) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert cli.main(["store", str(tmp_path / "empty" / "inner")]) == 2
    assert "there is no store at" in capsys.readouterr().err
    assert cli.main(["store", str(bags), "--all"]) == 2
    assert "--all only goes with --clean" in capsys.readouterr().err


# What may lie in a folder that somebody names as a store (data.store=FOLDER), and never may be removed by it.
FOREIGN = ["photos", "photos.partial", f"image-{KEY}", f"image-{KEY}.partial", f"-{KEY}", f"b-{KEY}0", f"a-{KEY[:-1]}"]


@pytest.fixture
def shared(bags: Path) -> Path:
    """A store with folders and files of others in it, all with a manifest.json, some called as an entry is."""
    folder = bags / ".vla_store"
    for name in FOREIGN:
        (folder / name / "inner").mkdir(parents=True)
        (folder / name / "manifest.json").write_text('{"version": 1}')
    (folder / "poetry.lock").write_text("")
    (folder / f"other-{KEY}.lock").write_text("content")
    (folder / f"link-{KEY}").symlink_to(folder / "photos")
    return folder


def test_foreign_files_are_neither_listed_nor_removed(shared: Path, tmp_path: Path) -> None:
    before = sorted(path.relative_to(shared) for path in shared.rglob("*"))
    ours = {path.name for path in shared.iterdir() if (path / MARKER).exists()}
    assert states(shared.parent, "--clean", "--all") == {"a": "current", "b": "current"}
    left = sorted(path.relative_to(shared) for path in shared.rglob("*"))
    assert left == [path for path in before if path.parts[0] not in ours] and len(ours) == 2
    # Nor is a folder taken for a store because something in it has a manifest.json.
    assert cli.main(["store", str(shared.rename(tmp_path / "elsewhere")), "--clean", "--all"]) == 2


def test_foreign_files_are_never_removed(shared: Path) -> None:
    for name in [*FOREIGN, "poetry.lock", f"other-{KEY}.lock", f"link-{KEY}"]:
        with pytest.raises(StoreError, match="vla_ros did not make it"):
            remove(Entry(shared / name, name, "stale", 0, 0, 0))
        assert (shared / name).exists()


def test_an_entry_with_a_foreign_folder_in_it_is_kept(bags: Path) -> None:
    entry = next((bags / ".vla_store").glob("a-*"))
    (entry / "notes").mkdir()
    (entry / "notes" / "text").write_text("mine")
    with pytest.raises(StoreError, match="is not removed"):
        remove(Entry(entry, "a", "stale", 0, 0, 0))
    assert (entry / "notes" / "text").read_text() == "mine" and (entry / "manifest.json").is_file()
