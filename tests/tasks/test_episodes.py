"""Episodes: which examples make a task. Example r of the data below is [r, its class]."""

import math

import pytest
import torch

from kshot.tasks import Glyphs
from kshot.tasks.episodes import Episodes, distinct
from kshot.tasks.labelled import Labelled
from kshot.types import InputError, check_task, draw, seeded
from kshot.warps import draw_class_warps, draw_warps, one_after_another
from kshot.warps import warp as warped_by


def numbered(*counts: int) -> Labelled:
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=seeded(0))]
    return Labelled.of(torch.stack([torch.arange(len(y)), y], 1).float(), y)


def lawful(task, ways: int, shots: int | None, queries: int) -> None:
    """Every row belongs to its class, each task has `ways` classes, and no example is on both sides or twice on one."""
    check_task(task, axes=1)
    for t in range(len(task)):
        one = task[t]
        rows = torch.cat([one.support.x[:, 0], one.query.x[:, 0]])
        assert len(rows.unique()) == len(rows)
        of = [one.support.x[one.support.y == c, 1].unique() for c in range(ways)]
        assert all(len(source) == 1 for source in of), "a label stands for one class"
        assert len(torch.cat(of).unique()) == ways, "and a class has one label"
        assert torch.equal(one.query.x[:, 1], torch.cat(of)[one.query.y])
        if shots is not None:
            assert one.support.y.bincount(minlength=ways).tolist() == [shots] * ways
        assert one.query.y.bincount(minlength=ways).tolist() == [queries] * ways


@pytest.mark.parametrize(
    ("ways", "shots", "queries"),
    [(5, 1, 1), (5, 1, 15), (2, 19, 1), (8, 5, 5), (3, 2, 3)],  # few of many, all of few, and all classes
)
def test_support_and_query_are_of_the_right_classes_and_share_nothing(ways, shots, queries):
    episodes = Episodes(numbered(20, 21, 30, 20, 200, 25, 20, 64), ways, shots, queries)
    for seed in range(4):
        lawful(episodes.sample(100, seeded(seed)), ways, shots, queries)


@pytest.mark.parametrize(("m", "k"), [(7, 1), (5, 5), (6, 4), (20, 2), (50, 5)])  # dense and sparse
def test_distinct_is_uniform_over_ordered_choices(m, k):
    n = 20_000
    chosen = distinct(torch.tensor(m).expand(n), k, seeded(m, k))
    assert chosen.shape == (n, k)
    assert (chosen.sort(1).values.diff(dim=1) > 0).all()
    for column in range(k):  # each place is uniform over 0..m-1
        assert chi_square_fits(chosen[:, column].bincount(minlength=m))
    if k > 1:  # and so is each ordered pair
        pair = chosen[:, 0] * (m - 1) + chosen[:, -1] - (chosen[:, -1] > chosen[:, 0]).long()
        assert chi_square_fits(pair.bincount(minlength=m * (m - 1)))


def chi_square_fits(counts: torch.Tensor) -> bool:
    """Within 4.5 standard deviations of what equal chances give (the seed is fixed: no flicker)."""
    expected = counts.sum() / len(counts)
    statistic = float(((counts - expected).square() / expected).sum())
    free = len(counts) - 1
    return abs(statistic - free) < 4.5 * (2 * free) ** 0.5


def test_distinct_of_sizes_that_differ():
    sizes = torch.tensor([[3, 1000], [5, 4]])
    for seed in range(50):
        chosen = distinct(sizes, 3, seeded(seed))
        assert chosen.shape == (2, 2, 3)
        assert (chosen < sizes.unsqueeze(-1)).all()
        assert (chosen.sort(-1).values.diff(dim=-1) > 0).all()


def test_one_huge_class_costs_no_memory():
    sizes = torch.tensor([20, 10**12]).repeat(1000)
    chosen = distinct(sizes, 16, seeded(0))
    assert (chosen[::2] < 20).all()
    assert chosen[1::2].max() > 10**11


def test_the_generator_decides_everything():
    episodes = Episodes(numbered(*[20] * 12), 5, (1, 5), (1, 5))
    a, b = episodes.sample(8, seeded(3)), episodes.sample(8, seeded(3))
    assert torch.equal(a.support.x, b.support.x)
    assert torch.equal(a.query.x, b.query.x)
    assert torch.equal(a.support.y, b.support.y)
    before = torch.get_rng_state()
    other = episodes.sample(8, seeded(4))
    assert not torch.equal(a.support.x.flatten()[:10], other.support.x.flatten()[:10])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_task_says_which_classes_it_is_of():
    episodes = Episodes(numbered(20, 3, 20, 20, 20), 3, 2, 4, small_classes="skip")
    tasks = episodes.sample(50, seeded(0))
    assert tasks.classes.shape == (50, 3)
    assert tasks.classes.dtype == torch.int64
    for task in tasks:
        for half in (task.support, task.query):  # a class of the data is named by what stands in x
            names = [episodes.data.names[c] for c in task.classes[half.y]]
            assert names == [str(int(c)) for c in half.x[:, 1]]
    assert tasks.classes.unique().tolist() == [0, 1, 2, 3]  # of those that were not left out


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 12])
def test_parts_of_a_plan_are_parts_of_the_whole(ranks, shuffle):
    episodes = Episodes(numbered(*[20] * 12), 5, (1, 5), 2, balanced=False, shuffle=shuffle)
    whole = episodes.sample(12, seeded(7))
    size = 12 // ranks
    parts = [draw(episodes, 12, seeded(7), slice(r * size, (r + 1) * size)) for r in range(ranks)]
    assert torch.equal(torch.cat([p.support.x for p in parts]), whole.support.x)
    assert torch.equal(torch.cat([p.query.x for p in parts]), whole.query.x)
    assert torch.equal(torch.cat([p.support.y for p in parts]), whole.support.y)
    assert torch.equal(torch.cat([p.classes for p in parts]), whole.classes)


def test_ways_shots_and_queries_vary_between_batches():
    episodes = Episodes(numbered(*[20] * 12), (2, 6), (1, 4), (2, 3))
    seen = set()
    for seed in range(60):
        task = episodes.sample(3, seeded(seed))
        ways = task.support.ways
        shots, queries = task.support.y.shape[1] // ways, task.query.y.shape[1] // ways
        lawful(task, ways, shots, queries)
        seen.add((ways, shots, queries))
    assert [{s[i] for s in seen} for i in range(3)] == [{2, 3, 4, 5, 6}, {1, 2, 3, 4}, {2, 3}]


def test_imbalance_gives_each_class_its_own_shots():
    episodes = Episodes(numbered(*[20] * 12), 5, (1, 6), 4, balanced=False)
    uneven = 0
    for seed in range(20):
        task = episodes.sample(6, seeded(seed))
        lawful(task, 5, None, 4)
        counts = task.support.y[0].bincount(minlength=5)
        assert 1 <= counts.min() <= counts.max() <= 6
        uneven += int(counts.min() < counts.max())
    assert uneven > 10


@pytest.mark.parametrize("balanced", [True, False])
def test_a_shuffled_support_is_the_same_in_another_order(balanced):
    data, options = numbered(*[20] * 12), {"ways": 4, "shots": (2, 3), "queries": 2, "balanced": balanced}
    in_order = Episodes(data, **options).sample(50, seeded(1))
    shuffled = Episodes(data, **options, shuffle=True).sample(50, seeded(1))
    lawful(shuffled, 4, None, 2)
    assert torch.equal(shuffled.query.x, in_order.query.x)
    assert torch.equal(shuffled.query.y, in_order.query.y)
    for one, other in zip(shuffled, in_order, strict=True):
        place = one.support.x[:, 0].sort().indices, other.support.x[:, 0].sort().indices
        assert torch.equal(one.support.x[place[0]], other.support.x[place[1]])
        assert torch.equal(one.support.y[place[0]], other.support.y[place[1]])
    assert len(shuffled.support.y.unique(dim=0)) > 40  # an order for each task


def test_each_order_of_the_support_is_as_likely():
    y = Episodes(numbered(*[9] * 4), 3, 1, 1, shuffle=True).sample(12_000, seeded(0)).support.y
    assert chi_square_fits((y[:, 0] * 3 + y[:, 1]).bincount(minlength=9)[[1, 2, 3, 5, 6, 7]])


def test_with_shots_keeps_the_classes_the_queries_and_the_order():
    episodes = Episodes(numbered(20, 9, 20, 20, 4), 3, (1, 3), 6, balanced=False, small_classes="skip", shuffle=True)
    more = episodes.with_shots(2)
    assert more.data.names == episodes.data.names == ("0", "1", "2", "3")
    task = more.sample(20, seeded(0))
    lawful(task, 3, 2, 6)
    assert len(task.support.y.unique(dim=0)) > 5
    with pytest.raises(InputError, match="class '1' has 9 examples"):  # not three classes where there were four
        episodes.with_shots(5)


def test_every_class_and_every_example_comes_up():
    data = numbered(*[6] * 10)
    task = Episodes(data, 5, 1, 2).sample(400, seeded(0))
    assert len(torch.cat([task.support.x, task.query.x], 1)[..., 0].unique()) == 60
    assert len(task.support.x[..., 1].unique()) == 10


def test_rotated_classes_are_classes():
    x = torch.rand(12, 1, 3, 3)
    data = Labelled.of(x, torch.arange(12) // 4)
    episodes = Episodes(data.rotated(), 12, 1, 3)
    task = episodes.sample(5, seeded(0))
    everything = torch.stack([x.rot90(k, (-2, -1)) for k in range(4)]).reshape(-1, 9)
    seen = torch.cat([task.support.x, task.query.x], 1)[0].reshape(-1, 9)
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, everything.tolist()))


def test_small_classes_can_be_left_out():
    data = numbered(20, 3, 20, 20)
    with pytest.raises(InputError, match=r"class '1' has 3 examples; 1 shots \+ 5 queries need 6"):
        Episodes(data, 2, 1, 5)
    episodes = Episodes(data, 3, 1, 5, small_classes="skip")
    assert episodes.data.names == ("0", "2", "3")
    assert len(episodes.identities) == 3
    lawful(episodes.sample(50, seeded(0)), 3, 1, 5)


def test_pairs_are_read():
    assert len(Episodes((torch.rand(8, 2), [0, 1] * 4), 2, 1, 3).data) == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ways": 1}, "at least 2 classes"),
        ({"ways": 9}, "9-way tasks need as many classes and the data has 6"),
        ({"shots": 0}, "shots=0"),
        ({"shots": 1.5}, "shots=1.5"),
        ({"shots": "1"}, "shots='1'"),
        ({"queries": (3, 2)}, r"queries=\(3, 2\)"),
        ({"queries": (1, 2, 3)}, "queries="),
        ({"shots": 3, "balanced": False}, "range of shots"),
        ({"small_classes": "drop"}, "small_classes='drop'"),
        ({"shuffle": 3}, "shuffle=3"),
        ({"queries": 30}, "leave the class out"),
        ({"queries": 30, "small_classes": "skip"}, "20 examples"),
    ],
)
def test_settings_that_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        Episodes(numbered(*[20] * 6), **settings)


def test_no_task_is_refused():
    with pytest.raises(InputError, match="0 tasks"):
        Episodes(numbered(*[20] * 6)).sample(0, seeded(0))


def test_warped_images_are_the_same_tasks_seen_a_little_otherwise():
    plain, warped = (Glyphs("train", classes=20, warp=w) for w in (0.0, 1.0))
    a, b = (tasks.sample(3, seeded(1)) for tasks in (plain, warped))
    assert torch.equal(a.classes, b.classes)
    assert torch.equal(a.query.y, b.query.y)
    again = warped.sample(3, seeded(1))
    assert torch.equal(b.support.x, again.support.x)
    assert torch.equal(draw(warped, 3, seeded(1), slice(1, 2)).query.x, b.query.x[1:2])  # a rank's share
    # Near their originals, nearer than other drawings are, and each in its own way.
    near, far = ((a.query.x - other).square().mean() for other in (b.query.x, a.query.x.roll(1, 1)))
    assert 0 < near < far
    assert not torch.equal(b.query.x, a.query.x)
    assert warped.with_shots(2).warp == 1.0


def test_a_warped_class_is_one_class_and_another():
    """Of each class one image, drawn twelve times: alike within a task, as the class is warped, and otherwise in the next."""
    images = torch.rand(4, 1, 12, 12).repeat_interleave(12, 0)
    data = (images, torch.arange(4).repeat_interleave(12))
    tasks = Episodes(data, ways=3, shots=2, queries=4, shuffle=True, warp_classes=3.0)
    task = tasks.sample(40, seeded(0))
    for c in range(3):
        first = task.query.x[:, 4 * c : 4 * c + 1]
        torch.testing.assert_close(task.query.x[:, 4 * c : 4 * c + 4], first.expand(-1, 4, -1, -1, -1))
        at = (task.support.y == c).nonzero()
        torch.testing.assert_close(
            task.support.x[at[:, 0], at[:, 1]].view(40, 2, 1, 12, 12), first.expand(-1, 2, -1, -1, -1)
        )
    originals = images[::12][task.classes][:, :, 0]
    assert ((task.query.x[:, ::4, 0] - originals).abs().mean((2, 3)) > 0.02).all()
    both = Episodes(data, ways=3, shots=2, queries=4, warp=1.0, warp_classes=3.0).sample(2, seeded(0))
    assert (both.query.x[:, 0] - both.query.x[:, 1]).abs().max() > 0.01
    again = tasks.with_shots(1)
    assert (again.warp, again.warp_classes, again.shuffle) == (0.0, 3.0, True)


def test_every_second_class_is_mirrored_and_none_is_shifted():
    drawn = draw_class_warps((4000,), 0.0, seeded(0))
    mirror = torch.diag(torch.tensor([-1.0, 1.0]))
    mirrored = (drawn[..., 0, 0] < 0).float()
    assert abs(float(mirrored.mean()) - 0.5) < 0.03
    for warps in drawn:
        torch.testing.assert_close(warps[:, :2], mirror if warps[0, 0] < 0 else torch.eye(2))
    assert (draw_class_warps((50,), 3.0, seeded(0))[..., 2] == 0).all()


def test_two_warps_are_one():
    """Exact where every sampled place is a pixel: turned by a right angle and moved by whole pixels."""
    x = torch.rand(1, 1, 8, 8)
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    moved = torch.tensor([[[1.0, 0, 2 * 2 / 8], [0, 1, -2 * 1 / 8]]])
    for first, then in ((turned, moved), (moved, turned)):
        by_two = warped_by(warped_by(x, first), then)
        torch.testing.assert_close(warped_by(x, one_after_another(first, then)), by_two)


@pytest.mark.parametrize("name", ["warp", "warp_classes"])
@pytest.mark.parametrize("warp", [-1, 11, True, "much"])
def test_a_warp_that_is_none(name, warp):
    with pytest.raises(InputError, match="how strongly images are warped"):
        Glyphs("train", classes=20, **{name: warp})


def test_only_images_are_warped():
    with pytest.raises(InputError, match="cannot be warped"):
        Episodes((torch.randn(40, 5), torch.arange(40) % 4), ways=2, shots=1, queries=1, warp=1.0)
    with pytest.raises(InputError, match="cannot be warped"):
        Episodes((torch.randn(40, 5), torch.arange(40) % 4), ways=2, shots=1, queries=1, warp_classes=1.0)


def test_a_warp_is_affine_as_it_says():
    """No warp at all at strength 0, and a shift by whole pixels moves pixels."""
    x = torch.rand(2, 1, 10, 10)
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warped_by(x, still), x)
    right = torch.tensor([[1.0, 0, 2 * 3 / 10], [0, 1, 0]]).expand(2, 2, 3)  # looks three pixels to the right
    torch.testing.assert_close(warped_by(x, right)[..., :7], x[..., 3:])
    assert (warped_by(x, right)[..., 7:] == 0).all()
    drawn = draw_warps((500,), 1.0, seeded(0))
    assert drawn.shape == (500, 2, 3)
    assert (drawn[:, :, :2] - torch.eye(2)).abs().max() < 0.35
    assert drawn[:, :, 2].abs().max() <= 0.2
    torch.testing.assert_close(draw_warps((2,), 0.0, seeded(0)), still)


def of_alphabets(sizes: dict[str, int]) -> Labelled:
    """Three examples of each class, all of one value: the number of its class."""
    groups = [name for name, size in sizes.items() for _ in range(size)]
    y = torch.arange(len(groups)).repeat_interleave(3)
    return Labelled.of(y.float().unsqueeze(1), y, groups=groups)


def test_alike_classes_are_of_one_alphabet():
    """Each alphabet as often as it has classes, each of its classes equally often, never one that is too small."""
    data = of_alphabets({"a": 4, "small": 2, "b": 8})
    tasks = Episodes(data, ways=3, shots=1, queries=1, alike=1.0).sample(6000, seeded(0))
    assert (tasks.support.x.squeeze(-1) == tasks.classes).all()
    assert (tasks.classes.sort(1).values.diff(dim=1) > 0).all()
    first = tasks.classes < 4
    assert (first.all(1) | (tasks.classes >= 6).all(1)).all()
    assert abs(first.all(1).float().mean() - 4 / 12) < 0.02
    often = torch.bincount(tasks.classes.flatten(), minlength=14)[[0, 1, 2, 3, *range(6, 14)]] / 6000
    assert (often - 3 / 12).abs().max() < 0.02
    assert abs((tasks.classes[:, 0] < tasks.classes[:, 1]).float().mean() - 0.5) < 0.03, "the order tells nothing"


def test_a_share_of_the_tasks_is_of_alike_classes():
    data = of_alphabets({"a": 20, "b": 20})
    tasks = Episodes(data, ways=5, shots=1, queries=1, alike=0.5)
    alone = (tasks.sample(6000, seeded(0)).classes < 20).float().mean(1)
    by_chance = 2 * math.comb(20, 5) / math.comb(40, 5)
    assert abs(((alone == 0) | (alone == 1)).float().mean() - (0.5 + 0.5 * by_chance)) < 0.02
    assert tasks.with_shots(2).alike == 0.5
    a, b = tasks.sample(4, seeded(1)), tasks.sample(4, seeded(1))
    assert torch.equal(a.classes, b.classes)


def test_groups_stay_with_their_classes():
    data = of_alphabets({"a": 2, "b": 3})
    assert data.only([4, 0]).groups == ("b", "a")
    images = Labelled.of(torch.rand(8, 1, 4, 4), torch.arange(8) // 2, groups=["a", "a", "b", "b"])
    assert images.rotated().groups[:5] == ("a/rot000", "a/rot000", "b/rot000", "b/rot000", "a/rot090")
    some = Labelled.of(torch.rand(5, 2), [0, 0, 1, 1, 2], groups=["a", "a", "b"])  # the last class is small
    with pytest.raises(InputError, match="the largest has 2: lower ways"):
        Episodes(some.only([0, 1]), ways=3, shots=1, queries=1, alike=1.0, small_classes="skip")


@pytest.mark.parametrize("alike", [-0.1, 1.5, True, "half"])
def test_a_share_that_is_none(alike):
    with pytest.raises(InputError, match="give a number from 0 to 1"):
        Episodes(of_alphabets({"a": 5}), ways=3, shots=1, queries=1, alike=alike)


def test_alike_needs_groups():
    with pytest.raises(InputError, match=r"does not say: give Labelled.of\(x, y, groups"):
        Glyphs("train", classes=20, alike=0.5)
    with pytest.raises(InputError, match="2 class groups for 3 classes"):
        Labelled.of(torch.rand(3, 2), [0, 1, 2], groups=["a", "b"])
