import math

import pytest
import torch

from kshot.tasks import glyphs
from kshot.tasks.glyphs import SPLITS, draw_glyphs
from kshot.types import InputError


@pytest.fixture(scope="module")
def drawn():
    """Glyphs [100 classes, 20 examples, 28, 28]."""
    return draw_glyphs(100)


def test_same_arguments_draw_the_same_images(drawn):
    assert torch.equal(draw_glyphs(100), drawn)


def test_the_global_generator_is_neither_read_nor_moved(drawn):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(draw_glyphs(3), drawn[:3])
    assert torch.equal(torch.get_rng_state(), before)


def test_more_classes_extend_the_earlier_ones(drawn):
    assert torch.equal(draw_glyphs(300)[:100], drawn)
    assert torch.equal(draw_glyphs(1), drawn[:1])


def test_more_examples_extend_the_earlier_ones(drawn):
    assert torch.equal(draw_glyphs(7, 150)[:, :20], drawn[:7])
    assert torch.equal(draw_glyphs(7, 1), drawn[:7, :1])


def test_chunks_do_not_show(drawn, monkeypatch):
    monkeypatch.setattr(glyphs, "_SKETCHED_AT_ONCE", 13)
    monkeypatch.setattr(glyphs, "_INKED_AT_ONCE", 6)
    assert torch.equal(draw_glyphs(100), drawn)


def test_the_default_dtype_does_not_show(drawn):
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(draw_glyphs(5), drawn[:5])
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_image_appears_in_two_splits_or_seeds(drawn):
    worlds = [draw_glyphs(100, split=split) for split in SPLITS] + [draw_glyphs(100, seed=1)]
    assert torch.equal(worlds[0], drawn)
    images = torch.cat(worlds).flatten(2).flatten(0, 1)
    assert len(images.unique(dim=0)) == len(images)


def test_the_scrambling_that_keeps_streams_apart_is_one_to_one():
    numbers = torch.cat([torch.arange(50_000), -torch.arange(1, 50_000), torch.arange(50_000) << 44])
    assert len(glyphs._mix(numbers).unique()) == len(numbers.unique())


def test_uniforms_are_uniform():
    uniforms = glyphs._uniforms(torch.arange(1000), 200)
    assert uniforms.min() > 0
    assert uniforms.max() < 1
    assert abs(uniforms.mean() - 0.5) < 0.003
    assert abs(uniforms.var() - 1 / 12) < 0.001
    assert torch.corrcoef(uniforms[:, :20].T).fill_diagonal_(0).abs().max() < 0.15


@pytest.mark.parametrize("size", [8, 20, 28, 64, 105])
def test_any_size_shows_the_same_glyphs(size, drawn):
    images = draw_glyphs(10, 4, size=size)
    assert images.shape == (10, 4, size, size)
    assert images.dtype == torch.uint8
    ink, expected = images.float().mean((2, 3)) / 255, drawn[:10, :4].float().mean((2, 3)) / 255
    # A pen is never thinner than a pixel can show, so small images hold more ink.
    assert (ink > 0.6 * expected).all()
    assert (ink < expected * max(1.3, 30 / size)).all()


def test_ink_looks_like_a_pen_on_paper(drawn):
    ink = drawn.float() / 255
    assert 0.05 < ink.mean() < 0.11
    assert ((ink.mean((2, 3)) > 0.01) & (ink.mean((2, 3)) < 0.3)).all()
    assert (drawn.flatten(2).amax(-1) > 200).all(), "every glyph has full ink somewhere"
    assert (drawn == 0).float().mean() > 0.75
    grey = ((ink > 0.02) & (ink < 0.98)).sum() / (ink > 0.02).sum()
    assert 0.4 < grey < 0.95, "edges are smoothed"


def test_examples_differ_and_resemble_their_class(drawn):
    images = drawn.flatten(2).float() / 255
    assert len(images.flatten(0, 1).unique(dim=0)) == 2000
    centres = images[:, :10].mean(1)
    distances = torch.cdist(images[:, 10:].flatten(0, 1), centres)
    label = torch.arange(100).repeat_interleave(10)
    within = distances[torch.arange(1000), label].mean()
    between = (distances.sum() - within * 1000) / (distances.numel() - 1000)
    assert within < 0.9 * between
    accuracy = (distances.argmin(1) == label).float().mean()
    assert 0.3 < accuracy < 0.95, "pixels tell classes apart far above chance, 0.01, yet leave something to learn"


def test_a_straight_line_has_the_same_ink_however_densely_it_is_dotted():
    def line(points):
        along = torch.linspace(0.2, 0.8, points)
        dots = torch.stack([along, torch.full_like(along, 0.5)], -1).view(1, 1, points, 2)
        spacing = torch.full((1, 1, 1), 0.6 / (points - 1))
        return glyphs._ink(dots, spacing, torch.full((1, 1, 1), 0.022), 28)[0, 0]

    middle = slice(8, 20)
    assert (line(40)[:, middle].int() - line(400)[:, middle].int()).abs().max() <= 3
    # One row of pixels below and one above the line, at a distance of half a pixel each.
    radius = 0.022 * 28
    expected = 0.5 + (math.exp(-0.5 * (0.5 / radius) ** 2) - 0.5) * 2 * radius
    assert abs(line(400)[13, 14].item() / 255 - expected) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "found classes=0; classes must be a whole number from 1 up"),
        ({"classes": 2.5}, "found classes=2.5"),
        ({"classes": True}, "found classes=True"),
        ({"classes": 5, "examples": 0}, "found examples=0"),
        ({"classes": 5, "size": 7}, "found size=7; size must be a whole number from 8 up"),
        ({"classes": 5, "seed": -1}, "found seed=-1"),
        ({"classes": 5, "seed": 2**63}, "found seed="),
        ({"classes": 5, "split": "dev"}, "found split 'dev'; the splits are train, val, test: choose one"),
    ],
)
def test_bad_arguments_say_what_is_needed(arguments, message):
    with pytest.raises(InputError, match=message):
        draw_glyphs(**arguments)
