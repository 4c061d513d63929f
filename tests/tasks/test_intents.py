"""Intents: the classes of files are the classes of tasks; a sentence is the same numbers everywhere."""

import json
import subprocess
import sys

import pytest
import torch

import kshot
from kshot.models import HashedText
from kshot.tasks import Intents, hash_texts
from kshot.tasks.intents import sentences
from kshot.types import InputError, check_task, seeded
from tests.conftest import write_intents

SPLITS = {"train": "train", "val": "valid", "test": "test"}
SIZES = {"ways": 3, "shots": 2, "queries": 4}


@pytest.fixture
def root(tmp_path):
    write_intents(tmp_path)
    return tmp_path


def small(root, split="train", **options):
    return Intents(split, dataset="SMALL", root=root, **{**SIZES, **options})


def test_shapes(root):
    tasks = small(root, length=50).sample(3, seeded(0))
    check_task(tasks, axes=1)
    assert tasks.support.x.shape == (3, 6, 50)
    assert tasks.query.x.shape == (3, 12, 50)
    assert tasks.support.x.dtype == torch.int64
    assert tasks.support.ways == 3


def test_each_split_has_its_own_classes(root):
    sources = {split: small(root, split) for split in SPLITS}
    for split, source in sources.items():
        lines = (root / "SMALL" / "splits" / "01" / f"labels.{SPLITS[split]}.txt").read_text().split()
        assert sorted(source.data.names) == sorted(lines)
        for other in SPLITS:
            assert split == other or not source.identities & sources[other].identities


def test_the_generator_decides(root):
    one, same, other = (small(root).sample(2, seeded(k)) for k in (1, 1, 2))
    assert torch.equal(one.support.x, same.support.x)
    assert torch.equal(one.query.x, same.query.x)
    assert not torch.equal(one.query.x, other.query.x)


def test_a_task_holds_the_sentences_of_its_classes(root):
    source = small(root)
    task = source.sample(1, seeded(0))[0]
    records = [json.loads(line) for line in (root / "SMALL" / "full.jsonl").read_text().splitlines()]
    for row, y in zip(task.query.x, task.query.y, strict=True):
        name = source.data.names[task.classes[y]]
        assert any(torch.equal(row, hash_texts([r["sentence"]])[0]) for r in records if r["label"] == name)


def test_options_of_episodes_and_the_root_of_the_environment(root, monkeypatch):
    (root / "data").mkdir()
    (root / "data" / "intents").symlink_to(root)
    monkeypatch.setenv("KSHOT_DATA", str(root / "data"))
    there = Intents("val", dataset="SMALL", **SIZES, shuffle=True)
    assert there.shuffle
    assert there.identities == small(root, "val").identities


def test_sentences_are_those_of_the_file(root):
    path = root / "SMALL" / "full.jsonl"
    texts = [json.loads(line)["sentence"] for line in path.read_text().splitlines()]
    assert sentences("SMALL", root) == texts
    odd = {"sentence": "two\u2028lines\x85in one", "label": "about_a"}  # such signs end no line of JSON
    path.write_text("\ufeff" + path.read_text() + json.dumps(odd, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert sentences("SMALL", root) == [*texts, odd["sentence"]]


# What is refused, and how it is said.


def test_the_place_must_be_known(monkeypatch):
    monkeypatch.delenv("KSHOT_DATA", raising=False)
    with pytest.raises(InputError, match=r"give root='a folder'.*KSHOT_DATA"):
        Intents()


def test_unknown_names(root):
    with pytest.raises(InputError, match="no split 'valid': choose one of train, val, test"):
        small(root, "valid")
    with pytest.raises(InputError, match=r"choose a dataset that .* has, SMALL"):
        Intents(dataset="LARGE", root=root)
    with pytest.raises(InputError, match="has no dataset, check root"):
        Intents(dataset="SMALL", root=root / "nowhere")


@pytest.mark.parametrize("fold", [True, "01", 1.0, None])
def test_a_fold_is_a_whole_number(root, fold):
    with pytest.raises(InputError, match=r"fold=.* give a whole number"):
        small(root, fold=fold)


def test_a_fold_that_is_not_there(root):
    with pytest.raises(InputError, match=r"fold=2 needs this file .* folds there are 01"):
        small(root, fold=2)


def place(root, split):
    return root / "SMALL" / "splits" / "01" / f"labels.{split}.txt"


def test_a_missing_label_file(root):
    place(root, "valid").unlink()
    with pytest.raises(InputError, match=r"labels\.valid\.txt cannot be read"):
        small(root)


def test_a_label_without_sentences_and_an_empty_file(root):
    before = place(root, "test").read_text()
    place(root, "test").write_text(before + "about_nothing\n")
    with pytest.raises(
        InputError, match=r"labels\.test\.txt names the class 'about_nothing', which full\.jsonl has no"
    ):
        small(root)
    place(root, "test").write_text("\n")
    with pytest.raises(InputError, match=r"labels\.test\.txt is empty"):
        small(root)


def test_splits_that_overlap(root):
    place(root, "test").write_text(place(root, "test").read_text() + "about_a\n")
    with pytest.raises(InputError, match=r"'about_a' in both labels\.train\.txt and labels\.test\.txt"):
        small(root)


# Sentences as numbers.

TEXTS = ["Where is my card?", "naïve café, 3 £", "", "日本語 text"]


def test_the_same_numbers_in_another_process():
    code = "import json, sys; from kshot.tasks import hash_texts; print(hash_texts(json.loads(sys.argv[1])).tolist())"
    command = [sys.executable, "-c", code, json.dumps(TEXTS)]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(other) == hash_texts(TEXTS).tolist()


def test_neither_letter_case_nor_unicode_form_nor_blanks_matter():
    for one, other in (
        ("Where IS it", "where is it"),
        ("caf\u00e9", "cafe\u0301"),
        ("\ufb01ne", "fine"),
        ("a  b?", "a\tb ?\n"),
    ):
        assert torch.equal(*hash_texts([one, other])), (one, other)
    assert not torch.equal(*hash_texts(["card", "cart"]))


def test_rows_are_padded_and_cut():
    (row,) = hash_texts(["where is my card"])
    count = int((row != 0).sum())
    assert (row[:count] > 0).all()  # in front, and zeros behind
    assert row.max() < 1 << 62
    assert len(set(row[:count].tolist())) == count
    assert torch.equal(hash_texts(["where is my card"], length=4)[0], row[:4])
    assert torch.equal(*hash_texts(["where is my card", "where is my card card is"]))  # each n-gram once


def test_blank_and_very_long_texts():
    rows = hash_texts(
        ["", " \t\n", "word " * 100_000, " ".join(f"w{i}" for i in range(20_000)), "x" * 50_000], length=32
    )
    assert not rows[:2].any()
    assert rows[3].all()
    assert 0 < int((rows[4] != 0).sum()) < 32  # long, and the same piece over and over
    assert torch.equal(rows[2], hash_texts(["word"], length=32)[0])
    assert hash_texts([]).shape == (0, 256)


def test_bad_texts():
    with pytest.raises(InputError, match=r"one text .* write hash_texts\(\[text\]\)"):
        hash_texts("where is my card")
    with pytest.raises(InputError, match="a NoneType was given where a text is needed"):
        hash_texts(["where", None])
    for length in (0, -1, 2.5, "8", True):
        with pytest.raises(InputError, match="no number of n-grams: give a whole number of at least 1"):
            hash_texts(["where"], length=length)


# The published data.


@pytest.mark.parametrize("dataset", ["BANKING77", "HWU64", "CLINC150"])
def test_published_splits_are_disjoint(kshot_data, dataset):
    folder = kshot_data / "intents" / dataset
    with (folder / "full.jsonl").open(encoding="utf-8") as file:
        known = {json.loads(line)["label"] for line in file}
    for fold in range(1, 6):
        parts = [
            (folder / "splits" / f"{fold:02d}" / f"labels.{split}.txt").read_text().split("\n")
            for split in SPLITS.values()
        ]
        parts = [[line.strip() for line in part if line.strip()] for part in parts]
        assert all(parts)
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert set().union(*parts) <= known
    sources = [Intents(split, dataset=dataset, fold=5) for split in SPLITS]
    assert [sorted(source.data.names) for source in sources] == [sorted(part) for part in parts]
    assert not sources[0].identities & sources[2].identities


def test_untrained_it_is_far_above_chance(kshot_data):
    learner = kshot.ProtoNet(HashedText(), distance="cosine")
    found = kshot.evaluate(learner, Intents("test", root=kshot_data / "intents"), episodes=40, curves=False)
    assert found.mean > 0.6  # of five classes
