# SPDX-License-Identifier: Apache-2.0
"""How the benchmarks evaluate their measurements. Measuring itself is not tested; it needs a quiet machine."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import os
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_ros.imaging import images
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks.nudge_lit import show_cue
from vla_ros.train.recipes import load_config

MS = 1_000_000
SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.fixture
def benchmark(monkeypatch):
    """Import a script of benchmarks/ by name."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    return importlib.import_module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_imports_of_a_benchmark_exist(path):
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for statement in imported:
        if (statement.module or "").startswith("vla_ros"):
            module = importlib.import_module(statement.module)
            for name in statement.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{statement.module}.{name.name}")


def test_the_path_leaves_out_waiting_for_ticks_and_the_model(benchmark):
    latency = benchmark("latency")
    # At 50 Hz, the tick at 20 s: its image took 4 ms, the step began 3 ms after it was due (10 ms) and took 5 ms.
    tick_ns, warm_up_ns = 20_000 * MS, 19_000 * MS
    steps = [[tick_ns, [[19_990 * MS, 19_994 * MS]], 20_013 * MS, 20_018 * MS]]
    # The plan takes 2 ms, moves the arm from the next tick on (20.02 s), and its twist is sent 1 ms after that.
    found = latency.answers_ms(steps, [[tick_ns, 20_020 * MS, 20_020 * MS, 20_021 * MS]], warm_up_ns)
    assert found["path"] == pytest.approx([4 + 3 + 2 + 1]) and found["whole"] == pytest.approx([31])
    assert [found[part] for part in latency.PARTS] == [pytest.approx([ms]) for ms in (4, 3, 2, 1)]
    # A plan that comes in a tick for which the guard is late moves the arm at once; a tick that is skipped is latency.
    found = latency.answers_ms(steps, [[tick_ns, 20_022 * MS, 20_023 * MS, 20_024 * MS]], warm_up_ns)
    assert found["twist"] == pytest.approx([2])
    found = latency.answers_ms(steps, [[tick_ns, 20_022 * MS, 20_060 * MS, 20_061 * MS]], warm_up_ns)
    assert found["twist"] == pytest.approx([21])
    # The warm-up does not count, nor what was not planned by this policy.
    executed = [[tick_ns, 1, 2, 3], [tick_ns + MS, 20_020 * MS, 20_020 * MS, 20_021 * MS]]
    assert not any(latency.answers_ms(steps, executed, warm_up_ns).values())


def test_latency_percentiles_are_medians_over_the_runs(benchmark):
    latency = benchmark("latency")
    figures = ("relay", *latency.RELAYED, *latency.PARTS, "path", "whole", "jitter", "missed", "ticks")
    names = ("timer", *(f"{policy}: {figure}" for policy in latency.POLICIES for figure in figures))
    results = {name: [[1.0], [2.0], [9.0]] for name in names}
    results["checkpoint: path"] = [[3.0], [6.0], [27.0]]
    rows = {row[0]: row[1:] for row in latency.table(results)}
    assert rows["camera stamp to twist: two bare relays"] == ("2.00 ms", "2.00 ms")
    assert rows["the same, added over the relays: checkpoint"] == ("4.00 ms", "4.00 ms")
    assert rows["the same, times the relays: checkpoint"] == ("3.00", "3.00")
    assert rows["guard's ticks missed: checkpoint"][0] == "12 of 12"
    assert latency.parts(results)["no cost"]["twist"] == [2.0, 2.0]


def test_the_relays_tell_how_long_each_hop_took(benchmark):
    latency = benchmark("latency")
    heard = latency.Heard([20_005 * MS], [f"{20_000 * MS} {20_002 * MS}"])
    assert latency.hops_ms(heard) == {"relay": [5.0], "relay: image": [2.0], "relay: plan": [3.0]}


def test_soak_reports_growth_and_spurious_stops(benchmark):
    soak = benchmark("soak")
    before, after = soak.Look(100.0, 50.0, 8, 4, 10, 2), soak.Look(101.5, 50.0, 8, 5, 9, 2)
    compared = {"policy_node": soak.compare([before] * soak.LOOKS + [after] * soak.LOOKS)}
    assert soak.wrong(compared, Counter({"no_command": 3, "stale": 1})) == [
        "stopped for stale: 1 times",
        "policy_node: memory_mb has grown from 100 to 101.5",
        "policy_node: sockets has grown from 4 to 5",
    ]
    little = soak.Look(100.9, 50.4, 8, 4, 10, 2)
    assert soak.wrong({"policy_node": soak.compare([before] * 5 + [little] * 5)}, Counter()) == []


def test_soak_reports_when_a_spurious_stop_happened(benchmark):
    soak = benchmark("soak")
    before, now = Counter(no_command=3, stale=1), Counter(no_command=9, stale=3)
    (event,) = soak.unexpected(now, before, passed_s=90.0)
    assert event.startswith("stale, 2 times, in the rollout before 1.5 min; load per core ")
    assert soak.unexpected(now, now, passed_s=91.0) == []


def test_soak_reads_the_stops_from_the_state_of_the_guard(benchmark):
    soak = benchmark("soak")
    assert soak.stops_of({"stops": "no_command 12, stale 1"}) == Counter(no_command=12, stale=1)
    assert soak.stops_of({"stops": ""}) == soak.stops_of({}) == Counter()


def test_soak_notes_the_longest_pause_between_heartbeats(benchmark, monkeypatch):
    soak, now_s = benchmark("soak"), iter([1.0, 1.05, 1.25, 1.3])
    monkeypatch.setattr(soak.time, "monotonic", lambda: next(now_s))
    beats = soak.Heartbeats()
    for _ in range(4):
        beats.hear(None)
    assert (beats.count, beats.longest_pause_s) == (4, pytest.approx(0.2))


def test_smoothness_takes_what_an_arm_that_holds_its_twists_is_commanded(benchmark):
    smoothness = benchmark("smoothness")
    speeds = np.zeros((3, 6))
    speeds[:, 0] = [0.1, 0.2, 0.2]
    late_ns = [0, 3 * MS, 1 * MS]  # a guard's jitter changes nothing
    stepped = smoothness.accelerations([1000 * MS + 100 * MS * n + late for n, late in enumerate(late_ns)], speeds)
    assert stepped[:, 0].nonzero()[0].tolist() == [0, 10, 40]  # the last twist is held for 0.2 s
    assert stepped[[0, 10, 40], 0] == pytest.approx([10.0, 10.0, -20.0])
    ramp = np.zeros((11, 6))
    ramp[:, 0] = np.linspace(0.0, 0.1, 11)
    smooth = smoothness.accelerations([1000 * MS + 10 * MS * n for n in range(11)], ramp)
    assert smooth[1:11, 0] == pytest.approx(1.0)
    assert smoothness.accelerations([], np.empty((0, 6))).shape == (0, 6)


def test_smoothness_compares_the_norms_of_all_rollouts(benchmark):
    smoothness = benchmark("smoothness")
    pulse, rest = np.tile([3.0, 4.0, 0.0, 0.0, 0.0, 2.0], (4, 1)), np.zeros((12, 6))
    driven = smoothness.Driven([pulse, rest], [True, False], [2.0, 15.0])
    assert driven.rms() == pytest.approx((2.5, 1.0))
    assert driven.row("stepped") == ("10 Hz, stepped", "2.500", "1.000", "1/2", "2.00")


def test_guard_stops_hold_if_presses_do_at_p99_and_every_kill(benchmark):
    guard_stops = benchmark("guard_stops")
    pressed = {"the planner runs": [1.0] * 100, "the planner was killed": [0.0] * 99 + [25.0]}
    killed = {"the shipped robot": [(180.0, 60.0), (219.0, 100.0)]}
    rows = guard_stops.table(pressed, killed)
    assert rows[0] == ("press to zero", "200", "1.0", "1.0", "25.0", "20", "199") and len(rows) == 5
    assert guard_stops.holds(rows)
    for late in ((221.0, 60.0), (180.0, 140.0)):
        assert not guard_stops.holds(guard_stops.table(pressed, {"the shipped robot": [(180.0, 60.0), late]}))
    assert not guard_stops.holds(guard_stops.table({"the planner runs": [30.0]}, killed))


def test_a_sample_counts_threads_files_and_sockets_of_a_process(benchmark, tmp_path):
    import socket

    soak = benchmark("soak")
    before = soak.look(os.getpid())
    with (tmp_path / "file").open("w"), socket.socket():
        after = soak.look(os.getpid())
    assert (after.files - before.files, after.sockets - before.sockets) == (1, 1)
    assert after.threads >= 1 and after.memory_mb > 1


def test_libero_reports_become_one_row_per_task(benchmark):
    scripts = benchmark("libero_tasks")
    report = {
        "settings": {"suite": "libero_goal", "checkpoint": "runs/a b", "rollouts": 4, "max_time": 15.0},
        "tasks": {"turn_on_the_stove": {"successes": 3, "rollouts": 4, "interval": [0.301, 0.954]}},
    }
    assert scripts.rows(report) == [("libero_goal", "turn_on_the_stove", "3/4", "30% to 95%")]
    assert scripts.command(report).startswith("vla evaluate 'a b' --env libero --suite libero_goal --rollouts 4")


def test_success_against_delay_is_relative_to_each_checkpoint_without_delay(benchmark, tmp_path):
    evaluations = benchmark("evaluations")

    def report(checkpoint, *successes):
        conditions = [
            {"executor": "full_chunk", "delay_ms": delay, "delay_ticks": 1 + delay // 100,
             "busy_ticks": delay // 100 or 1, "successes": good, "rollouts": 20, "success_rate": good / 20,
             "interval": (good / 20 - 0.01, good / 20 + 0.01)}
            for delay, good in zip((0, 200), successes, strict=True)
        ]  # fmt: skip
        settings = {"checkpoint": checkpoint, "tasks": ["push_left"], "rollouts": 20, "delays": [0.0, 200.0],
                    "executors": ["full_chunk"]}  # fmt: skip
        return {"settings": settings, "conditions": conditions}

    evaluations.delays([report("a", 20, 10), report("b", 10, 9)], tmp_path / "delays.json")
    table = json.loads((tmp_path / "delays.json").read_text())
    assert [(row[0], row[2], row[5], row[-1]) for row in table["rows"]] == [
        ("a", "0", "20/20", "100%"), ("a", "200", "10/20", "50%"),
        ("b", "0", "10/20", "100%"), ("b", "200", "9/20", "90%"),
    ]  # fmt: skip
    assert table["runs"] == 20 and "vla evaluate b --tasks push_left --rollouts 20 --delays 0 200" in table["command"]
    evaluations.plot(table, tmp_path / "plots" / "delays.png")
    assert (tmp_path / "plots" / "delays.png").stat().st_size > 5000


def test_ablations_pool_the_seeds_and_keep_finished_cells(benchmark, tmp_path):
    ablations = benchmark("ablations")
    arguments = argparse.Namespace(json=tmp_path / "ablations.json", rollouts=20)
    first = ablations.VARIANTS[0]
    cells = {ablations.cell(first, seed): {"successes": 9 + seed, "held_out": 0.1} for seed in (0, 2)}
    ablations.write(arguments, {"steps": 5}, cells)
    [row] = json.loads(arguments.json.read_text())["rows"]  # no rows for variants that were not run
    assert row == [first.group, first.name, "50% (35% to 65%)", "9/20, 11/20", "-", "0.1000"]
    assert ablations.finished(arguments.json, {"steps": 5}) == cells
    with pytest.raises(SystemExit, match="pass another --json"):
        ablations.finished(arguments.json, {"steps": 6})


def test_variants_that_differ_only_in_the_executor_share_a_training(benchmark, tmp_path, monkeypatch):
    ablations, trained = benchmark("ablations"), []

    def train(policy, seen, seed, **_):
        trained.append((policy, seed))
        return 0.25

    monkeypatch.setattr(ablations.frozen_encoders, "untrained", lambda *_, **chosen: tuple(chosen.values()))
    monkeypatch.setattr(ablations.frozen_encoders, "train", train)
    monkeypatch.setattr(ablations, "save_checkpoint", lambda folder, _: folder.mkdir())
    arguments = argparse.Namespace(runs=tmp_path)
    usual = [variant for variant in ablations.VARIANTS if variant.group == "usual"]
    seen = argparse.Namespace(episodes=())
    folders = {variant.name: ablations.train(arguments, variant, 1, None, seen) for variant in usual}
    assert len(trained) == len({variant.trained for variant in usual}) < len(usual)
    assert {error for _, error in folders.values()} == {0.25}
    assert len({folder for folder, _ in folders.values()}) == len(trained)


def test_training_with_frozen_encoders_trains_the_saved_policy(benchmark):
    """Training on cached features equals running on images, and leaves the encoders unchanged."""
    frozen_encoders, train_step = benchmark("frozen_encoders"), benchmark("train_step")
    encoders = load_checkpoint(frozen_encoders.SHIPPED)
    config = load_config(frozen_encoders.RECIPE)
    made = [train_step.make_episode(config, index, frames=10) for index in range(4)]
    episodes = [dataclasses.replace(episode, task="pick_up_red") for episode in made]
    seen = frozen_encoders.Encoded(episodes, frozen_encoders.encode_frames(encoders, episodes))
    numbers = [
        frozen_encoders.frame_numbers(torch.from_numpy(e.images["static"])[None])
        for e in frozen_encoders.numbered(episodes)
    ]
    assert torch.cat(numbers, dim=1)[0].tolist() == list(range(40))

    policy = frozen_encoders.untrained(encoders, episodes, head="lstm", history=3, chunk=4, proprioception=True)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    forward = frozen_encoders.ForwardPredictionConfig(steps_ahead=2, width=16, layers=1)
    assert frozen_encoders.train(policy, seen, 0, steps=2, frames=12, forward=forward) > 0
    changed = {
        name.split(".")[1] for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"fuse", "proprioception", "lstm", "mlp"}
    text = policy.encode_text(*policy.tokenize([frozen_encoders.command("pick_up_red")]))
    pictures = {
        c.name: images.to_network(torch.from_numpy(episodes[1].images[c.name]), c) for c in policy.contract.cameras
    }
    felt = torch.from_numpy(episodes[1].proprioception)
    shown = policy.encode(pictures, felt, text.expand(10, -1))
    views = {name: frozen_encoders.PassThrough()(features[10:20], text) for name, features in seen.features.items()}
    policy.backbone.cameras = torch.nn.ModuleDict({name: frozen_encoders.PassThrough() for name in views})
    torch.testing.assert_close(policy.encode(views, felt, text.expand(10, -1)), shown, atol=1e-5, rtol=1e-4)


@pytest.fixture
def chains_of_calvin(benchmark, monkeypatch):
    """Return benchmarks/calvin_chains.py with a fake CALVIN, in which one of two subtasks succeeds, and its script."""
    import fake_calvin

    script = types.ModuleType("calvin_agent.evaluation.evaluate_policy")
    script.EP_LEN = 360

    def evaluate_sequence(env, model, oracle, condition, subtasks, texts, plans, debug):
        env.reset()
        for length, subtask in enumerate(subtasks):
            model.reset()
            seen, before = env.get_obs(), env.get_info()
            for _ in range(script.EP_LEN):
                seen, _, _, now = env.step(model.step(seen, texts[subtask][0]))
                if oracle.get_task_info_for_set(before, now, {subtask}):
                    break
            else:
                return length
        return len(subtasks)

    script.evaluate_sequence = evaluate_sequence
    monkeypatch.setitem(sys.modules, "calvin_agent", types.ModuleType("calvin_agent"))
    monkeypatch.setitem(sys.modules, "calvin_agent.evaluation", types.ModuleType("calvin_agent.evaluation"))
    monkeypatch.setitem(sys.modules, "calvin_agent.evaluation.evaluate_policy", script)
    module, motions = benchmark("calvin_chains"), benchmark("calvin_motions")
    up = np.array([0.0, 0.0, 0.2])
    monkeypatch.setattr(
        motions, "waypoints", lambda task, scene, tool: [(tool + up, 0.0)] if task.startswith("lift") else []
    )
    return module, fake_calvin.make()[0]


def test_the_same_actions_get_the_same_verdicts_and_steps(chains_of_calvin):
    module, installed = chains_of_calvin
    chains = module.calvin.draw_chains(installed, 2)
    ours = module.run_ours(installed, Path("split"), chains)
    theirs = module.run_theirs(installed, Path("split"), chains, [actions for _, actions in ours])
    assert [[attempt.success for attempt in result.attempts] for result, _ in ours] == [[True, False]] * 2
    assert [result.attempts for result, _ in ours] == theirs


def test_an_adapter_that_stops_too_early_gets_a_different_verdict(chains_of_calvin):
    module, installed = chains_of_calvin
    (chain,) = module.calvin.draw_chains(installed, 1)
    ((result, actions),) = module.run_ours(installed, Path("split"), [chain])
    (theirs,) = module.run_theirs(installed, Path("split"), [chain], [[actions[0][:2], *actions[1:]]])
    assert result.attempts[0].success and not theirs[0].success


def test_a_recorded_episode_passes_the_adapter_unchanged(chains_of_calvin):
    module, installed = chains_of_calvin
    ((_, condition),) = module.calvin.draw_chains(installed, 1)
    actions, states = module.episode(installed, Path("split"), condition)
    env = installed.environment(Path("split"))
    adapted = module.through_adapter(installed, env, condition, actions, states)
    assert np.abs(states[-1, :6] - states[0, :6]).max() > 0.05
    assert module.apart(states, adapted) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_the_scene_state_shows_the_lit_block_only_while_it_glows(benchmark):
    scene_state = benchmark("scene_state")
    env = TabletopEnv(render=False)
    said = {}
    for color in ("red", "blue"):
        env.reset(seed=1, options={"task": "nudge_lit"})
        show_cue(env.sim, color)
        said[color] = [scene_state.features(env.state())]
        for _ in range(10):
            env.step(np.array([0, 0, 0.3, 0, 0, 0, 0.0]))
            said[color].append(scene_state.features(env.state()))
    assert not np.array_equal(said["red"][0], said["blue"][0])
    assert all(np.array_equal(red, blue) for red, blue in zip(said["red"][3:], said["blue"][3:], strict=True))


def test_a_policy_on_the_scene_state_runs_without_images(benchmark):
    frozen_encoders, scene_state = benchmark("frozen_encoders"), benchmark("scene_state")
    encoders = load_checkpoint(frozen_encoders.SHIPPED)
    seen = scene_state.demonstrations("nudge_lit", 3, encoders.contract.observation_spec)
    assert [episode.outcome for episode in seen.episodes] == ["success"] * 3
    assert len(seen.features[scene_state.CAMERA]) == sum(map(len, seen.episodes))
    policy = frozen_encoders.untrained(encoders, seen.episodes, head="lstm", history=4, chunk=3, proprioception=True)
    scene_state.use_scene_state(policy, seen.features[scene_state.CAMERA].shape[1])
    assert frozen_encoders.train(policy, seen, 0, steps=2, frames=16) > 0
    done, _ = scene_state.roll_out(TabletopEnv(render=False), policy, "nudge_lit", 0, max_time_s=0.5)
    assert done is False
