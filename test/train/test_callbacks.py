# SPDX-License-Identifier: Apache-2.0
"""Callbacks of the training loop."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch

from vla_ros.train.callbacks import Throughput
from vla_ros.train.fit import fit


def test_throughput_counts_valid_frames_and_separates_waiting_from_training() -> None:
    """A step waits 1 s for its batch and trains 3 s; every second one is logged, and a validation of 100 s is not."""
    now_s, logged = [0.0], []
    logger = SimpleNamespace(log_metrics=lambda figures, step: logged.append((step, figures)))
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=2, loggers=[logger])
    callback = Throughput(clock=lambda: now_s[0])
    batch = {"valid": torch.tensor([[True, True, True], [True, False, False]])}
    callback.on_train_start(trainer, None)
    for _ in range(4):
        now_s[0] += 1.0
        callback.on_train_batch_start(trainer, None, batch, 0)
        now_s[0] += 3.0
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None, None, batch, 0)
        if trainer.global_step == 3:
            now_s[0] += 100.0
            callback.on_validation_end(trainer, None)
    expected = {"throughput/frames_per_s": 1.0, "throughput/steps_per_s": 0.25, "throughput/waiting_for_data": 0.25}
    assert [step for step, _ in logged] == [1, 3]
    assert all(figures == pytest.approx(expected) for _, figures in logged)


def test_a_run_logs_its_throughput(config, episodes) -> None:
    fit(config, episodes)
    with (config.run_folder / "metrics.csv").open() as file:
        speeds = [row["throughput/frames_per_s"] for row in csv.DictReader(file) if row["throughput/frames_per_s"]]
    assert speeds and all(float(speed) > 0 for speed in speeds)
