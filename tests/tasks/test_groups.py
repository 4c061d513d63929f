"""Groups: one regression task a group. Example r is [r, its group], its value 10 · r."""

from pathlib import Path

import pytest
import torch

import kshot
from kshot.models import MLP
from kshot.tasks import Groups, Parkinsons
from kshot.types import InputError, check_task, seeded


def rows(*counts: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    groups = [f"device {g}" for g, count in enumerate(counts) for _ in range(count)]
    order = torch.randperm(len(groups), generator=seeded(0)).tolist()
    groups = [groups[i] for i in order]
    x = torch.stack([torch.arange(len(groups)), torch.tensor([int(g[-1]) for g in groups])], 1).float()
    return x, 10 * x[:, 0], groups


def test_a_task_is_of_one_group_and_its_halves_are_apart():
    tasks = Groups(*rows(9, 7, 12), shots=3, queries=4)
    batch = tasks.sample(50, seeded(1))
    check_task(batch, axes=1)
    assert batch.support.x.shape == (50, 3, 2)
    assert batch.query.y.shape == (50, 4, 1)
    for i in range(50):
        both = torch.cat([batch.support.x[i], batch.query.x[i]])
        assert len(both[:, 1].unique()) == 1
        assert len(both[:, 0].unique()) == 7
        assert torch.equal(torch.cat([batch.support.y[i], batch.query.y[i]])[:, 0], 10 * both[:, 0])
    assert set(batch.support.x[:, 0, 1].tolist()) == {0, 1, 2}
    again = tasks.sample(50, seeded(1))
    assert torch.equal(again.query.x, batch.query.x)


def test_parts_share_no_group_and_know_each_other():
    tasks = Groups(*rows(*[6] * 9), shots=2, queries=2)
    train, test = tasks.split(0.6, 0.4, seed=3)
    assert not train.identities & test.identities
    assert len(train.identities) + len(test.identities) == 9
    learner = kshot.fit(kshot.RidgeNet(MLP(2, (4,)), loss="mse"), train, steps=1, meta_batch=2, progress=False)
    kshot.evaluate(learner, test, 20, curves=False)
    with pytest.raises(InputError, match="5 of the 9 classes"):
        kshot.evaluate(learner, tasks, 20, curves=False)


def test_a_curve_over_shots_ends_where_examples_do():
    tasks = Groups(*rows(9, 9), shots=2, queries=5)
    assert tasks.with_shots(4).sample(2, seeded(0)).support.x.shape == (2, 4, 2)
    with pytest.raises(InputError, match=r"has 9 examples; 5 shots \+ 5 queries need 10"):
        tasks.with_shots(5)


def test_small_groups_are_left_out_or_named():
    with pytest.raises(InputError, match=r"group 'device 1' has 3 examples; 2 shots \+ 2 queries need 4: .*skip"):
        Groups(*rows(6, 3), shots=2, queries=2)
    assert Groups(*rows(6, 3), shots=2, queries=2, small_groups="skip").data.names == ("device 0",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shots": 0}, "shots=0"),
        ({"queries": "many"}, "queries='many'"),
        ({"small_groups": "drop"}, "small_groups='drop'"),
        ({"y": torch.randn(3)}, "came with 3 values"),
        ({"y": torch.full((12,), float("nan"))}, "NaN or infinite"),
        ({"groups": ["a"]}, "came with 1 labels"),
    ],
)
def test_what_is_wrong_is_said(change, said):
    x, y, groups = rows(6, 6)
    with pytest.raises(InputError, match=said):
        Groups(**{"x": x, "y": y, "groups": groups, "shots": 2, "queries": 2, **change})


def test_patients(kshot_data: Path):
    train, val, test = (Parkinsons(split) for split in ("train", "val", "test"))
    assert [len(tasks.data) for tasks in (train, val, test)] == [25, 7, 10]
    assert not train.identities & test.identities
    known = torch.cat([train.examples(), val.examples()])
    torch.testing.assert_close(known.mean(0), torch.zeros(17), rtol=0, atol=1e-4)
    batch = test.sample(3, seeded(0))
    assert batch.support.x.shape == (3, 10, 17)
    assert Parkinsons("test", day=False).sample(1, seeded(0)).query.x.shape == (1, 60, 16)
    assert 5 < float(batch.query.y.min()) <= float(batch.query.y.max()) < 40  # motor_UPDRS


def test_patients_that_are_not_there(tmp_path: Path):
    with pytest.raises(InputError, match="has no split 'all'"):
        Parkinsons("all", root=tmp_path)
    with pytest.raises(InputError, match="put the file of UCI's data set 189 there"):
        Parkinsons(root=tmp_path)
    (tmp_path / "parkinsons_updrs.data").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="rows of 22 numbers are needed"):
        Parkinsons(root=tmp_path)
