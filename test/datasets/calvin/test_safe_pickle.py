# SPDX-License-Identifier: Apache-2.0
"""Plain data come out of a pickle; whatever else it asks for is refused and never called."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.datasets.calvin import safe_pickle
from vla_ros.datasets.calvin.safe_pickle import PickledArray, read_npy, read_npz, read_pickle
from vla_ros.datasets.errors import SourceError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.tuples(*[inner] * 4)
    ),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([2, 3, 4]))
def test_plain_data_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol), "file") == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["<f4", ">i8", "|u1", "<U3", "?"])
def test_arrays_and_scalars_are_read_as_numpy_wrote_them(protocol: int, kind: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(kind)
    data = {"c": array, "f": np.asfortranarray(array), "scalar": np.int64(7), "tuple": (np.float32(0.5), 1)}
    got = read_pickle(pickle.dumps(data, protocol), "file")
    for name in "cf":
        np.testing.assert_array_equal(got[name].array(), array)
        assert got[name].array().dtype == array.dtype
    assert (got["scalar"], got["tuple"]) == (7, (0.5, 1))
    objects = read_pickle(pickle.dumps(np.array([{"a": 1}, None], dtype=object), protocol), "file")
    assert isinstance(objects, PickledArray) and objects.tolist() == [{"a": 1}, None]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_are_dropped_and_what_is_around_them_is_read(protocol: int, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    data = pickle.dumps({"ann": ["open the drawer"], "emb": torch.ones(2, 3)}, protocol)
    monkeypatch.setattr(torch.storage, "_load_from_bytes", None)  # would run torch.load
    assert read_pickle(data, "file") == {"ann": ["open the drawer"], "emb": None}


class Harm:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("harm",))


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_that_a_pickle_wants_to_call_is_called(protocol: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("ann.npy", np.array([{"language": Harm()}, 1], dtype=object)[0], allow_pickle=True)
    with pytest.raises(SourceError, match=r"ann.npy: it wants to call posix\.mkdir"):
        read_npy(Path("ann.npy"))
    with pytest.raises(SourceError):
        read_pickle(pickle.dumps(Harm(), protocol), "file")
    assert not Path("harm").exists()


class Reduced:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "called"),
    [
        (Reduced(os.system, "touch harm"), r"posix\.system"),
        (Reduced(eval, "open('harm', 'w')"), r"(builtins|__builtin__)\.eval"),
        ({"ann": [(1, Reduced(exec, "open('harm', 'w')"))]}, r"(builtins|__builtin__)\.exec"),
        (Reduced(getattr, 1, "real"), r"(builtins|__builtin__)\.getattr"),
        (np.array([[Reduced(os.mkdir, "harm")], [1]], dtype=object), r"posix\.mkdir"),
        (np.load, r"numpy(\.lib\S*)?\.load"),
    ],
)
def test_a_call_is_refused_however_deep_it_hides(
    value: Any, called: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=f"^file: it wants to call {called}"):
        read_pickle(pickle.dumps({"a": value}, protocol), "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy.core.multiarray", "scalar.__globals__"),
        ("numpy.core.multiarray", "_reconstruct.__self__"),
        ("numpy.core", "multiarray._reconstruct"),
        ("numpy", "core.multiarray._reconstruct"),
        ("numpy", "ndarray.__class__"),
        ("numpy.core.multiarray", "set_string_function"),
        ("numpy.x", "ndarray"),
    ],
)
def test_a_path_through_an_allowed_name_is_refused(module: str, name: str) -> None:
    text = [pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode() for part in (module, name)]
    with pytest.raises(SourceError, match=f"wants to call {module}.{name}"):
        read_pickle(pickle.PROTO + b"\x04" + b"".join(text) + pickle.STACK_GLOBAL + pickle.STOP, "file")
    if "." not in name:
        with pytest.raises(SourceError, match=f"wants to call {module}.{name}"):
            read_pickle(f"c{module}\n{name}\n.".encode(), "file")


@pytest.mark.parametrize("program", [b"Pid\n.", b"\x80\x02U\x02idQ.", b"\x80\x02\x82\x01.", b"\x80\x05\x97."])
def test_persistent_ids_extensions_and_outside_buffers_are_refused(program: bytes) -> None:
    with pytest.raises(SourceError, match=r"^file is damaged"):
        read_pickle(program, "file")


def test_a_pickle_cannot_change_what_stands_in_for_numpy() -> None:
    """BUILD sets attributes of whatever is on the stack."""
    state = pickle.dumps((None, {"__defaults__": (1,), "mine": 1}), 2)[2:-1]
    read_pickle(b"\x80\x02cnumpy\ndtype\n" + state + b"b.", "file")
    stand_in = safe_pickle._STAND_INS["numpy", "dtype"]
    assert not hasattr(stand_in, "mine") and stand_in.__defaults__ is None


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8e" + (1 << 45).to_bytes(8, "little") + b"x.",  # BINBYTES8
        b"\x80\x05\x96" + (1 << 31).to_bytes(8, "little") + b"x.",  # BYTEARRAY8
        b"\x80\x02]r\xff\xff\xff\x7f.",  # LONG_BINPUT: the reader in C would reserve 32 GB
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fttR.",
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x81.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01Ot\x81.",
    ],
)
def test_a_small_pickle_takes_little_memory(program: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(SourceError):
        read_pickle(program, "file")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_types_that_numpy_would_have_to_parse_are_refused() -> None:
    record = np.zeros(2, [("a", "f4"), ("b", "i2")])
    with pytest.raises((SourceError, ValueError)):
        read_pickle(pickle.dumps(record, 4), "file").array()


@given(st.data())
def test_a_damaged_pickle_is_an_error_or_a_value_never_a_crash(data: st.DataObject) -> None:
    array = np.arange(3.0)
    whole = bytearray(
        pickle.dumps({"ann": ["open", "close"], "indx": [(0, 64), (5, 9)], "emb": array, "n": array[0]}, 4)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_pickle(bytes(whole[: data.draw(st.integers(1, len(whole)))]), "file")
    except SourceError as error:
        assert str(error).startswith("file")


def test_a_header_with_a_wrong_size_takes_no_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4), np.uint8))
    lie = (tmp_path / "a.npz").read_bytes().replace(b"(3, 4), }           ", b"(300000, 400000), } ")
    (tmp_path / "b.npz").write_bytes(lie)
    with pytest.raises(SourceError, match=r"b\.npz is damaged"):
        read_npz(tmp_path / "b.npz", ["x"])
    with pytest.raises(SourceError, match=r"a\.npz has no array 'y'"):
        read_npz(tmp_path / "a.npz", ["x", "y"])
    np.savez(tmp_path / "c.npz", x=np.array([Harm()], dtype=object))
    with pytest.raises(SourceError, match="an array of objects"):
        read_npz(tmp_path / "c.npz", ["x"])


@pytest.mark.parametrize(
    "header", [b"{'descr': '|u1', 'fortran_order': (False, ", b"{'descr': '|u1\0', ", b"{'descr': \x8a"]
)
def test_a_malformed_header_is_an_error(tmp_path: Path, header: bytes) -> None:
    text = header.ljust(118) + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(SourceError, match=r"a\.npy is damaged"):
        read_npy(path)
