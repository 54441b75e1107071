# SPDX-License-Identifier: Apache-2.0
"""Commands to tokens and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.policy.tokenizer import CommandTokenizer

PROMPTS = ["pick up the red block", "put the blue cube in the box"]
TOKENIZER = CommandTokenizer.train(PROMPTS, 1024)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, 1000)) == text


def test_known_words_are_one_token_each() -> None:
    assert [len(TOKENIZER.encode(word, 9)) for word in ["pick", "red", "block", "drawer", "yellow", "stack"]] == [1] * 6


def test_a_word_is_the_same_token_anywhere() -> None:
    first, *_, last = TOKENIZER.encode("red block red", 9)
    assert first == last


def test_unknown_words_are_encoded_without_special_tokens() -> None:
    ids = TOKENIZER.encode("frobnicate <pad>", 50)
    assert len(ids) > 2
    assert TOKENIZER.dropped_id not in ids


def test_long_commands_are_truncated() -> None:
    assert len(TOKENIZER.encode("pick " * 99, 12)) == 12


def test_batches_are_padded_on_the_right() -> None:
    tokens, mask = TOKENIZER.batch(["pick", "pick up the block"], 16)
    assert tokens.shape == mask.shape == (2, 4)
    assert mask.tolist() == [[True, False, False, False], [True] * 4]
    assert tokens[0, 1:].tolist() == [TOKENIZER.padding_id] * 3


def test_same_prompts_give_the_same_identity_and_others_another() -> None:
    assert CommandTokenizer.train(reversed(PROMPTS), 1024).identity == TOKENIZER.identity
    assert CommandTokenizer.train(["stir the xylophone soup"], 1024).identity != TOKENIZER.identity


def test_a_file_keeps_the_identity(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert CommandTokenizer.load(tmp_path / "tokenizer.json").identity == TOKENIZER.identity


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError):
        CommandTokenizer.load(tmp_path / "tokenizer.json")
