# SPDX-License-Identifier: Apache-2.0
"""The long-horizon protocol, with an environment that is a dict."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.chains import Attempt, Chain, ChainResult, chain_statistics, merge, run_chain
from vla_ros.evaluation.protocols.result_log import ResultLog

TASKS = ("a", "b", "c", "d", "e")


def chain(number: int = 0) -> Chain:
    return Chain(number, 100 + number, TASKS)


def result(number: int, done: int) -> ChainResult:
    attempts = [Attempt(True, 10)] * done + [Attempt(False, 360)] * (done < 5)
    return ChainResult(chain(number), tuple(attempts))


def test_the_scene_is_set_up_once_and_the_first_failure_ends_the_chain() -> None:
    log: list[str] = []

    def attempt(task: str, steps: int) -> Attempt:
        log.append(task)
        return Attempt(task != "c", steps)

    found = run_chain(chain(), lambda one: log.append(f"set up {one.seed}"), attempt)
    assert log == ["set up 100", "a", "b", "c"]
    assert found.length == 2
    assert [one.steps for one in found.attempts] == [360, 360, 360]


def test_figures_equal_a_hand_count() -> None:
    figures = chain_statistics([result(0, 5), result(1, 2), result(2, 0), result(3, 2)])
    assert {k: row["successes"] for k, row in figures["success_at"].items()} == {
        "1": 3, "2": 3, "3": 1, "4": 1, "5": 1,
    }  # fmt: skip
    assert figures["average_length"] == 9 / 4
    low, high = figures["average_length_interval"]
    assert 0 <= low < 9 / 4 < high <= 5
    assert figures["tasks"]["a"]["trials"] == 4 and figures["tasks"]["c"]["trials"] == 3
    assert figures["tasks"]["c"]["successes"] == 1 and figures["tasks"]["a"]["mean_steps"] == 10


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 7))
def test_average_length_is_the_sum_of_successes_for_any_split_over_ranks(lengths: list[int], ranks: int):
    results = [result(number, done) for number, done in enumerate(lengths)]
    merged = merge((results[rank::ranks] for rank in reversed(range(ranks))), len(results))
    assert merged == results
    assert sum(result.length for result in merged) == sum(
        row["successes"] for row in chain_statistics(merged)["success_at"].values()
    )


def test_inconsistent_ranks_are_refused() -> None:
    with pytest.raises(EvaluationError, match="1 of 3 chains have no result, chain 1 first"):
        merge([[result(0, 1)], [result(2, 1)]], 3)
    with pytest.raises(EvaluationError, match="chain 0 has two different results"):
        merge([[result(0, 1)], [result(0, 2)]], 1)
    with pytest.raises(EvaluationError, match=r"must be 0 to 3 .*; got chain 4"):
        merge([[result(4, 1)]], 4)
    assert merge([[result(0, 1)], [result(0, 1)]], 1) == [result(0, 1)]


def test_logged_results_are_read_back_and_an_incomplete_line_is_dropped(tmp_path) -> None:
    log = ResultLog(tmp_path / "run", {"checkpoint": "x", "tasks": ("a", "b")})
    log.add(result(0, 3).to_dict())
    with (tmp_path / "run" / "results-0.jsonl").open("a") as file:
        file.write('{"chain": {"num')  # killed here
    again = ResultLog(tmp_path / "run", {"checkpoint": "x", "tasks": ("a", "b")})
    again.add(result(1, 5).to_dict())
    other = ResultLog(tmp_path / "run", {"checkpoint": "x", "tasks": ("a", "b")}, rank=1)
    other.add(result(2, 0).to_dict())
    assert [ChainResult.from_dict(one) for one in log.results()] == [result(0, 3), result(1, 5), result(2, 0)]


def test_a_folder_with_another_evaluation_or_damage_is_refused(tmp_path) -> None:
    ResultLog(tmp_path, {"checkpoint": "x", "seed": 1})
    with pytest.raises(EvaluationError, match="another seed: 1, not 2"):
        ResultLog(tmp_path, {"checkpoint": "x", "seed": 2})
    with pytest.raises(EvaluationError, match="another robot: None, not 'r'"):
        ResultLog(tmp_path, {"checkpoint": "x", "seed": 1, "robot": "r"})
    (tmp_path / "results-0.jsonl").write_text("{}\nno json\n" + json.dumps({}) + "\n")
    with pytest.raises(EvaluationError, match="line 2 is not JSON"):
        list(ResultLog(tmp_path, {"checkpoint": "x", "seed": 1}).results())
