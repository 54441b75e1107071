# SPDX-License-Identifier: Apache-2.0
"""What is decoded is decoded anew when the code that decodes does something else, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import vla_ros
from vla_ros.datasets.sources import FORMATS
from vla_ros.datasets.store.entry import code_digest


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's code."""
    skipped = shutil.ignore_patterns("train", "__pycache__", "nodes", "runtime", "sim")
    return shutil.copytree(Path(vla_ros.__file__).parent, tmp_path_factory.mktemp("copy") / "vla_ros", ignore=skipped)


@pytest.fixture(scope="module")
def same(package: Path) -> str:
    return code_digest(package)


def changed(package: Path, module: str, before: str, after: str) -> str:
    """The digest with one piece of a module's text replaced; then it is put back."""
    file = package / module
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    try:
        return code_digest(package)
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("imaging/images.py", '"""The one image path', '"""An image path'),
        ("imaging/images.py", "    return data.tobytes()", "    # words\n\n    return ( data.tobytes( ) )"),
        ("datasets/bags/episodes/cutting.py", "# An episode needs", "# Whatever needs"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(
    package: Path, same: str, module: str, before: str, after: str
) -> None:
    assert changed(package, module, before, after) == same


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("imaging/images.py", "cv2.IMREAD_COLOR", "cv2.IMREAD_UNCHANGED"),
        ("observations/observation.py", "KEPT_SAMPLES = 2000", "KEPT_SAMPLES = 2001"),
        ("datasets/bags/episodes/cutting.py", "MIN_FRAMES = 2", "MIN_FRAMES = 3"),
        ("datasets/bags/episodes/labelling.py", "return", "return 0 *"),
        ("datasets/bags/storage/mcap_chunks.py", "_KEPT_CHUNKS = 4", "_KEPT_CHUNKS = 5"),
        ("datasets/calvin/reader.py", "STEP_M, STEP_RAD = 0.02", "STEP_M, STEP_RAD = 0.03"),
        ("datasets/rlds/catalogue.py", "/ 0.08", "/ 0.09"),
    ],
)
def test_code_that_decodes_counts(package: Path, same: str, module: str, before: str, after: str) -> None:
    assert changed(package, module, before, after) != same


def test_code_that_only_inspects_does_not_count(package: Path, same: str) -> None:
    for module in ("commands/data/inspect.py", "commands/data/store.py", "datasets/inspection/metrics.py", "cli.py"):
        (package / module).write_text("raise SystemExit")
    assert code_digest(package) == same


def test_the_store_and_the_loading_of_sources_do_not_count(package: Path, same: str) -> None:
    for module in ("store/store.py", "store/entry.py"):
        assert changed(package, f"datasets/{module}", "return", "return 0 or") == same
    assert changed(package, "datasets/sources.py", "def summary", "def summary_text") == same


def test_the_readers_of_all_formats_count(package: Path, same: str) -> None:
    folders = {path.name for path in (package / "datasets").iterdir() if path.name in FORMATS}
    assert folders == set(FORMATS)
    for folder in folders:
        reader = "reader.py" if (package / "datasets" / folder / "reader.py").exists() else "source.py"
        assert changed(package, f"datasets/{folder}/{reader}", "return", "return 0 or") != same
