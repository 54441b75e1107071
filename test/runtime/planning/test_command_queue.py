# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vla_ros.runtime.planning.command_queue import MAX_WAITING, CommandQueue, is_stop

STOP_WORDS = ("stop", "halt", "no", "wait", "e-stop")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "stop",
        "Stop!",
        " HALT. ",
        "...stop...",
        "stop please",
        "no, wait",
        "E-STOP!",
        "please stop it now",
        "no!",
    ],
)
def test_a_stop_word_alone_or_in_a_short_sentence_means_stop(text):
    assert is_stop(text, STOP_WORDS)


@pytest.mark.parametrize(
    "text", ["unstoppable", "pick up the red block", "push the block until it can no longer be seen"]
)
def test_a_longer_sentence_with_a_stop_word_is_a_command(text):
    assert not is_stop(text, STOP_WORDS)


def test_replace_follows_the_newest_command_at_once():
    queue = CommandQueue("replace", STOP_WORDS)
    assert queue.offer("a", None) == "a"
    assert queue.offer("b", range(12, 20)) == "b" and queue.waiting == ()
    assert queue.tick(100, None) is None and queue.succeeded() is None


def test_after_chunk_follows_when_the_plan_of_the_moment_has_ended():
    queue = CommandQueue("after_chunk", STOP_WORDS)
    assert queue.offer("a", None) == "a"  # there is nothing to wait for
    assert queue.offer("b", range(12, 20)) is None
    assert queue.tick(19, range(19, 27)) is None and queue.following == "a"
    assert queue.tick(20, range(19, 27)) == "b" and queue.tick(21, range(19, 27)) is None


def test_after_chunk_gives_each_of_several_commands_a_plan_of_its_own_to_its_end():
    queue = CommandQueue("after_chunk", STOP_WORDS)
    for text in "abc":
        queue.offer(text, range(12, 20))
    followed = {tick: text for tick in range(13, 60) if (text := queue.tick(tick, range(tick - 1, tick + 7)))}
    # b is taken up when the plan of a has ended; its own first plan answers the observation of tick 21.
    assert followed == {20: "b", 29: "c"}


def test_after_chunk_waits_for_a_command_that_has_no_plan_yet():
    queue = CommandQueue("after_chunk", STOP_WORDS)
    for text in "abc":
        queue.offer(text, None)
    assert queue.tick(3, None) == "b"
    assert [queue.tick(tick, None) for tick in range(4, 50)] == [None] * 46
    assert queue.tick(50, range(49, 57)) is None and queue.tick(57, range(56, 64)) == "c"


def test_after_chunk_without_a_plan_follows_with_the_next_tick():
    queue = CommandQueue("after_chunk", STOP_WORDS)
    queue.offer("a", None)
    queue.offer("b", None)
    assert queue.tick(3, None) == "b"


def test_after_success_follows_one_command_for_each_success_in_their_order():
    queue = CommandQueue("after_success", STOP_WORDS)
    assert [queue.offer(text, range(1, 9)) for text in "abc"] == ["a", None, None]
    assert queue.waiting == ("b", "c") and queue.tick(1000, None) is None
    assert [queue.succeeded() for _ in range(3)] == ["b", "c", None]


@pytest.mark.parametrize("when", ["replace", "after_chunk", "after_success"])
def test_a_stop_is_never_queued_and_forgets_what_waits(when):
    queue = CommandQueue(when, STOP_WORDS)
    for text in "ab":
        queue.offer(text, range(12, 20))
    assert queue.offer("Stop!", range(12, 20)) == "" and queue.waiting == ()
    assert queue.tick(100, None) is None and queue.succeeded() is None
    assert queue.offer("c", None) == "c"


def test_a_flood_is_refused_and_an_unknown_policy_too():
    queue = CommandQueue("after_success", STOP_WORDS)
    for number in range(MAX_WAITING + 1):
        queue.offer(f"task {number}", None)
    with pytest.raises(OverflowError, match="stop command"):
        queue.offer("one more", None)
    with pytest.raises(ValueError, match=r"on_new_command must be one of replace, .*got 'later'"):
        CommandQueue("later", ())
