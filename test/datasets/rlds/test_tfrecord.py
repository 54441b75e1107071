# SPDX-License-Identifier: Apache-2.0
"""TFRecord and tf.train.Example without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_datasets import encoded, framed

from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.rlds.tfrecord import Example, records

EXAMPLE = {
    "steps/image": [b"one", b""],
    "steps/action": [0.5, -1.0, 3.0],
    "steps/is_last": [0, 1, -5, 1 << 40],
    "": [b"x"],
}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.sampled_from([0, 1, 9, 4097, 12345]))
def test_records_pass_the_checksum_of_castagnoli(tmp_path_factory, seed: int, size: int) -> None:
    """`framed` computes it bit by bit."""
    data = np.random.default_rng(seed).bytes(size)
    file = tmp_path_factory.mktemp("records") / "file"
    file.write_bytes(framed(data))
    assert [bytes(record) for record in records(file)] == [data]


def test_features_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(framed(encoded(EXAMPLE)) + framed(encoded({})))
    first, second = map(Example, records(tmp_path / "file"))
    assert [bytes(value) for value in first.bytes_list("steps/image")] == EXAMPLE["steps/image"]
    assert first.numbers("steps/action").tolist() == EXAMPLE["steps/action"]
    assert first.numbers("steps/is_last").tolist() == EXAMPLE["steps/is_last"]
    assert "steps/image" in first and "steps/image" not in second
    with pytest.raises(KeyError):
        second.numbers("steps/action")
    with pytest.raises(ValueError, match="steps/action is a list of another kind"):
        first.bytes_list("steps/action")
    with pytest.raises(ValueError, match="steps/image is a list of another kind"):
        first.numbers("steps/image")


@pytest.mark.parametrize("length", [5, 11, 40])
def test_a_cut_off_file_yields_its_complete_records_and_an_error_that_says_where(tmp_path: Path, length: int) -> None:
    whole = framed(encoded(EXAMPLE))
    (tmp_path / "file").write_bytes(whole + whole[:length])
    read = records(tmp_path / "file")
    assert "steps/image" in Example(next(read))
    with pytest.raises(SourceError, match="record 1"):
        next(read)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(tmp_path_factory, data: st.DataObject) -> None:
    whole = bytearray(framed(encoded(EXAMPLE)))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("records") / "file"
    file.write_bytes(whole)
    with pytest.raises(SourceError, match="record 0"):
        list(records(file))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_record_is_an_error_or_another_example(data: st.DataObject) -> None:
    whole = bytearray(encoded(EXAMPLE))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        example = Example(memoryview(bytes(whole)))
        numbers, images = example.numbers("steps/action"), example.bytes_list("steps/image")
    except (ValueError, KeyError):
        return
    assert numbers.dtype == np.float64 and numbers.ndim == 1
    assert len(numbers) <= len(whole) and sum(map(len, images)) <= len(whole)  # nothing but what is there
