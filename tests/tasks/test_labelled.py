"""Labelled data: classes, splits, rotations, and what is refused."""

import numpy as np
import pytest
import torch

from kshot.audit import overlap
from kshot.tasks.labelled import InMemory, Labelled, Rotated
from kshot.types import InputError


def numbered(classes: int = 6, each: int = 5) -> Labelled:
    """Example r is [r, its class]; the classes lie interleaved."""
    y = torch.arange(classes * each) % classes
    return Labelled.of(
        torch.stack([torch.arange(classes * each), y], 1).float(), y, [f"class{c}" for c in range(classes)]
    )


def test_rows_of_each_class():
    data = numbered()
    for c in range(len(data)):
        rows = data.rows(c)
        assert len(rows) == data.count[c] == 5
        assert (data.storage.read(rows)[:, 1] == c).all()


def test_labels_of_any_ordered_kind():
    x = torch.rand(4, 3)
    assert Labelled.of(x, ["b", "a", "b", "a"]).names == ("a", "b")
    assert Labelled.of(x, np.array([3, 1, 3, 1])).rows(1).tolist() == [0, 2]
    assert Labelled.of(x.numpy(), torch.tensor([True, False, True, False])).names == ("False", "True")


def test_only_keeps_the_order_asked_for():
    part = numbered().only(["class4", 1])
    assert part.names == ("class4", "class1")
    assert (part.storage.read(part.rows(0))[:, 1] == 4).all()
    assert part.identities < numbered().identities


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_disjoint_by_names_rows_and_identities(seed):
    data = numbered(classes=20)
    parts = data.split(0.6, 0.2, 0.2, seed=seed)
    names = [set(p.names) for p in parts]
    rows = [{r for c in range(len(p)) for r in p.rows(c).tolist()} for p in parts]
    identities = [p.identities for p in parts]
    for sets, total in ((names, 20), (rows, 100), (identities, 20)):
        assert len(set().union(*sets)) == sum(map(len, sets)) == total
    assert [p.names for p in data.split(0.6, 0.2, 0.2, seed=seed)] == [p.names for p in parts]
    assert data.split(0.6, seed=seed + 1)[0].names != parts[0].names


def test_identity_is_of_the_name_and_the_content():
    x, y = torch.rand(6, 2), [0, 0, 1, 1, 2, 2]
    assert len(Labelled.of(x.bfloat16(), y).identities) == 3
    named, renamed, numbered = (Labelled.of(x, y, names) for names in (["a", "b", "c"], ["d", "e", "f"], None))
    others = Labelled.of(torch.rand(6, 2), y, ["a", "b", "z"])
    assert len(overlap(named.identities, renamed.identities)) == 3  # the same under other names
    assert len(overlap(named.identities, others.identities)) == 2  # other drawings of 'a' and 'b'
    assert not overlap(numbered.identities, Labelled.of(torch.rand(6, 2), y).identities)  # numbers are no names


def test_rotations_are_classes_in_memory_and_lazily():
    x = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    data = Labelled.of(x, [0, 0, 0, 1, 1, 1], ["a", "b"])
    turned = data.rotated()
    assert turned.names[2:4] == ("a/rot090", "b/rot090")
    assert len(turned.identities) == 8
    for k in range(4):
        seen = turned.storage.read(turned.rows(2 * k + 1))
        assert np.array_equal(seen[:, 0] * 255, np.rot90(x[3:, 0].numpy(), k, (1, 2)))
    rows = torch.randperm(24).reshape(2, 12)
    assert torch.equal(Rotated(InMemory(x)).read(rows), turned.storage.read(rows))
    part = data.only(["b"]).rotated()
    assert torch.equal(part.storage.read(part.rows(3)), turned.storage.read(turned.rows(7)))


def test_bytes_are_read_as_floats_and_arrays_in_the_default_precision():
    data = Labelled.of(np.full((2, 3), 255, np.uint8), [0, 1])
    assert torch.equal(data.storage.read(torch.tensor([0])), torch.ones(1, 3))
    assert Labelled.of(np.zeros((2, 3)), [0, 1]).storage.read(torch.tensor([0])).dtype == torch.float32
    assert Labelled.of(torch.zeros(2, 3).double(), [0, 1]).storage.read(torch.tensor([0])).dtype == torch.float64


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: Labelled.of(torch.rand(3, 2), [0, 1]), "3 examples came with 2 labels"),
        (lambda: Labelled.of(torch.rand(0, 2), []), "no example"),
        (lambda: Labelled.of(torch.rand(3), [0, 1, 1]), "at least .examples, features."),
        (lambda: Labelled.of([["a"]], [0]), "cannot become a tensor"),
        (lambda: Labelled.of(torch.tensor([[0.0], [torch.nan]]), [0, 1]), "first: row 1"),
        (lambda: Labelled.of(torch.rand(2, 2), ["a", 1]), "cannot be told apart"),
        (lambda: Labelled.of(torch.rand(2, 2), torch.eye(2)), "cannot be told apart"),
        (lambda: Labelled.of(torch.rand(2, 2), [0.0, float("nan")]), "NaN"),
        (lambda: Labelled.of(torch.rand(2, 2), [0, 1], ["one"]), "1 class names for 2 classes"),
        (lambda: numbered().only(["class9"]), "class9"),
        (lambda: numbered().only([6]), "6"),
        (lambda: numbered().only([]), "empty list"),
        (lambda: numbered().split(0.9, 0.2), "at most 1"),
        (lambda: numbered().split(0.5, 0.01), "empty"),
        (lambda: numbered().rotated(), "square images"),
    ],
)
def test_what_is_refused(act, says):
    with pytest.raises(InputError, match=says):
        act()
