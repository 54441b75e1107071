# SPDX-License-Identifier: Apache-2.0
"""Device, precision and compile: explicit choices are honoured or refused, and none of them changes the policy.

On a machine with an NVIDIA GPU, run `pytest -m gpu` too.
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
from vla_ros.policy.acceleration import AccelerationError, DeviceInputs, OutputBuffer, choose_acceleration
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.inference import PolicyRunner, load_policy_for_inference
from vla_ros.policy.policy import Policy

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
# Of normalised arms, whose range is 2: what a lower precision of the backbone may change.
LARGEST, ON_AVERAGE = 0.03, 0.002
BF16 = choose_acceleration("cpu", "bf16", "none")


def chunks(runner: PolicyRunner) -> np.ndarray:
    """Normalised chunks of a stream longer than the history, with a gap and a new command."""
    result = []
    runner.reset("pick up the red block")
    for index in range(9):
        if index == 5:
            runner.clear_history()
        if index == 7:
            runner.reset("open the drawer")
        result.append(runner.step(runner._random_observation(100 + index)))
    space = runner.contract.action
    return actions.normalize(np.stack(result), space.low, space.high)


@pytest.mark.skipif(torch.cuda.is_available(), reason="an NVIDIA GPU is here")
def test_auto_on_a_cpu_is_eager_fp32() -> None:
    assert choose_acceleration() == acceleration.Acceleration(torch.device("cpu"), "fp32", "none", explicit=False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": "warp"}, r"parameter device is 'warp', which is not usable here .*; try auto"),
        ({"precision": "int4"}, r"precision is 'int4'; it must be one of auto, fp32, bf16, fp16"),
        ({"compile": "yes"}, r"compile is 'yes'; it must be one of auto, none, compile, cuda_graph"),
        ({"device": "cpu", "compile": "cuda_graph"}, r"'cuda_graph', .* but the device is cpu; use compile auto or"),
    ],
)
def test_unavailable_choices_are_refused_with_the_way_out(asked, message: str) -> None:
    with pytest.raises(AccelerationError, match=message):
        choose_acceleration(**asked)


def test_a_missing_compiler_is_named_before_anything_is_compiled(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(AccelerationError, match=r"'no-such-compiler', .* was not found; install g\+\+"):
        choose_acceleration("cpu", "fp32", "compile")


@pytest.mark.parametrize("explicit", [True, False])
def test_a_step_that_does_not_compile_is_an_error_if_compile_was_explicit_and_else_runs_eagerly(
    explicit: bool, policy, monkeypatch, caplog
) -> None:
    def broken(step):
        def launch() -> None:
            raise RuntimeError("an operation is not permitted\nwhile capturing")

        return launch

    monkeypatch.setattr("vla_ros.policy.inference.compile_step", broken)
    monkeypatch.setattr("vla_ros.policy.acceleration._require_compiler", lambda device: None)
    runner = PolicyRunner(copy.deepcopy(policy), choose_acceleration("cpu", "fp32", "compile"))
    runner.acceleration = dataclasses.replace(runner.acceleration, explicit=explicit)
    if explicit:
        with pytest.raises(AccelerationError, match=r"'compile', which failed .* not permitted.*; use compile none"):
            runner.warm_up()
        return
    runner.warm_up()
    assert "falling back to eager mode" in caplog.text and "is not permitted" in caplog.text
    assert runner.acceleration.compile == "none"
    np.testing.assert_allclose(chunks(runner), chunks(PolicyRunner(policy)), atol=1e-5)


def test_converted_weights_give_the_results_of_autocast_bit_for_bit(policy, monkeypatch) -> None:
    converted = chunks(PolicyRunner(copy.deepcopy(policy), BF16))
    monkeypatch.setattr(acceleration.Acceleration, "convert", lambda *_: None)
    cast = PolicyRunner(copy.deepcopy(policy), BF16)
    assert {parameter.dtype for parameter in cast._policy.parameters()} == {torch.float32}
    np.testing.assert_array_equal(converted, chunks(cast))
    assert not np.array_equal(converted, chunks(PolicyRunner(policy)))


def test_heads_compute_in_fp32_whatever_the_precision(policy) -> None:
    seen = set()
    policy.head.lstm.register_forward_pre_hook(lambda _, given: seen.add(given[0].dtype))
    policy.head.mlp.register_forward_hook(lambda _, given, result: seen.add(result.dtype))
    chunks(PolicyRunner(policy, BF16))
    assert seen == {torch.float32}
    assert {parameter.dtype for parameter in policy.head.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_hardly_changes_the_chunks_of_the_shipped_checkpoint(precision: str) -> None:
    folder = resources.path("config/checkpoints/tabletop")
    exact = chunks(PolicyRunner(load_checkpoint(folder)))
    difference = np.abs(chunks(load_policy_for_inference(folder, "cpu", precision)) - exact)
    assert 0 < difference[..., :6].max() < LARGEST
    assert difference[..., :6].mean() < ON_AVERAGE
    assert difference[..., 6].max() < LARGEST


@pytest.mark.parametrize("head", ["lstm", "gpt"])
def test_a_step_is_compiled_once_for_any_history(head: str, with_head, monkeypatch) -> None:
    """With the tracing and the guards of torch.compile, but not the minute that its C++ takes."""
    backend = "aot_eager"
    monkeypatch.setattr(
        "vla_ros.policy.inference.compile_step", lambda f: torch.compile(f, dynamic=False, backend=backend)
    )
    monkeypatch.setattr("vla_ros.policy.acceleration._require_compiler", lambda device: None)
    assert_compiled_step_is_the_policy(with_head(head))


@pytest.mark.nightly
@needs_compiler
def test_a_compiled_step_gives_the_same_chunks(with_head) -> None:
    assert_compiled_step_is_the_policy(with_head("lstm"))


def assert_compiled_step_is_the_policy(policy: Policy) -> None:
    runner = PolicyRunner(copy.deepcopy(policy), choose_acceleration("cpu", "fp32", "compile"))
    runner.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):
        launched = chunks(runner)
    np.testing.assert_allclose(launched, chunks(PolicyRunner(policy)), atol=1e-5)


def test_device_inputs_hold_each_field_in_its_type_in_one_buffer() -> None:
    fields = {"a": ((3,), torch.uint8), "b": ((2, 2), torch.float32), "c": ((1,), torch.long)}
    inputs = DeviceInputs(fields, torch.device("cpu"))
    inputs.arrays["a"][:], inputs.arrays["b"][:], inputs.arrays["c"][:] = 7, [[0.5, 1], [2, -3]], 1 << 40
    inputs.send()
    assert inputs.tensors["a"].tolist() == [7, 7, 7]
    assert inputs.tensors["b"].tolist() == [[0.5, 1.0], [2.0, -3.0]]
    assert inputs.tensors["c"].tolist() == [1 << 40]


def test_a_chunk_that_was_returned_is_not_overwritten_by_the_next(policy) -> None:
    runner = PolicyRunner(policy)
    runner.reset("open the drawer")
    chunk = runner.step(runner._random_observation(0))
    kept = chunk.copy()
    assert not np.array_equal(runner.step(runner._random_observation(1)), kept)
    np.testing.assert_array_equal(chunk, kept)
    buffer = OutputBuffer((2,), torch.device("cpu"))
    fetched = buffer.fetch()
    buffer.tensor += 1
    buffer.fetch()
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

    def test_a_gpu_gives_the_chunks_of_the_cpu(self, head, compile, precision, with_head) -> None:
        policy = with_head(head)
        expected = chunks(PolicyRunner(copy.deepcopy(policy)))
        found = []

        def run() -> None:  # as the engine: one thread, from the construction on
            runner = PolicyRunner(policy, choose_acceleration("cuda", precision, compile))
            runner.warm_up()
            assert runner.acceleration.compile == compile
            found.append(chunks(runner))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert np.abs(found[0] - expected).max() < (2e-3 if precision == "fp32" else 5 * LARGEST)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_replayed_step_matches_the_cpu_with_one_copy_each_way() -> None:
    folder = resources.path("config/checkpoints/tabletop")
    runner = load_policy_for_inference(folder, "cuda", "fp32", "cuda_graph")
    runner.warm_up()
    difference = np.abs(chunks(runner) - chunks(PolicyRunner(load_checkpoint(folder))))
    assert difference.max() < 2e-3
    runner.reset("open the drawer")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        runner.step(runner._random_observation(0))
    copies = [event.key for event in profile.key_averages() for _ in range(event.count) if "Memcpy" in event.key]
    between = [name for name in copies if "HtoD" in name or "DtoH" in name]
    assert sorted("HtoD" in name for name in between) == [False, True]
