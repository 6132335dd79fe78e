"""The pickle reader: the same values as Python's for plain data, and names instead of globals."""

from __future__ import annotations

import collections
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.interop.pickles import Made, Named, Refused, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_data_reads_as_python_reads_it(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol), lambda name: False) == value


OPERATIONS = [operation.code.encode("latin-1") for operation in pickletools.opcodes]
SPLICED = st.lists(st.sampled_from(OPERATIONS) | st.binary(max_size=2), max_size=6).map(b"".join)


def test_any_bytes_are_read_or_refused() -> None:
    """A value's bytes with others in between: of bytes at random, none is ever read."""
    outcomes = []

    @settings(max_examples=500, deadline=None, derandomize=True)
    @given(VALUES, st.integers(2, pickle.HIGHEST_PROTOCOL), st.floats(0, 1), SPLICED, st.integers(0, 3))
    def spoil(value: Any, protocol: int, where: float, spliced: bytes, lost: int) -> None:
        data = pickle.dumps(value, protocol)
        place = round(where * len(data))
        try:
            read(data[:place] + spliced + data[place + lost :], lambda name: True)
            outcomes.append("read")
        except Refused:
            outcomes.append("refused")

    spoil()
    assert min(outcomes.count("read"), outcomes.count("refused")) > 100


def test_keys_that_take_for_ever_to_hash_are_refused() -> None:
    key: tuple[Any, ...] = (1,)
    for _ in range(60):
        key = (key, key)
    with pytest.raises(Refused, match="a tuple as a key"):  # Python itself couldn't make this dictionary: spliced in
        read(b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s.", lambda name: False)


def test_a_call_is_a_record_of_it() -> None:
    made = read(pickle.dumps(collections.OrderedDict(a=1), 2), lambda name: name == "collections.OrderedDict")
    assert isinstance(made, Made) and isinstance(made.of, Named)
    assert made.name == "collections.OrderedDict" and made.entries == {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_name_that_is_not_allowed_is_refused(protocol: int) -> None:
    with pytest.raises(Refused, match=r"names builtins\.print|names __builtin__\.print|operation"):
        read(pickle.dumps(print, protocol), lambda name: False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}",
        b"\x80\x02.",
        b"\x80\x02(.",
        b"\x80\x02h\x05.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02}(]K\x01u.",
        b"\x80\x02\x8a\xff.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02ibuiltins\nprint\n.",
        b"\x80\x02\x82\x01.",
    ],
    ids=str,
)
def test_damage_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data, lambda name: False)
