# SPDX-License-Identifier: Apache-2.0
"""Commands to tokens: a byte-level BPE, trained offline and saved in the checkpoint, that can encode any text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

PADDING = "<pad>"
DROPPED = "<dropped>"  # replaces tokens hidden by token dropout

# Common words of table-top commands, so that tasks added later are encoded as words, not letters.
_WORDS_TEXT = """
a all an and are at away back backward be behind below beside between both bring by can carry clear close come
counter down drop empty end far fetch fill find finish first flip fold for forward from front full further gently get
give go grab grasp hand hang here hold home in inside insert into is it its just keep last lay leave left lift locate
lower make middle move near nearest next now of off on one onto open out over pick place please point position pour
press pull push put quickly raise reach release remove return right robot rotate second shift shut side slide slowly
sort stack stand stop straight sweep switch table take that the them then there third this through throw to toggle
together top touch toward towards transport turn two under unfold until unstack up upright wipe with you your
apple bag ball banana basket bin block bolt book bottle bowl box brush bucket button cabinet can cap carrot case cloth
container corner cross cube cup cupboard desk dish door drawer edge fork fridge gear glass gripper handle hook jar
kettle key knife knob ladle lamp lever lid light marker microwave mug nut object oven pan peg pen pencil piece pin
plate pot rack ring rod rope screw screwdriver shape shelf sink socket spatula sponge spoon stick stove tape target
tomato tool towel tower toy tray triangle tube valve wall wrench
big black blue brown cyan dark gold gray green grey large light long magenta orange pink purple red round short silver
small square tall white wooden yellow
"""
WORDS = tuple(_WORDS_TEXT.split())


class CommandTokenizer:
    """A tokenizer with two special tokens, for padding and for dropped tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        padding, dropped = tokenizer.token_to_id(PADDING), tokenizer.token_to_id(DROPPED)
        if padding is None or dropped is None:
            raise ValueError(f"the tokenizer lacks the special tokens {PADDING} and {DROPPED}")
        self._tokenizer = tokenizer
        self.padding_id: int = padding
        self.dropped_id: int = dropped

    @classmethod
    def train(cls, prompts: Iterable[str], vocabulary_size: int = 1024) -> CommandTokenizer:
        """Train a tokenizer on `prompts` and `WORDS`; the result is deterministic."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=[PADDING, DROPPED],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        words = sorted(set(WORDS))
        corpus = sorted(set(prompts)) * 4 + words + words  # twice, as min_frequency is 2
        tokenizer.train_from_iterator(corpus, trainer)
        return cls(tokenizer)

    @classmethod
    def adapt(cls, tokenizer: Tokenizer) -> CommandTokenizer:
        """Return a pretrained model's tokenizer with the two special tokens, appended if missing."""
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens([PADDING, DROPPED])
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> CommandTokenizer:
        """Read `tokenizer.json`; raises ValueError if it lacks the special tokens or is damaged."""
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except ValueError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(str(error)) from error

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        path.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @property
    def identity(self) -> str:
        """A hash of the vocabulary, which identifies it in the contract."""
        return "bpe-sha256:" + hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, including the special ones."""
        return self._tokenizer.get_vocab_size()

    def encode(self, prompt: str, max_tokens: int | None = None) -> list[int]:
        """Return the ids of a prompt, at most `max_tokens` if given."""
        return self._tokenizer.encode(prompt).ids[:max_tokens]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, without the space that is prefixed to the first word."""
        return self._tokenizer.decode(list(ids)).removeprefix(" ")

    def batch(self, prompts: Sequence[str], max_tokens: int, *, fixed_length: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens and token_mask (B, L), padded on the right to the longest prompt (L >= 1).

        Args:
            fixed_length: pad to `max_tokens` instead.
        """
        rows = [self.encode(prompt, max_tokens) for prompt in prompts]
        length = max(1, *(len(row) for row in rows)) if rows else 1
        if fixed_length:
            length = max_tokens
        tokens = torch.full((len(rows), length), self.padding_id, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[index, : len(row)] = True
        return tokens, mask
