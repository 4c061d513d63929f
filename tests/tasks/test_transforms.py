"""Tasks from named steps: they are those of Episodes, and a turned class is turned as a whole, by an angle of its own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import kshot
from kshot.models import Conv4
from kshot.tasks.episodes import Episodes
from kshot.tasks.labelled import Labelled
from kshot.tasks.transforms import (
    ConsecutiveLabels,
    FilterLabels,
    KShots,
    LoadData,
    NWays,
    RandomClassRotation,
    RemapLabels,
    RotationsAsClasses,
    from_transforms,
)
from kshot.types import InputError, check_task, draw, seeded

CLASSES, EACH = 12, 8
X = torch.rand(CLASSES * EACH, 1, 4, 4, generator=seeded(0))
Y = torch.arange(CLASSES).repeat_interleave(EACH)
TURNED = torch.stack([X.rot90(k, (-2, -1)) for k in range(4)]).flatten(2)  # [4, M, 16]
QUARTERS = [0, 90, 180, 270]


def where(x):
    """x [K, 1, 4, 4] -> (turn, row of X) of each, found by comparing."""
    same = (TURNED.unsqueeze(2) == x.flatten(1)).all(-1)  # [4, M, K]
    assert (same.sum((0, 1)) == 1).all()
    turn, row, example = same.nonzero().T
    return turn[example.argsort()], row[example.argsort()]


def same(a, b):
    return all(
        torch.equal(p, q)
        for p, q in (
            (a.support.x, b.support.x),
            (a.support.y, b.support.y),
            (a.query.x, b.query.x),
            (a.query.y, b.query.y),
        )
    ) and torch.equal(a.classes, b.classes)


def test_ways_and_shots_alone_are_episodes():
    for ways, shots, queries in ((5, 1, 3), ((2, 6), (1, 3), 2)):
        ours = from_transforms((X, Y), [NWays(ways), KShots(shots, queries)])
        plain = Episodes((X, Y), ways, shots, queries)
        assert ours.varies == plain.varies
        assert ours.identities == plain.identities
        for seed in range(3):
            assert same(ours.sample(6, seeded(seed)), plain.sample(6, seeded(seed)))


def test_a_list_written_for_learn2learn_runs():
    steps = [NWays(5), KShots(1, queries=1), LoadData(), RemapLabels(), ConsecutiveLabels()]
    source = from_transforms(TensorDataset(X, Y), steps)
    assert same(source.sample(4, seeded(0)), Episodes((X, Y), 5, 1, 1).sample(4, seeded(0)))


def test_filtered_labels_are_the_data_s_own():
    y = torch.tensor([30, 7, 100, 8]).repeat(5)
    x = torch.stack([y, torch.arange(20)], 1).float()
    for labels in ([100, 7, 30], torch.tensor([7, 30, 100]), ["7", "30", "100"], {7, 30, 100}):
        source = from_transforms((x, y), [FilterLabels(labels), NWays(3), KShots(2, queries=2)])
        assert source.data.names == ("7", "30", "100")  # in the data's order
        assert set(source.sample(20, seeded(0)).support.x[..., 0].unique().tolist()) == {7, 30, 100}
    twice = [FilterLabels([7, 30, 100]), FilterLabels([7, 30]), NWays(2), KShots(1, 1)]
    assert from_transforms((x, y), twice).data.names == ("7", "30")


def test_labels_in_order_or_at_random():
    def tasks(*steps):
        return from_transforms((X, Y), [NWays(5), KShots(2, queries=3), *steps]).sample(200, seeded(0))

    ordered, random = tasks(RemapLabels(shuffle=False)), tasks(RemapLabels())
    assert (ordered.classes.diff(dim=1) > 0).all()
    assert not (random.classes.diff(dim=1) > 0).all()
    assert same(random, tasks())
    assert torch.equal(ordered.classes.unique(), torch.arange(CLASSES))
    for task in ordered[:10]:
        check_task(task)
        for half in (task.support, task.query):
            turn, row = where(half.x)
            assert (turn == 0).all()
            assert torch.equal(Y[row], task.classes[half.y])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("options", [{}, {"shuffle": True}])
def test_each_class_of_a_task_has_a_rotation_of_its_own(options, ordered):
    steps = [NWays(4), KShots(2, queries=3), RandomClassRotation(QUARTERS)]
    plain = [*steps[:2], *([RemapLabels(shuffle=False)] if ordered else [])]
    upright = from_transforms((X, Y), plain, **options).sample(60, seeded(1))
    source = from_transforms((X, Y), [*plain, steps[2]], **options)
    tasks = source.sample(60, seeded(1))
    check_task(tasks, axes=1)
    assert torch.equal(tasks.classes, upright.classes)
    seen = []
    for task, still in zip(tasks, upright, strict=True):
        turns = torch.full((4,), -1)
        for half, still_half in ((task.support, still.support), (task.query, still.query)):
            turn, row = where(half.x)
            assert torch.equal(row, where(still_half.x)[1])  # the examples of Episodes, and nothing but turned
            assert torch.equal(Y[row], task.classes[half.y])
            turns[half.y] = torch.where(turns[half.y] < 0, turn, turns[half.y])
            assert torch.equal(turns[half.y], turn)  # alike within a class, in support and query
        seen.append(turns)
    turns = torch.stack(seen)  # [60, 4]
    assert (turns.min(1).values < turns.max(1).values).sum() > 50  # and different within a task
    assert torch.equal(turns.unique(), torch.arange(4))
    assert len({tuple(t.tolist()) for t in turns}) > 40  # drawn anew for each


def test_only_the_angles_that_were_asked_for():
    source = from_transforms((X, Y), [NWays(6), KShots(1, 1), RandomClassRotation([-90, 180, 540])])
    turn, _ = where(source.sample(50, seeded(0)).support.x.flatten(0, 1))
    assert turn.unique().tolist() == [2, 3]
    assert 0.55 < float((turn == 2).float().mean()) < 0.8  # two of the three angles


def test_rotations_are_repeated_exactly_and_read_by_parts():
    source = from_transforms((X, Y), [NWays(3), KShots(2, queries=2), RandomClassRotation(QUARTERS)])
    before = torch.get_rng_state()
    whole, again = source.sample(12, seeded(5)), source.sample(12, seeded(5))
    assert same(whole, again)
    assert not torch.equal(whole.support.x, source.sample(12, seeded(6)).support.x)
    assert torch.equal(torch.get_rng_state(), before)
    parts = [draw(source, 12, seeded(5), slice(a, a + 4)) for a in (0, 4, 8)]
    for name in ("support", "query"):
        assert torch.equal(torch.cat([getattr(p, name).x for p in parts]), getattr(whole, name).x)
    assert torch.equal(torch.cat([p.classes for p in parts]), whole.classes)


def test_with_shots_keeps_the_steps():
    steps = [FilterLabels(range(6)), NWays(4), KShots(1, queries=2), RemapLabels(False), RandomClassRotation(QUARTERS)]
    source = from_transforms((X, Y), steps, shuffle=True)
    more = source.with_shots(3).with_shots(5)
    assert (more.ways, more.shots, more.queries, more.shuffle) == (4, 5, 2, True)
    assert more.identities == source.identities
    tasks = more.sample(20, seeded(0))
    assert tasks.support.x.shape == (20, 20, 1, 4, 4)
    assert (tasks.classes.diff(dim=1) > 0).all()
    assert where(tasks.support.x.flatten(0, 1))[0].unique().tolist() == [0, 1, 2, 3]


def test_rotations_as_classes_are_the_data_s_rotated():
    steps = [FilterLabels([3, 5]), RotationsAsClasses(), NWays(8), KShots(1, queries=2), RemapLabels(shuffle=False)]
    source = from_transforms((X, Y), steps)
    assert source.data.names[:3] == ("3/rot000", "5/rot000", "3/rot090")
    task = source.sample(1, seeded(0))[0]
    turn, row = where(task.support.x)
    assert turn.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert Y[row].tolist() == [3, 5] * 4
    kept = FilterLabels(["3/rot090", "4/rot180"])
    some = from_transforms((X, Y), [RotationsAsClasses(), kept, NWays(2), KShots(1, 1)])
    assert some.data.names == ("3/rot090", "4/rot180")


def test_classes_that_were_seen_turned_are_still_refused():
    data = Labelled.of(X, Y)
    steps = [NWays(3), KShots(1, queries=2), RandomClassRotation([90, 180])]
    source, others = from_transforms(data.only(range(6)), steps), from_transforms(data.only(range(6, 12)), steps)
    assert not source.identities & others.identities
    learner = kshot.ProtoNet(Conv4(width=2, size=16, norm="group", down="stride"))
    learner.seen = source.identities
    for again in (data.only([5, 7]), data.rotated().only(["5/rot090", "7/rot000"])):
        with pytest.raises(InputError, match="1 of the 2 classes"):
            kshot.evaluate(learner, Episodes(again, 2, 1, 2), 2)
    assert not learner.seen & data.rotated().only(["5/rot270", "7/rot000"]).identities


@pytest.mark.parametrize("kind", ["torch", "folder", "hugging face"])
def test_any_data_that_episodes_takes(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 6), dtype=np.uint8)
    pixels[:, [0, -1]] = pixels[:, :, [0, -1]] = 0  # a dark border, so that nothing is inverted
    images = [Image.fromarray(p) for p in pixels]
    if kind == "torch":
        data = [(torch.from_numpy(p)[None], i // 4) for i, p in enumerate(pixels)]
        data = kshot.tasks.from_dataset(data, label=lambda item: item[1])
    elif kind == "folder":
        for i, image in enumerate(images):
            (tmp_path / f"{i // 4}").mkdir(exist_ok=True)
            image.save(tmp_path / f"{i // 4}" / f"{i:02d}.png")
        data = kshot.tasks.from_folder(tmp_path, size=6)
    else:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "2"])})
        data = datasets.Dataset.from_dict({"image": images, "label": [i // 4 for i in range(12)]}, features=features)
    source = from_transforms(data, [FilterLabels([0, 2]), NWays(2), KShots(1, queries=3), RandomClassRotation([0, 90])])
    assert source.data.names == ("0", "2")
    tasks = source.sample(30, seeded(0))
    upright = torch.from_numpy(pixels).float() / 255
    found = set()
    for task in tasks:
        for c in range(2):
            x = torch.cat([task.support.x[task.support.y == c], task.query.x[task.query.y == c]])[:, 0]
            of = upright[4 * (0, 2)[task.classes[c]] :][:4]
            turn = next(
                k
                for k in (0, 1)
                if {*map(bytes, x.rot90(-k, (1, 2)).contiguous().numpy())} == {*map(bytes, of.numpy())}
            )
            found.add((int(task.classes[c]), turn))
    assert found == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_learner_trains_on_them():
    x = torch.rand(80, 1, 16, 16)
    source = from_transforms((x, torch.arange(8).repeat(10)), [NWays(3), KShots(2, 2), RandomClassRotation(QUARTERS)])
    learner = kshot.ProtoNet(Conv4(width=2, size=16, norm="group", down="stride"))
    kshot.fit(learner, source, steps=2, meta_batch=2, progress=False)
    assert learner.seen == source.identities
    found = kshot.evaluate(learner, source, 4, allow_seen=True, curve_episodes=2)
    assert [point.at for point in found.shots_curve] == [1, 2, 3, 5]  # ten examples a class, two of them queries


GOOD = [NWays(3), KShots(1, queries=2)]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([KShots(1)], r"\['KShots'\] have no NWays: .* add NWays\(5\)"),
        ([NWays(5)], r"have no KShots: .* add KShots\(1, queries=15\)"),
        ([], "have no NWays"),
        ([KShots(1), NWays(5)], "NWays stands after KShots: .* move NWays forward"),
        ([*GOOD, FilterLabels([1])], "FilterLabels stands after KShots"),
        ([*GOOD, RotationsAsClasses()], "RotationsAsClasses stands after KShots"),
        ([RandomClassRotation([0]), *GOOD], "NWays stands after RandomClassRotation"),
        ([NWays(3), *GOOD], "NWays stands 2 times"),
        ([*GOOD, RandomClassRotation([0]), RandomClassRotation([90])], "RandomClassRotation stands 2 times"),
        ([NWays, KShots(1)], "the class NWays"),
        ([X, *GOOD], "a Tensor: objects of kshot.tasks.transforms"),
        (NWays(3), "the steps are a NWays"),
        ([NWays("five"), KShots(1)], "ways='five'"),
        ([NWays(3), KShots(0)], "shots=0"),
        ([NWays(13), KShots(1, 1)], "13-way tasks need"),
        ([FilterLabels([1, 99]), *GOOD], "no class is called '99'"),
        ([FilterLabels([]), *GOOD], "an empty list of classes"),
        ([FilterLabels("12"), *GOOD], "labels='12'"),
        ([FilterLabels(1), *GOOD], "labels=1"),
        ([*GOOD, RemapLabels(X)], "shuffle of type Tensor: .* the data is given once"),
        ([*GOOD, RandomClassRotation([0, 45])], r"degrees=\[0, 45\]: quarter turns"),
        ([*GOOD, RandomClassRotation([])], r"degrees=\[\]"),
        ([*GOOD, RandomClassRotation(90)], "degrees=90"),
        ([RotationsAsClasses(), *GOOD, RandomClassRotation([0, 90])], "turns of others already, such as '11/rot270'"),
    ],
)
def test_steps_that_are_refused(steps, says):
    with pytest.raises(InputError, match=says):
        from_transforms((X, Y), steps)


@pytest.mark.parametrize("shape", [(1, 4, 5), (16,)])
@pytest.mark.parametrize("turn", [[RotationsAsClasses(), *GOOD], [*GOOD, RandomClassRotation(QUARTERS)]])
def test_only_squares_can_be_turned(turn, shape):
    with pytest.raises(InputError, match="cannot be rotated: square images"):
        from_transforms((torch.rand(96, *shape), Y), turn)
    lazily = kshot.tasks.from_dataset([(x, int(y)) for x, y in zip(torch.rand(96, *shape), Y, strict=True)], label=Y)
    with pytest.raises(InputError, match="cannot be rotated: square images"):
        from_transforms(lazily, turn)


def test_one_order_of_the_support():
    with pytest.raises(InputError, match=r"ConsecutiveLabels sorts .* leave one of them out"):
        from_transforms((X, Y), [*GOOD, ConsecutiveLabels()], shuffle=True)
