"""Images decoded when they are read, and folders of them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.tasks import images as images_module
from kshot.tasks.episodes import Episodes
from kshot.tasks.files import labelled
from kshot.tasks.images import Images, as_square, from_folder
from kshot.tasks.labelled import Labelled
from kshot.types import InputError, seeded


def noise(seed: int, *shape: int) -> np.ndarray:
    """Dark borders, so that nothing is inverted."""
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    x[[0, -1]] = 0
    x[:, [0, -1]] = 0
    return x


@pytest.fixture
def folder(tmp_path):
    """Three classes, one of them nested, four 8×8 images each; example i of class c is noise(10 c + i)."""
    for c, name in enumerate(("Greek/character01", "Greek/character02", "Latin")):
        (tmp_path / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(noise(10 * c + i, 8, 8)).save(tmp_path / name / f"{i}.png")
        (tmp_path / name / ".hidden.png").write_text("no image")
        (tmp_path / name / "notes.txt").write_text("no image")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("no image")
    return tmp_path


def in_memory() -> Labelled:
    x = np.stack([noise(10 * c + i, 8, 8)[None] for c in range(3) for i in range(4)])
    return Labelled.of(x, [c for c in range(3) for _ in range(4)], ["Greek/character01", "Greek/character02", "Latin"])


def test_a_folder_gives_what_memory_gives(folder):
    lazy, known = from_folder(folder, size=8), in_memory()
    assert lazy.names == known.names
    assert {i.partition("#")[0] for i in lazy.identities} == {i.partition("#")[0] for i in known.identities}
    a = Episodes(lazy, 3, 1, 3).sample(5, seeded(1))
    b = Episodes(known, 3, 1, 3).sample(5, seeded(1))
    assert torch.equal(a.support.x, b.support.x)
    assert torch.equal(a.query.x, b.query.x)
    a, b = (Episodes(d.rotated(), 5, 1, 3).sample(5, seeded(1)) for d in (lazy, known))
    assert torch.equal(a.query.x, b.query.x)
    assert labelled(str(folder)).storage.read(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 1, 28, 28)


def test_a_link_back_up_is_not_followed_for_ever(folder):
    (folder / "Greek" / "loop").symlink_to(folder)
    assert len(from_folder(folder)) == 3


def test_nothing_is_opened_before_it_is_read(folder, monkeypatch):
    opened = []
    decode = images_module.as_square
    monkeypatch.setattr(images_module, "as_square", lambda *a: opened.append(1) or decode(*a))
    data = from_folder(folder, size=8)
    assert not opened
    data.storage.read(torch.tensor([[0, 1], [1, 0]]))
    assert len(opened) == 2
    data.storage.read(torch.tensor([1, 2]))
    assert len(opened) == 3


def test_the_cache_keeps_its_bound_and_its_latest(folder):
    data = from_folder(folder, size=8, cache_mb=5 * 64 / 2**20)  # 5 images
    known = in_memory()
    images = data.storage
    for seed in range(30):
        rows = torch.randint(12, (seed % 9 + 1,), generator=seeded(seed))
        assert torch.equal(images.read(rows), known.storage.read(rows))
        assert images.cached_bytes <= 5 * 64
    for row in (0, 1, 2, 3, 4, 0, 5):
        images.read(torch.tensor([row]))
    assert sorted(images._row.tolist()) == [0, 2, 3, 4, 5], "1 was used longest ago"
    none = from_folder(folder, size=8, cache_mb=0).storage
    assert torch.equal(none.read(torch.arange(12)), images.read(torch.arange(12)))
    assert none.cached_bytes == 0


def test_several_threads_may_read(folder):
    images, known = from_folder(folder, size=8, cache_mb=6 * 64 / 2**20).storage, in_memory().storage

    def look(seed: int) -> bool:
        rows = torch.randint(12, (7,), generator=seeded(seed))
        return torch.equal(images.read(rows), known.read(rows))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(300)))
    kept = images._row[images._row >= 0]
    assert torch.equal(images._row[images._slot[kept]], kept)
    assert int((images._slot >= 0).sum()) == len(kept)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif"])
def test_formats(tmp_path, suffix):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8), 60, np.uint8)).save(tmp_path / name / f"0.{suffix.upper()}")
    assert torch.allclose(
        from_folder(tmp_path, size=8).storage.read(torch.tensor([0])), torch.tensor(60 / 255), atol=0.02
    )


def test_ink_on_paper_is_inverted_and_ink_on_black_is_not():
    paper = np.full((8, 8), 250, np.uint8)
    paper[3:5, 3:5] = 10
    assert np.array_equal(as_square(Image.fromarray(paper), 8)[0], 255 - paper)
    assert np.array_equal(as_square(Image.fromarray(255 - paper), 8)[0], 255 - paper)
    assert np.array_equal(as_square(Image.fromarray(paper), 8, invert=False)[0], paper)
    assert np.array_equal(as_square(Image.fromarray(255 - paper), 8, invert=True)[0], paper)
    assert as_square(Image.fromarray(paper), 8, channels=3).min() == 10


def test_proportions_are_kept():
    wide = Image.new("L", (16, 8), 30)
    wide.paste(200, (4, 0, 12, 8))
    x = as_square(wide, 16, invert=False)[0]
    assert (x[4:12, 4:12] == 200).all()
    assert (x[:4] == 30).sum() + (x[:4] == 200).sum() == 64
    assert as_square(wide, 4, channels=3).shape == (3, 4, 4)


def test_sixteen_bits_transparency_palettes_and_turned_photographs():
    deep = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    assert (as_square(deep, 8) == 100).all()
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (3, 3, 5, 5))
    assert as_square(clear, 8)[0, 3, 3] == 255, "black ink on white paper, inverted"
    assert as_square(clear, 8)[0, 0, 0] == 0
    palette = Image.new("RGB", (8, 8), (200, 0, 0)).quantize(4)
    assert as_square(palette, 8, channels=3)[:, 0, 0].tolist() == [200, 0, 0]
    turned = Image.new("L", (8, 8), 0)
    turned.paste(100, (0, 0, 8, 2))
    turned.getexif()[0x0112] = 3  # upside down
    assert as_square(turned, 8, invert=False)[0, :, 0].tolist() == [0] * 6 + [100] * 2


@pytest.mark.parametrize("content", [b"", b"no image at all", "half"])
def test_a_broken_image_is_named_when_it_is_read(folder, content):
    path = folder / "Latin" / "2.png"
    path.write_bytes(path.read_bytes()[:60] if content == "half" else content)
    data = from_folder(folder)
    data.storage.read(torch.arange(10))
    with pytest.raises(InputError, match=r"Latin.2\.png cannot be read"):
        data.storage.read(torch.arange(12))


def test_folders_that_are_refused(folder, monkeypatch):
    def refused(path, says):
        with pytest.raises(InputError, match=says):
            from_folder(path)

    refused(folder / "absent", "there is no folder")
    refused(folder / "README.md", "is a file")
    refused(folder / "Greek" / "character01", "outside of any class folder")
    (folder / "Latin2").mkdir()
    refused(folder, "class folder 'Latin2'")
    refused(folder / "Latin2", "holds 0 class folders")
    (folder / "Latin2").rmdir()
    (folder / "one" / "class").mkdir(parents=True)
    (folder / "one" / "class" / "0.png").write_text("")
    refused(folder / "one", "holds 1 class folder")

    def denied(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(images_module.os, "scandir", denied)
    refused(folder, "cannot be listed")


@pytest.mark.parametrize("settings", [{"size": 0}, {"channels": 2}, {"invert": "maybe"}, {"cache_mb": -1}])
def test_image_settings_that_are_refused(folder, settings):
    with pytest.raises(InputError, match="do not describe images"):
        from_folder(folder, **settings)


def test_images_need_no_folder():
    storage = Images(lambda row: Image.new("L", (4, 4), row), 5, size=4)
    assert (storage.read(torch.tensor([[4, 2]]))[0, :, 0, 0, 0] * 255).round().tolist() == [4, 2]
