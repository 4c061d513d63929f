"""Tables, JSON lines, and what is taken for labelled data."""

import json

import numpy as np
import pytest
import torch

from kshot.tasks.files import from_csv, from_jsonl, labelled
from kshot.tasks.labelled import Labelled
from kshot.types import InputError


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_a_table(tmp_path):
    path = written(tmp_path, "t.csv", "\ufeffa,label, b\n1,x,2\n3,y,4\n\n5,x,6e0\n")
    data = labelled(path)
    assert data.names == ("x", "y")
    assert torch.equal(data.storage.read(data.rows(0)), torch.tensor([[1.0, 2.0], [5.0, 6.0]]))
    assert from_csv(path, features=["b"]).storage.read(torch.tensor([1])).tolist() == [[4.0]]
    assert from_csv(path, label="a", features=["b"]).names == ("1", "3", "5")
    tabs = written(tmp_path, "t.tsv", "label\tb\nx\t1\ny\t2\n")
    assert len(labelled(tabs)) == 2
    assert len(from_csv(written(tmp_path, "t.data", "label;b\nx;1\ny;2\n"), delimiter=";")) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 columns called 'label'"),
        ("a,b\n1,2\n", "0 columns called 'label', its header is a, b"),
        ("label,label\n1,2\n", "2 columns called 'label'"),
        ("label\nx\n", "no column beside 'label'"),
        ("a,label\n", "no example"),
        ("a,label\n1,x\nred,y\n", "line 3 has 'red' in column 'a'"),
        ("a,label\n1,x\nnan,y\n", "line 3 has 'nan'"),
        ("a,label\n1,x\n,y\n", "line 3 has ''"),
        ("a,label\n1,x,3\n", "line 2 has 3 cells and the header 2"),
        ("a,label\n1,\n", "line 2 has no 'label'"),
        ("a,label\n1,x\n2,x\n", "one class only, 'x'"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        from_csv(written(tmp_path, "t.csv", text))


def lines(tmp_path, *records):
    return written(tmp_path, "t.jsonl", "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))


def test_json_lines(tmp_path):
    path = lines(tmp_path, {"x": [[1, 2], [3, 4]], "label": "b"}, "", {"x": [[5, 6], [7, 8]], "label": "a"})
    data = labelled(path)
    assert data.names == ("a", "b")
    assert data.storage.read(data.rows(1)).tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
    path = lines(tmp_path, {"text": "hello", "intent": 1, "z": 0}, {"text": "bye", "intent": "2", "z": 0})
    data = from_jsonl(
        path, label="intent", features="text", encode=lambda texts: torch.tensor([[len(t)] for t in texts])
    )
    assert data.names == ("1", "2")
    assert data.storage.read(torch.tensor([0, 1])).tolist() == [[5], [3]]


@pytest.mark.parametrize(
    ("records", "settings", "says"),
    [
        ([], {}, "no example"),
        (["{"], {}, "line 1 is not JSON"),
        (["[1]"], {}, "line 1 holds a list"),
        ([{"label": 0, "a": 1, "b": 2}], {}, "say which to learn from"),
        ([{"label": 0, "x": 1}, {"x": 1}], {}, "line 2 has no field 'label'"),
        ([{"label": 0, "x": 1}], {"features": "y"}, "line 1 has no field 'y'"),
        ([{"label": 0, "x": [1]}, {"label": 1, "x": [1, 2]}], {}, r"line 2 has x of shape \(2,\)"),
        ([{"label": 0, "x": [[1], [1, 2]]}], {}, "finite numbers"),
        ([{"label": 0, "x": [None]}], {}, "finite numbers"),
        (['{"label": 0, "x": [NaN]}'], {}, "finite numbers"),
        ([{"label": None, "x": [1]}], {}, "line 1 has the label None"),
        ([{"label": 0, "x": "text"}], {}, "encode="),
        ([{"label": 0, "x": 1}], {"encode": torch.tensor}, "needs text"),
        ([{"label": 0, "x": [1]}, {"label": 0, "x": [2]}], {}, "one class only"),
    ],
)
def test_json_lines_that_are_refused(tmp_path, records, settings, says):
    with pytest.raises(InputError, match=says):
        from_jsonl(lines(tmp_path, *records), **settings)


@pytest.mark.parametrize("read", [from_csv, from_jsonl])
def test_a_file_that_is_not_there_or_no_text(tmp_path, read):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent")
    (tmp_path / "latin").write_bytes("label,größe\na,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read(tmp_path / "latin")


@pytest.mark.parametrize("data", [torch.rand(3, 2), np.zeros((3, 2)), 7, None, {"x": 1}, [1, 2, 3]])
def test_what_is_no_labelled_data(data):
    with pytest.raises(InputError, match=r"give \(x, y\)"):
        labelled(data)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.csv, \.tsv or \.jsonl"):
        labelled(written(tmp_path, "t.parquet", ""))
    with pytest.raises(InputError, match="there is no folder"):
        labelled(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="one class only"):
        labelled((torch.rand(3, 2), [1, 1, 1]))


def test_labelled_data_passes_through():
    data = Labelled.of(torch.rand(2, 3), [0, 1])
    assert labelled(data) is data
