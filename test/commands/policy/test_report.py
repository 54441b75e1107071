# SPDX-License-Identifier: Apache-2.0
"""The page on a run: complete and self-contained."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import headless_chromium
import pytest

from vla_ros import html
from vla_ros.commands.policy import report
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.replay.diagnosis import Diagnosis
from vla_ros.evaluation.replay.open_loop import example_actions, open_loop_errors
from vla_ros.evaluation.replay.open_loop import replay as replay_episode
from vla_ros.evaluation.reports.replay_page import replay_blocks
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.policy.inference import PolicyRunner
from vla_ros.train.initial_policy import new_policy
from vla_ros.train.run_record import write_data_summary


@pytest.fixture
def folder(config, episodes, tmp_path: Path) -> Path:
    """A run folder with curves, data, a checkpoint, an evaluation and a replay."""
    run = tmp_path / "my_run"
    policy = new_policy(config, episodes)
    save_checkpoint(run / "checkpoint", policy)
    (run / "metrics.csv").write_text("step,train/loss,val/loss\n1,0.5,\n2,0.4,0.6\n")
    write_data_summary(run, {"training": episodes[:4], "validation": episodes[4:], "rehearsed": []})
    (run / "evaluation").mkdir()
    count = {"successes": 3, "rollouts": 4, "success_rate": 0.75, "interval": (0.3, 0.95), "mean_time_s": 2.5}
    evaluation = {
        "tasks": {"open_drawer": count}, "total": count, "inference_ms": {"p50": 1.0, "p95": 2.0}, "wall_s": 3.0,
        "settings": {"checkpoint": "x"},
    }  # fmt: skip
    (run / "evaluation" / "report.json").write_text(json.dumps(evaluation))
    names = policy.contract.observation_spec.proprioception
    replayed = [replay_episode(PolicyRunner(policy), episodes[0], names)]
    figures = open_loop_errors(replayed) | {
        "bags": ["bags/mine"], "control_hz": 10.0, "declared": [{"name": "resolution", "detail": "too small"}],
        "diagnosis": Diagnosis((), 0.4, 0.4).to_dict(), "shown": example_actions(replayed),
    }  # fmt: skip
    (run / "replay.json").write_text(json.dumps(figures))
    return run


def _report(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.run(parser.parse_args(arguments))


def test_the_page_covers_the_run_and_fetches_nothing(folder: Path) -> None:
    assert _report(str(folder)) == 0
    text = (folder / "report.html").read_text()
    for wanted in (
        "my_run",
        "Training",
        "Demonstrations",
        "open_the_drawer",
        "compact, lstm",
        "3/4",
        "bags/mine",
        "too small",
    ):
        assert wanted in text, wanted
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) == 4  # curves, rates, errors by step, one episode
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|href|url\(|<script|@import", text)


def test_missing_parts_are_left_out(folder: Path, tmp_path: Path) -> None:
    for name in ("metrics.csv", "replay.json"):
        (folder / name).unlink()
    assert _report(str(folder), "--output", str(tmp_path / "other" / "page.html")) == 0
    text = (tmp_path / "other" / "page.html").read_text()
    assert "Demonstrations" in text and "losses over the steps" not in text and "Open loop" not in text


def test_a_folder_without_a_run_or_with_damage_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        _report(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"contains no metrics.csv"):
        _report(str(tmp_path / "empty"))
    (folder / "data.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"data.json is not JSON"):
        _report(str(folder))


in_chromium = pytest.mark.skipif(headless_chromium.CHROMIUM is None, reason="no Chromium: apt install chromium")


@in_chromium
@pytest.mark.slow
def test_a_browser_shows_every_image_without_network_requests(folder: Path, tmp_path) -> None:
    assert _report(str(folder)) == 0
    seen = headless_chromium.look_at(folder / "report.html", tmp_path)
    assert len(seen.widths) >= 4 and min(seen.widths) > 100  # curves, rates, and the plots of the replay
    assert seen.requests == []
    replayed = json.loads((folder / "replay.json").read_text())
    (tmp_path / "replay.html").write_text(html.page("Open loop", replay_blocks(replayed)))
    seen = headless_chromium.look_at(tmp_path / "replay.html", tmp_path)
    assert len(seen.widths) >= 2 and min(seen.widths) > 100 and seen.requests == []


@in_chromium
@pytest.mark.slow
def test_the_browser_test_would_detect_an_external_image(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text('<!doctype html><img src="http://pictures.invalid/one.png">')
    seen = headless_chromium.look_at(file, tmp_path)
    assert seen.widths == [0] and any("pictures.invalid/one.png" in request for request in seen.requests)
