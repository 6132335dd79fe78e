"""The table of embeddings: what is written is read, to float16, in the columns other tools expect."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base.errors import UserError
from diptych.tasks.embeddings import COLUMNS, read_table, write_table


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 7), st.text(max_size=5))
def test_round_trip(tmp_path_factory, n, d, e, word):
    path = tmp_path_factory.mktemp("table") / "new" / "a.parquet"
    image, text = torch.randn(n, d), torch.randn(n, e)
    keys = [f"set/{i}" for i in range(n)]
    write_table(path, keys, [None] * n, [word] * n, image, text)
    found = read_table(path)
    assert tuple(found) == COLUMNS
    assert found["key"] == keys and found["caption"] == [None] * n and found["label"] == [word] * n
    torch.testing.assert_close(found["image_embedding"], image.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(found["text_embedding"], text.half().float(), rtol=0, atol=0)
    assert [file.name for file in path.parent.iterdir()] == ["a.parquet"]


def test_other_tools_see_fixed_size_float16_lists(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "a.parquet", ["k"], ["c"], ["l"], torch.ones(1, 4), torch.ones(1, 4))
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert schema.names == list(COLUMNS)
    assert [str(field.type) for field in schema][:3] == ["string"] * 3
    assert str(schema.field("image_embedding").type).startswith("fixed_size_list<")
    assert str(schema.field("image_embedding").type.value_type) == "halffloat"


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path):
    for i in (1, 0):
        write_table(tmp_path / f"{i}.parquet", [str(i)], ["c"], ["l"], torch.full((1, 2), i), torch.ones(1, 2))
    found = read_table(tmp_path)
    assert found["key"] == ["0", "1"] and found["image_embedding"].tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e5])
def test_what_float16_cannot_hold_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(UserError, match="image embeddings hold"):
        write_table(tmp_path / "a.parquet", ["k"], ["c"], ["l"], torch.tensor([[value]]), torch.ones(1, 1))
    assert not list(tmp_path.iterdir())


def test_no_table_and_another_table_are_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for nothing in (tmp_path, tmp_path / "none.parquet"):
        with pytest.raises(UserError, match=r"python src/embed\.py"):
            read_table(nothing)
    parquet.write_table(arrow.table({"key": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="lacks caption, label"):
        read_table(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"diptych\[study\]"):
        read_table(tmp_path)
