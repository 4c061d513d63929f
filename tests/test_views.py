"""Views: what it averages, in which mode, and that it goes through settings and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import kshot
from kshot import settings
from kshot.models import Conv4, Views
from kshot.types import seeded


def test_it_averages_over_the_image_and_its_warps_in_eval_mode_only() -> None:
    views = Views(Conv4(width=3, norm="none"), views=3, strength=0.7).double()
    x = torch.rand(4, 1, 28, 28).double()
    torch.testing.assert_close(views(x), views.encoder(x))
    views.eval()
    by_hand = [
        views.encoder(
            F.grid_sample(x, F.affine_grid(w.expand(4, 2, 3), [4, 1, 28, 28], align_corners=False), align_corners=False)
        )
        for w in views.warps
    ]
    torch.testing.assert_close(by_hand[0], views.encoder(x))  # the first is the image
    for one, other in ((0, 1), (1, 2)):
        assert (by_hand[one] - by_hand[other]).abs().max() > 1e-3
    torch.testing.assert_close(views(x), torch.stack(by_hand).mean(0))
    one = Views(views.encoder, views=1).eval()
    torch.testing.assert_close(one(x), views.encoder(x))


def test_maps_are_averaged_too() -> None:
    views = Views(Conv4(width=3, norm="none", halvings=2, flat=False), views=2).eval()
    assert views(torch.rand(5, 1, 28, 28)).shape == (5, 3, 7, 7)


def test_the_warps_are_the_same_each_time() -> None:
    torch.testing.assert_close(
        Views(Conv4(width=2), views=5).warps, Views(Conv4(width=2), views=5).warps, rtol=0, atol=0
    )


def test_a_learner_with_views_is_saved_and_loaded(tmp_path: Path) -> None:
    made = settings.build(
        {
            "name": "protonet",
            "batch_norm": "tracked",
            "encoder": {"name": "views", "views": 2, "encoder": {"name": "conv4", "width": 4, "norm": "running"}},
        },
        "learner",
    )
    tasks = kshot.tasks.Glyphs("train", ways=3, queries=2, classes=6)
    kshot.fit(made, tasks, steps=2, meta_batch=2, progress=False)
    kshot.save(made, tmp_path / "learner.safetensors")
    again = kshot.load(tmp_path / "learner.safetensors")
    task = tasks.sample(1, seeded(0))[0]
    with torch.no_grad():
        torch.testing.assert_close(again(task.support, task.query.x), made.eval()(task.support, task.query.x))
    assert again.encoder.views == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"views": 0}, "views=0"), ({"strength": 0}, "strength=0"), ({"strength": "1"}, "strength='1'")],
)
def test_wrong_values_are_named(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(kshot.InputError, match=words):
        Views(Conv4(width=2), **wrong)  # type: ignore[arg-type]
