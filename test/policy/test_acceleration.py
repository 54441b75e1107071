# SPDX-License-Identifier: Apache-2.0
"""Device, precision and compile: what is asked for by name is done or refused, and none of it changes the policy.

With an NVIDIA GPU: ``pytest -m gpu`` runs the rest.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import vla_ros
from vla_ros import actions, resources
from vla_ros.policy import acceleration
from vla_ros.policy.acceleration import AccelerationError, choose
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.policy import Policy
from vla_ros.policy.runner import PolicyRunner
from vla_ros.policy.staging import Return, Staging

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
# Of normalised arms, whose range is 2: what a lower precision of the backbone may change.
LARGEST, ON_AVERAGE = 0.03, 0.002


def chunks(runner: PolicyRunner, delays: bool = False) -> np.ndarray:
    """Normalised chunks of a stream longer than the history, with a gap, a new command and any number committed."""
    result = []
    runner.reset("pick up the red block")
    for index in range(9):
        if index == 5:
            runner.clear_history()
        if index == 7:
            runner.reset("open the drawer")
        committed = np.full((index % (runner.max_delay_steps + 1), 7), 0.1) if delays else None
        result.append(runner.step(runner._noise(100 + index), committed))
    space = runner.contract.action
    return actions.normalize(np.stack(result), space.low, space.high)


@pytest.mark.skipif(torch.cuda.is_available(), reason="an NVIDIA GPU is here")
def test_auto_on_a_cpu_is_operation_by_operation_in_fp32() -> None:
    assert choose() == acceleration.Acceleration(torch.device("cpu"), "fp32", "none", by_name=False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": "warp"}, r"parameter device is 'warp', not usable here .*; try auto"),
        ({"precision": "int4"}, r"precision is 'int4'; allowed: auto, fp32, bf16, fp16"),
        ({"compile": "yes"}, r"compile is 'yes'; allowed: auto, none, compile, cuda_graph"),
        ({"device": "cpu", "compile": "cuda_graph"}, r"'cuda_graph', but the device is cpu; .* take compile auto or"),
    ],
)
def test_what_can_not_be_had_is_refused_by_name_with_the_way_out(asked, message: str) -> None:
    with pytest.raises(AccelerationError, match=message):
        choose(**asked)


def test_a_missing_compiler_is_named_before_anything_is_compiled(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(AccelerationError, match=r"no 'no-such-compiler'; install g\+\+"):
        choose("cpu", "fp32", "compile")


@pytest.mark.parametrize("by_name", [True, False])
def test_a_step_that_can_not_be_launched_whole_is_refused_by_name_and_said_in_auto(
    by_name: bool, policy, monkeypatch, caplog
) -> None:
    def broken(step):
        def launch() -> None:
            raise RuntimeError("an operation is not permitted\nwhile capturing")

        return launch

    monkeypatch.setattr("vla_ros.policy.runner.compiled", broken)
    monkeypatch.setattr("vla_ros.policy.acceleration._require_compiler", lambda device: None)
    runner, plain = PolicyRunner(copy.deepcopy(policy), compile="compile"), PolicyRunner(policy)
    runner.acceleration = dataclasses.replace(runner.acceleration, by_name=by_name)
    if by_name:
        with pytest.raises(AccelerationError, match=r"'compile', which failed .* not permitted.*; take compile none"):
            runner.warm_up()
        return
    runner.warm_up()
    assert "operation by operation" in caplog.text and "is not permitted" in caplog.text
    assert runner.acceleration.compile == "none"
    np.testing.assert_allclose(chunks(runner), chunks(plain), atol=1e-5)


def test_kept_weights_give_what_autocast_gives_bit_for_bit(policy, monkeypatch) -> None:
    converted = chunks(PolicyRunner(copy.deepcopy(policy), precision="bf16"))
    monkeypatch.setattr(acceleration.Acceleration, "convert", lambda *_: None)
    cast = PolicyRunner(copy.deepcopy(policy), precision="bf16")
    assert {parameter.dtype for parameter in cast._policy.parameters()} == {torch.float32}
    np.testing.assert_array_equal(converted, chunks(cast))
    assert not np.array_equal(converted, chunks(PolicyRunner(policy)))


def test_heads_compute_in_fp32_whatever_the_precision(policy) -> None:
    seen = set()
    policy.head.lstm.register_forward_pre_hook(lambda _, given: seen.add(given[0].dtype))
    policy.head.mlp.register_forward_hook(lambda _, given, result: seen.add(result.dtype))
    chunks(PolicyRunner(policy, precision="bf16"))
    assert seen == {torch.float32}
    assert {parameter.dtype for parameter in policy.head.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_shipped_checkpoint_says_the_same_in_a_lower_precision(precision: str) -> None:
    folder = resources.path("config/checkpoints/tabletop")
    exact = chunks(PolicyRunner(load_checkpoint(folder)))
    difference = np.abs(chunks(PolicyRunner(load_checkpoint(folder), precision=precision)) - exact)
    assert 0 < difference[..., :6].max() < LARGEST
    assert difference[..., :6].mean() < ON_AVERAGE
    assert difference[..., 6].max() < LARGEST


@pytest.mark.parametrize("head", ["lstm", "gpt"])
def test_a_step_is_compiled_once_whatever_is_seen_and_committed(head: str, with_head, monkeypatch) -> None:
    """With the tracing and the guards of torch.compile, but not the minute that its C++ takes."""
    backend = "aot_eager"
    monkeypatch.setattr("vla_ros.policy.runner.compiled", lambda f: torch.compile(f, dynamic=False, backend=backend))
    monkeypatch.setattr("vla_ros.policy.acceleration._require_compiler", lambda device: None)
    assert_compiled_step_is_the_policy(with_head(head, 2))


@pytest.mark.nightly
@needs_compiler
def test_a_compiled_step_says_the_same(with_head) -> None:
    assert_compiled_step_is_the_policy(with_head("lstm", 2))


def assert_compiled_step_is_the_policy(told: Policy) -> None:
    runner = PolicyRunner(copy.deepcopy(told), "cpu", compile="compile")
    runner.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):
        launched = chunks(runner, delays=True)
    np.testing.assert_allclose(launched, chunks(PolicyRunner(told), delays=True), atol=1e-5)


def test_staging_holds_each_field_in_its_type_in_one_buffer() -> None:
    fields = {"a": ((3,), torch.uint8), "b": ((2, 2), torch.float32), "c": ((1,), torch.long)}
    staging = Staging(fields, torch.device("cpu"))
    staging.arrays["a"][:], staging.arrays["b"][:], staging.arrays["c"][:] = 7, [[0.5, 1], [2, -3]], 1 << 40
    staging.send()
    assert staging.tensors["a"].tolist() == [7, 7, 7]
    assert staging.tensors["b"].tolist() == [[0.5, 1.0], [2.0, -3.0]]
    assert staging.tensors["c"].tolist() == [1 << 40]


def test_a_chunk_that_was_returned_is_not_overwritten_by_the_next(policy) -> None:
    runner = PolicyRunner(policy)
    runner.reset("open the drawer")
    chunk = runner.step(runner._noise(0))
    kept = chunk.copy()
    assert not np.array_equal(runner.step(runner._noise(1)), kept)
    np.testing.assert_array_equal(chunk, kept)
    place = Return((2,), torch.device("cpu"))
    fetched = place.fetch()
    place.tensor += 1
    place.fetch()
    assert not fetched.any()


def test_what_the_control_thread_runs_does_not_even_import_torch() -> None:
    """So that no tick can wait for the device: control, timeline, governor, gripper and the engine's interface."""
    root = Path(vla_ros.__file__).parent
    files = [file for name in ("execution", "safety", "planning") for file in (root / "runtime" / name).glob("*.py")]
    modules = ", ".join(".".join(["vla_ros", *file.relative_to(root).with_suffix("").parts]) for file in files)
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", ["none", "compile", "cuda_graph"])
@pytest.mark.parametrize("head", ["lstm", "gpt"])
class TestGpu:
    pytestmark = needs_gpu

    def test_a_gpu_says_what_the_cpu_says(self, head, compile, precision, with_head) -> None:
        told = with_head(head, 2)
        expected = chunks(PolicyRunner(copy.deepcopy(told)), delays=True)
        found = []

        def run() -> None:  # as the engine: one thread, from the construction on
            runner = PolicyRunner(told, "cuda", precision, compile)
            runner.warm_up()
            assert runner.acceleration.compile == compile
            found.append(chunks(runner, delays=True))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert np.abs(found[0] - expected).max() < (2e-3 if precision == "fp32" else 5 * LARGEST)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_replayed_step_is_the_shipped_checkpoint_s_with_one_copy_each_way() -> None:
    folder = resources.path("config/checkpoints/tabletop")
    runner = PolicyRunner(load_checkpoint(folder), "cuda", "fp32", "cuda_graph")
    runner.warm_up()
    difference = np.abs(chunks(runner) - chunks(PolicyRunner(load_checkpoint(folder))))
    assert difference.max() < 2e-3
    runner.reset("open the drawer")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        runner.step(runner._noise(0))
    copies = [event.key for event in profile.key_averages() for _ in range(event.count) if "Memcpy" in event.key]
    between = [name for name in copies if "HtoD" in name or "DtoH" in name]
    assert sorted("HtoD" in name for name in between) == [False, True]
