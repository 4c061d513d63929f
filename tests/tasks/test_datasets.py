"""Datasets of torch and Hugging Face: what is read, when, and what is refused."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from kshot.tasks.datasets import from_dataset
from kshot.tasks.episodes import Episodes
from kshot.tasks.files import labelled
from kshot.types import InputError, seeded


def noise(seed: int, *shape: int) -> np.ndarray:
    """Dark borders, so that nothing is inverted."""
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    x[[0, -1]] = 0
    x[:, [0, -1]] = 0
    return x


class Squares(Dataset):
    """Item i is (x, i % 3); counts what is read."""

    def __init__(self, kind, labels=True):
        self.kind, self.read = kind, 0
        if labels:
            self.targets = torch.arange(12) % 3
            self.classes = ["zero", "one", "two"]

    def __len__(self):
        return 12

    def __getitem__(self, i):
        self.read += 1
        x = noise(i, 8, 8)
        return {"image": Image.fromarray, "tensor": lambda x: torch.from_numpy(x)[None], "array": np.float64}[
            self.kind
        ](x), i % 3


@pytest.mark.parametrize("kind", ["image", "tensor", "array"])
def test_a_torch_dataset_is_read_lazily(kind):
    dataset = Squares(kind)
    data = labelled(dataset)
    assert dataset.read <= 2
    assert data.names == ("zero", "one", "two")
    x = data.storage.read(data.rows(1)[:2])
    assert dataset.read <= 4
    expected = torch.from_numpy(np.stack([noise(1, 8, 8), noise(4, 8, 8)])).float()
    assert torch.equal(x.reshape(2, 8, 8), expected if kind == "array" else expected / 255)
    assert Episodes(dataset, 3, 1, 3).sample(2, seeded(0)).query.x.shape[:2] == (2, 9)


def test_labels_of_torch_datasets():
    dataset = Squares("tensor", labels=False)
    with pytest.raises(InputError, match="label="):
        labelled(dataset)
    assert from_dataset(dataset, label=lambda item: item[1]).names == ("0", "1", "2")
    assert from_dataset(dataset, label=["a", "b"] * 6).names == ("a", "b")
    dataset.kinds = torch.arange(12) % 2
    assert from_dataset(dataset, label="kinds").names == ("0", "1")
    part = labelled(Subset(Squares("tensor"), [1, 2, 4, 5]))
    assert part.names == ("one", "two")
    assert torch.equal(part.storage.read(part.rows(1))[0, 0] * 255, torch.from_numpy(noise(2, 8, 8)).float())
    both = labelled(ConcatDataset([Squares("tensor"), Squares("tensor")]))
    assert both.count.tolist() == [8, 8, 8]
    tensors = labelled(TensorDataset(torch.rand(6, 2), torch.arange(6) % 2))
    assert tensors.count.tolist() == [3, 3]


def test_colour_and_size_of_pictures():
    class Colours(Squares):
        def __getitem__(self, i):
            return Image.new("RGB", (6, 4), (i, 0, 0)), i % 3

    assert labelled(Colours("image")).storage.read(torch.tensor([0])).shape == (1, 3, 6, 6)
    assert from_dataset(Colours("image"), size=5, channels=1).storage.read(torch.tensor([0])).shape == (1, 1, 5, 5)


def test_torch_datasets_that_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield 0

    class Words(Squares):
        def __getitem__(self, i):
            return "word", 0

    class Ragged(Squares):
        def __getitem__(self, i):
            return torch.full((i + 1,), float("nan") if i == 0 else 1.0), 0

    class Empty(Squares):
        def __len__(self):
            return 0

    with pytest.raises(InputError, match="no length"):
        labelled(Stream())
    with pytest.raises(InputError, match="example 0"):
        labelled(Words("x"))
    with pytest.raises(InputError, match="example 0 holds NaN"):
        labelled(Ragged("x"))
    with pytest.raises(InputError, match="no example"):
        labelled(Empty("x"))
    with pytest.raises(InputError, match="one class only"):
        from_dataset(Squares("tensor"), label=[0] * 12)
    with pytest.raises(InputError, match="12 examples came with 3 labels"):
        from_dataset(Squares("tensor"), label=[0, 1, 0])
    late = labelled(Subset(Ragged("x"), [1, 2]))
    with pytest.raises(InputError, match="example 1 has shape"):
        late.storage.read(torch.tensor([1]))


@pytest.fixture
def hugging():
    return pytest.importorskip("datasets", reason="the optional package datasets is not installed")


def pictures(datasets):
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "owl"])}
    )
    x = [Image.fromarray(noise(i, 8, 8)) for i in range(12)]
    return datasets.Dataset.from_dict({"picture": x, "kind": [i % 3 for i in range(12)]}, features=features)


def test_hugging_face_images_are_decoded_when_read(hugging, monkeypatch):
    decoded = []
    decode = hugging.Image.decode_example
    monkeypatch.setattr(hugging.Image, "decode_example", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    dataset = pictures(hugging)
    data = labelled(dataset)
    assert len(decoded) <= 1
    assert data.names == ("cat", "dog", "owl")
    x = data.storage.read(data.rows(2)[:1])
    assert len(decoded) <= 2
    assert torch.equal(x[0, 0] * 255, torch.from_numpy(noise(2, 8, 8)).float())


def test_hugging_face_columns(hugging, tmp_path):
    table = hugging.Dataset.from_dict({"a": [1.0, 2.0, 3.0, 4.0], "b": [5, 6, 7, 8], "label": ["x", "y"] * 2})
    data = from_dataset(table, x=["a", "b"])
    assert data.storage.read(data.rows(1)).tolist() == [[2.0, 6.0], [4.0, 8.0]]
    assert from_dataset(table, x="b", label=[0, 0, 1, 1]).storage.read(torch.tensor([3])).tolist() == [[8]]
    with pytest.raises(InputError, match="2 columns could be 'x'"):
        labelled(table)
    with pytest.raises(InputError, match="0 columns could be 'x'"):
        from_dataset(table, x="c")
    with pytest.raises(InputError, match="0 columns could be 'label'"):
        labelled(table.rename_column("label", "kind"))
    with pytest.raises(InputError, match="callable"):
        from_dataset(table, label=lambda row: row["label"])
    with pytest.raises(InputError, match="splits train"):
        labelled(hugging.DatasetDict({"train": table}))
    with pytest.raises(InputError, match="no length"):
        labelled(table.to_iterable_dataset())
    texts = hugging.Dataset.from_dict({"text": ["a", "bb", "ccc", "d"], "label": [0, 1, 0, 1]})
    encoded = from_dataset(texts, encode=lambda t: torch.tensor([[float(len(s))] for s in t]))
    assert encoded.storage.read(encoded.rows(0)).tolist() == [[1.0], [3.0]]
    with pytest.raises(InputError, match="encode="):
        labelled(texts)
    pictures(hugging).save_to_disk(tmp_path / "saved")
    assert labelled(tmp_path / "saved").names == ("cat", "dog", "owl")
    with pytest.raises(InputError, match="save_to_disk"):
        from_dataset(tmp_path / "absent")


def test_the_optional_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'pip install "kshot\[huggingface\]"'):
        from_dataset(tmp_path)
