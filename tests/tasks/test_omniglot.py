"""Omniglot: the split, the archives, what is kept beside them; and the real drawings where KSHOT_DATA has them."""

import importlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.tasks.labelled import InMemory
from kshot.tasks.omniglot import Omniglot, omniglot, split_of
from kshot.types import InputError, seeded

module = importlib.import_module("kshot.tasks.omniglot")  # kshot.tasks.omniglot as an attribute is the function
real = pytest.mark.skipif(
    not (Path(os.environ.get("KSHOT_DATA", "absent")) / "omniglot").is_dir(),
    reason="the real drawings are needed: set KSHOT_DATA to the folder that holds omniglot/",
)
SMALL = {"images_background": ["Greek", "Hebrew"], "images_evaluation": ["Angelic", "Tibetan"]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Archives like the official ones with two characters of four alphabets."""
    for archive, alphabets in SMALL.items():
        with zipfile.ZipFile(tmp_path / f"{archive}.zip", "w") as file:
            file.writestr(f"{archive}/", "")
            for a, alphabet in enumerate(alphabets):
                for c in (1, 2):
                    for d in range(1, 21):
                        paper = np.full((105, 105), 255, np.uint8)
                        paper[10 * a + d, 5 : 50 * c] = 0
                        content = io.BytesIO()
                        Image.fromarray(paper).convert("1").save(content, "png")
                        file.writestr(
                            f"{archive}/{alphabet}/character{c:02d}/{a}{c:03d}_{d:02d}.png", content.getvalue()
                        )
    monkeypatch.setattr(module, "ARCHIVES", dict.fromkeys(SMALL, (4, "0" * 32)))
    monkeypatch.delenv("KSHOT_DATA", raising=False)
    return tmp_path


def test_the_archives_are_read_once_and_kept(root):
    data = omniglot("trainval", root=root)
    assert data.names[:2] == ("Angelic/character01/rot000", "Angelic/character02/rot000")
    assert data.groups[:2] == ("Angelic/rot000", "Angelic/rot000")
    assert len(data) == 6 * 4
    assert data.count.tolist() == [20] * 24
    assert isinstance(data.storage, InMemory)
    assert data.storage.x.dtype == torch.uint8
    assert data.storage.x.shape == (480, 1, 28, 28)
    ink = data.storage.x.float().mean()
    assert 0 < ink < 60, "ink is bright on black"
    assert sorted(p.name for p in root.iterdir()) == [
        "images_background.zip",
        "images_evaluation.zip",
        "omniglot28.npz",
    ]
    for archive in SMALL:
        (root / f"{archive}.zip").unlink()
    again = omniglot("trainval", root=root)
    assert torch.equal(again.storage.x, data.storage.x)
    assert again.names == data.names


def test_what_was_read_before_is_read_again_when_the_file_is_another(root):
    omniglot("val", root=root)
    first = omniglot("val", root=root)
    assert omniglot("val", root=root) is first
    with np.load(root / "omniglot28.npz") as file:
        other = {**file, "images": 255 - file["images"]}
    np.savez(root / "omniglot28.npz", **other)
    assert torch.equal(omniglot("val", root=root).storage.x, 255 - first.storage.x)


def test_splits_are_disjoint(root):
    parts = [omniglot(split, root=root) for split in ("train", "val", "test")]
    assert [len(p) for p in parts] == [16, 8, 8]
    assert not parts[0].identities & parts[2].identities
    assert {n.split("/")[0] for n in parts[1].names} == {"Hebrew"}


def test_rotations_are_quarter_turns_as_numpy_turns(root):
    data = omniglot("val", root=root)
    upright, turned = data.only(["Hebrew/character02/rot000"]), data.only(["Hebrew/character02/rot090"])
    a, b = upright.storage.read(upright.rows(0))[:, 0], turned.storage.read(turned.rows(0))[:, 0]
    assert np.array_equal(np.rot90(a, 1, (1, 2)), b)


def test_another_size(root):
    assert omniglot("val", root=root, size=20).storage.x.shape == (160, 1, 20, 20)
    assert (root / "omniglot20.npz").is_file()


def test_episodes(root):
    task = Omniglot("train", 5, 2, 3, root=root, small_classes="skip").sample(4, seeded(0))
    assert task.support.x.shape == (4, 10, 1, 28, 28)
    assert task.query.x.dtype == torch.float32
    assert task.query.x.max() <= 1


def test_the_environment_names_the_folder(root, monkeypatch):
    with pytest.raises(InputError, match="KSHOT_DATA"):
        omniglot("val")
    monkeypatch.setenv("KSHOT_DATA", str(root))
    with pytest.raises(InputError, match="download=True"):
        omniglot("val")
    (root / "omniglot").mkdir()
    for archive in SMALL:
        shutil.move(root / f"{archive}.zip", root / "omniglot")
    assert len(omniglot("val")) == 8


def test_download_is_only_when_asked_and_only_what_lacks(root, monkeypatch):
    (root / "images_evaluation.zip").rename(root / "elsewhere.zip")
    asked = []

    def fetch(url, path, md5):
        asked.append(url)
        shutil.copy(root / "elsewhere.zip", path)

    monkeypatch.setattr(module, "fetch", fetch)
    with pytest.raises(InputError, match=r"there is no .*images_evaluation.zip"):
        omniglot("val", root=root)
    assert not asked
    assert len(omniglot("val", root=root, download=True)) == 8
    assert asked == ["https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip"]


def test_archives_that_are_refused(root):
    path = root / "images_background.zip"
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[200:230] = b"\0" * 30
    for content in (whole[: len(whole) // 2], b"<html>", b"", bytes(broken)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"images_background.zip is no whole zip archive"):
            omniglot("val", root=root)
    shutil.copy(root / "images_evaluation.zip", path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("images_evaluation/Greek/character01/1_01.png", "")
    with pytest.raises(InputError, match="holds 5 characters where 4"):
        omniglot("val", root=root)
    assert not list(root.glob("omniglot*"))


def test_kept_drawings_that_are_refused(root):
    kept = root / "omniglot28.npz"
    kept.write_bytes(b"no")
    with pytest.raises(InputError, match="remove it"):
        omniglot("val", root=root)
    np.savez(kept, images=np.zeros((8, 20, 14, 14), np.uint8), names=np.array(["a"] * 8))
    with pytest.raises(InputError, match=r"uint8 of shape \(8, 20, 14, 14\)"):
        omniglot("val", root=root)
    np.savez(kept, images=np.array([{}], dtype=object), names=np.array(["a"]))
    with pytest.raises(InputError, match="remove it"):
        omniglot("val", root=root)


def test_a_folder_that_cannot_be_written_is_only_slower(root, monkeypatch):
    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", denied)
    with pytest.warns(UserWarning, match="read-only for you; .* each start decodes"):
        assert len(omniglot("val", root=root)) == 8
    assert not list(root.glob("*.npz*")) + list(root.glob(".*"))


def test_settings_that_are_refused(root):
    with pytest.raises(InputError, match="no split 'valid'"):
        omniglot("valid", root=root)
    with pytest.raises(InputError, match="size=0"):
        omniglot("val", root=root, size=0)


@real
def test_the_split_is_the_published_one():
    place = Path(os.environ["KSHOT_DATA"]) / "omniglot"
    for split, classes in (("train", 4112), ("val", 688), ("trainval", 4800), ("test", 1692)):
        data = omniglot(split)
        published = (place / "splits_vinyals" / f"{split}.txt").read_text().split()
        assert len(data) == len(published) == classes
        assert set(data.names) == set(published)
        assert (data.count == 20).all()
    assert split_of("Gurmukhi/character41") == "train"


@real
def test_a_real_archive_gives_the_prepared_drawings(tmp_path):
    place = Path(os.environ["KSHOT_DATA"]) / "omniglot"
    with np.load(place / "omniglot28.npz") as file:
        prepared = dict(zip(file["names"].tolist(), file["images"], strict=True))
    with zipfile.ZipFile(place / "images_background.zip") as archive:
        for member in archive.namelist()[::300]:
            _, alphabet, character, name = member.split("/")
            with Image.open(io.BytesIO(archive.read(member))) as image:
                drawn = module.as_square(image, 28, invert=True)[0]
            assert np.array_equal(drawn, prepared[f"{alphabet}/{character}"][int(name[5:7]) - 1])


@real
def test_real_classes_are_all_different():
    identities = [omniglot(split).identities for split in ("train", "val", "test")]
    assert [len(i) for i in identities] == [4112, 688, 1692]
    assert len(frozenset.union(*identities)) == 6492
