"""Each refusal of the auditor meets the fault that it is there for, and an honest twin that passes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kshot
from kshot import Batch, InputError, MetaLearner, Task, recipes
from kshot.audit import ENOUGH, overlap
from kshot.audit.sources import OWN, labels_are_drawn
from kshot.evaluation import measure
from kshot.models import MLP, GaussianPolicy
from kshot.recipes.runs import refuse_recipe
from kshot.tasks import Episodes, Groups, Sinusoids, from_transforms
from kshot.tasks.labelled import Labelled
from kshot.tasks.transforms import KShots, NWays, RemapLabels

QUICK: dict[str, Any] = {"steps": 1, "meta_batch": 2, "progress": False, "vectorize": "loop"}


def drawings(classes: int, seed: int = 0, each: int = 8) -> Tensor:
    """[classes, each, 3]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(classes, 1, 3, generator=g) + 0.1 * torch.randn(classes, each, 3, generator=g)


def labelled(x: Tensor, names: str | None = None) -> Labelled:
    y = torch.arange(len(x)).repeat_interleave(x.shape[1])
    return Labelled.of(x.flatten(0, 1), y, names and [f"{names}{c}" for c in range(len(x))])


def episodes(x: Tensor, names: str | None = None) -> Episodes:
    return Episodes(labelled(x, names), ways=3, shots=2, queries=2)


def protonet() -> kshot.ProtoNet:
    return kshot.ProtoNet(MLP(3, (4,)))


def trained() -> MetaLearner:
    return kshot.fit(protonet(), episodes(drawings(6), "character"), **QUICK)


def evaluate(learner: MetaLearner, tasks: Any, **options: Any) -> kshot.Evaluation:
    return kshot.evaluate(learner, tasks, episodes=20, curves=False, **options)


# Class overlap between splits.


def test_the_same_classes_under_other_names() -> None:
    with pytest.raises(InputError, match=r"6 of the 6 classes to evaluate on .* trained on"):
        evaluate(trained(), episodes(drawings(6), "glyph"))
    evaluate(trained(), episodes(drawings(6, seed=1), "glyph"))


def test_the_same_classes_under_other_names_in_another_order() -> None:
    with pytest.raises(InputError, match=r"6 of the 6 classes to evaluate on .* trained on"):
        evaluate(trained(), episodes(drawings(6).flip(1), "glyph"))


def test_classes_that_begin_with_the_same_blank_examples_are_others() -> None:
    """As devices do that are switched on later."""
    x, other = drawings(6), drawings(6, seed=1)
    x[:, :3] = other[:, :3] = 0
    evaluate(kshot.fit(protonet(), episodes(x, "device"), **QUICK), episodes(other, "machine"))


def test_the_classes_that_the_best_weights_were_chosen_by(tmp_path: Any) -> None:
    validation = episodes(drawings(6, seed=1), "validation")
    learner = kshot.fit(protonet(), episodes(drawings(6), "training"), validate=validation, **QUICK)
    kshot.save(learner, tmp_path / "learner.safetensors")
    for chosen in (learner, kshot.load(tmp_path / "learner.safetensors"), kshot.alone(learner)):
        with pytest.raises(InputError, match=r"6 of the 6 classes .* validated on, .* \(such as validation0\)"):
            evaluate(chosen, validation)
    assert evaluate(learner, validation, allow_seen=True).episodes == 20


def test_a_learner_whose_classes_are_not_known() -> None:
    """Trained by a loop of the user's own."""
    learner, tasks = protonet(), episodes(drawings(6), "character")
    kshot.meta_loss(learner, tasks.sample(2, kshot.seeded(0))).backward()
    assert "which classes the learner was trained on is not known" in " ".join(evaluate(learner, tasks).audit)
    learner.seen = tasks.identities
    with pytest.raises(InputError, match=r"6 of the 6 classes"):
        evaluate(learner, tasks)
    assert "not known" not in " ".join(evaluate(kshot.NearestCentroid(), tasks).audit)  # has nothing to train


def test_other_drawings_of_the_same_names() -> None:
    with pytest.raises(InputError, match=r"6 of the 6 classes .* \(such as character0\)"):
        evaluate(trained(), episodes(drawings(6, seed=1), "character"))


def test_a_seen_class_that_is_saved_and_loaded_is_still_known(tmp_path: Any) -> None:
    kshot.save(trained(), tmp_path / "learner.safetensors")
    with pytest.raises(InputError, match=r"6 of the 6 classes"):
        evaluate(kshot.load(tmp_path / "learner.safetensors"), episodes(drawings(6), "glyph"))


def test_validation_on_the_same_examples_in_another_order_under_another_name() -> None:
    """The first examples differ, so only a look at all of them tells."""
    x = drawings(6)
    with pytest.raises(InputError, match=r"6 classes are in both .* \(such as other0\)"):
        kshot.fit(protonet(), episodes(x, "one"), validate=episodes(x.flip(1)[:, :6], "other"), **QUICK)
    kshot.fit(protonet(), episodes(x, "one"), validate=episodes(drawings(6, seed=1), "other"), **QUICK)


def test_test_classes_that_a_recipe_trains_on_in_other_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training tasks are at hand, so all examples are compared: seven of the twelve are among those of the test."""
    x = drawings(6, each=20)
    monkeypatch.setitem(recipes.SOURCES, "drawn", lambda last: episodes(x[:, :12] if last else x[:, 5:], "ab"[last]))
    learner = {"name": "protonet", "encoder": {"name": "mlp", "inputs": 3, "outputs": 4}}
    tasks = {"name": "drawn", "last": 0, "train": {"last": 1}, "val": False}
    recipe = recipes.Recipe("drawn", {"learner": learner, "tasks": tasks})
    with pytest.raises(InputError, match=r"6 of the 6 classes to evaluate on are ones that the recipe trains on"):
        refuse_recipe(recipe, [recipe.tasks("test")])
    by_a_few = overlap(recipe.tasks("train").identities, recipe.tasks("test").identities)
    assert len(by_a_few) < 6


def test_a_few_common_examples_are_no_overlap() -> None:
    """As blank drawings are, or the same sentence in two classes."""
    x, other = drawings(6), drawings(6, seed=1)
    other[:, 6:] = x[:, 6:]
    learner = kshot.fit(protonet(), episodes(x, "one"), validate=episodes(other, "other"), **QUICK)
    assert len(learner.seen) == 6  # it was trained


# Support and query.


class Overlapping(Episodes):
    """Asks about the very examples that were shown."""

    def plan(self, n: int, generator: torch.Generator) -> Any:
        plan = super().plan(n, generator)
        plan.query[:, 0] = plan.support[:, 0]
        return plan


class Source:
    """Two-way tasks; what `spoil` makes of them."""

    def __init__(self, spoil: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.spoil = spoil

    def sample(self, n: int, generator: torch.Generator) -> Task:
        s, q = torch.randn(2, n, 4, 3, generator=generator)
        s, q = self.spoil(s, q)
        y = torch.tensor([0, 0, 1, 1]).repeat(n, 1)
        return Task(Batch(s, y, 2), Batch(q, y, 2))


def test_an_example_in_both_halves() -> None:
    spoiled = Overlapping(labelled(drawings(6)), ways=3, shots=2, queries=2)
    for use in (lambda: kshot.fit(protonet(), spoiled, **QUICK), lambda: evaluate(protonet(), spoiled)):
        with pytest.raises(InputError, match=r"17 % of the query examples are in the support too"):
            use()
    one_of_four = Source(lambda s, q: (s, torch.cat([s[:, :1], q[:, 1:]], 1)))
    with pytest.raises(InputError, match=r"25 % of the query examples are in the support too"):
        evaluate(protonet(), one_of_four)
    one_of_four.halves_overlap = True  # type: ignore[attr-defined]
    evaluate(protonet(), one_of_four)
    evaluate(protonet(), Source(lambda s, q: (s, q)))


class AsksAboutAll:
    """The classic slip: one example a class is shown, and the 15 to ask about are drawn from all 20, the shown one included."""

    def __init__(self, aside: int = 0) -> None:
        self.x, self.aside = drawings(40, each=20), aside

    def sample(self, n: int, generator: torch.Generator) -> Task:
        support, query = [], []
        for _ in range(n):
            chosen = self.x[torch.randperm(40, generator=generator)[:5]]
            rows = torch.randperm(20, generator=generator)
            support.append(chosen[:, rows[0]])
            asked = rows[self.aside :][torch.randperm(20 - self.aside, generator=generator)[:15]]
            query.append(chosen[:, asked].flatten(0, 1))
        y = torch.arange(5)
        return Task(
            Batch(torch.stack(support), y.repeat(n, 1), 5),
            Batch(torch.stack(query), y.repeat_interleave(15).repeat(n, 1), 5),
        )


def test_a_few_of_the_queries_are_the_support() -> None:
    """One in twenty, give or take: fewer than duplicates may be, but each another example."""
    with pytest.raises(InputError, match=r"4 % of the query examples are in the support too"):
        evaluate(protonet(), AsksAboutAll())
    evaluate(protonet(), AsksAboutAll(aside=1))


def test_data_that_holds_each_example_twice() -> None:
    twice = drawings(6, each=10).repeat(1, 2, 1)
    with pytest.raises(InputError, match="take out what the data holds twice"):
        evaluate(protonet(), Episodes(labelled(twice), ways=3, shots=2, queries=5))
    few_values = torch.randint(3, (6, 20, 1), generator=torch.Generator().manual_seed(0)).float()
    found = evaluate(kshot.ProtoNet(MLP(1, (4,))), Episodes(labelled(few_values), ways=3, shots=1, queries=5))
    assert "as duplicates in the data do" in " ".join(found.audit)  # three values are all that there is


def test_duplicates_in_the_data_are_said_and_not_refused() -> None:
    """One in twenty examples is blank, so that nearly every task has one on both sides."""

    def blank(s: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        s, q = s.clone(), q.clone()
        s[:, 0], q[::5, 0] = 0, 0
        return s, q

    found = evaluate(protonet(), Source(blank))
    assert "5.0 % of the query examples look like one of the support" in " ".join(found.audit)


def test_examples_without_features_of_their_own() -> None:
    """x is [S], such as the number of a word."""

    class Words:
        def sample(self, n: int, generator: torch.Generator) -> Task:
            x = torch.randint(1000, (n, 8), generator=generator)
            y = torch.tensor([0, 0, 1, 1]).repeat(n, 1)
            return Task(Batch(x[:, :4], y, 2), Batch(x[:, 4:], y, 2))

    assert evaluate(kshot.ProtoNet(torch.nn.Embedding(1000, 4)), Words()).episodes == 20


def test_regression_on_a_grid_of_inputs_shares_no_example() -> None:
    class Grid:
        def sample(self, n: int, generator: torch.Generator) -> Task:
            x = torch.arange(4.0).reshape(1, 4, 1).expand(n, 4, 1)
            s, q = torch.randn(2, n, 4, 1, generator=generator)
            return Task(Batch(x, s), Batch(x, q))

    found = evaluate(kshot.MAML(MLP(1, (4,), 1), loss="mse"), Grid())
    assert "support and query share no example" in " ".join(found.audit)


def test_equal_rows_of_few_values_are_no_slip() -> None:
    """Ratings by yes/no answers: a patient's rows are drawn once, and look alike."""
    g = torch.Generator().manual_seed(0)
    answers, ratings = torch.randint(2, (600, 4), generator=g).float(), torch.randint(1, 6, (600,), generator=g)
    tasks = Groups(answers, ratings, [f"user{i // 30}" for i in range(600)], shots=10, queries=15)
    found = evaluate(kshot.MAML(MLP(4, (4,), 1), loss="mse"), tasks)
    assert "of the query examples look like one of the support" in " ".join(found.audit)

    class Slip(Groups):
        def rows(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            support, query = super().rows(n, generator)
            return support, torch.cat([support[:, :1], query[:, 1:]], 1)

    slip = Slip(answers, ratings, [f"user{i // 30}" for i in range(600)], shots=10, queries=15)
    with pytest.raises(InputError, match="of the query examples are in the support too"):
        evaluate(kshot.MAML(MLP(4, (4,), 1), loss="mse"), slip)


# Seeds.


def test_tasks_that_do_not_repeat() -> None:
    unseeded = Source(lambda s, q: (torch.rand_like(s), q))
    with pytest.raises(InputError, match=r"the same seed gave other tasks of this Source .* from the generator"):
        evaluate(protonet(), unseeded)
    with pytest.raises(InputError, match="the same seed gave other tasks"):
        kshot.fit(protonet(), unseeded, **QUICK)


def test_tasks_that_are_the_same_whatever_the_generator() -> None:
    class Deaf(Source):
        def sample(self, n: int, generator: torch.Generator) -> Task:
            return super().sample(n, torch.Generator().manual_seed(0))

    with pytest.raises(InputError, match=r"two generators gave the same tasks of this Deaf, .* interval too narrow"):
        evaluate(protonet(), Deaf(lambda s, q: (s, q)))


def test_the_same_few_tasks_again_and_again() -> None:
    """The interval is over the tasks that differ."""

    class Pool(Source):
        def sample(self, n: int, generator: torch.Generator) -> Task:
            which = torch.randint(5, (n,), generator=generator)
            return super().sample(5, torch.Generator().manual_seed(0))[which]

    pool = Pool(lambda s, q: (s, q))
    learner = kshot.NearestCentroid()
    found = kshot.evaluate(learner, pool, 200, curves=False)
    assert "the 200 tasks are 5 different ones again and again" in " ".join(found.audit)
    assert len(set(found.groups)) == 5
    alone = kshot.evaluate(learner, Source(lambda s, q: (s, q)), 200, curves=False)
    assert not alone.groups
    assert found.interval > 3 * alone.interval


def test_a_test_of_few_classes_is_said_to_be_one() -> None:
    said = "all tasks are of the same 5 classes, 3 at a time"
    assert said in " ".join(evaluate(protonet(), episodes(drawings(5))).audit)
    assert "all tasks are of the same" not in " ".join(evaluate(protonet(), episodes(drawings(12))).audit)


def test_an_evaluation_without_a_seed() -> None:
    for seed in (None, 0.5, "today"):
        with pytest.raises(InputError, match="cannot be repeated"):
            evaluate(protonet(), episodes(drawings(6)), seed=seed)
        with pytest.raises(InputError, match="cannot be repeated"):
            kshot.rl.evaluate(kshot.PolicyMAML(GaussianPolicy(2, 2, (4,))), kshot.rl.Navigation(), 2, seed)  # type: ignore[arg-type]
    assert evaluate(protonet(), episodes(drawings(6)), seed=np.int64(3)).seed == 3
    agent = kshot.PolicyMAML(GaussianPolicy(2, 2, (4,)))
    assert kshot.rl.evaluate(agent, kshot.rl.Navigation(), 2, np.int64(3), curves=False).seed == 3  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"of at most 9,223,372,036,854,775,807"):
        evaluate(protonet(), episodes(drawings(6)), seed=2**63)


# Order.


class Cheat(MetaLearner):
    """Knows that queries come class by class."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = torch.nn.functional.cross_entropy
        self.scale = torch.nn.Parameter(torch.ones(()))

    def adapt(self, support: Batch) -> Batch:
        return support

    def predict(self, fitted: Batch, x: Tensor) -> Tensor:
        assert fitted.ways is not None
        place = torch.arange(len(x)) // (len(x) // fitted.ways)
        return self.scale * torch.eye(fitted.ways)[place]


class Positional(Cheat):
    """Takes the first example for class 0, whatever its label says."""

    def predict(self, fitted: Batch, x: Tensor) -> Tensor:
        assert fitted.ways is not None
        means = fitted.x.reshape(fitted.ways, -1, 3).mean(1)
        return -torch.cdist(x, means) * self.scale


class Hinted(Cheat):
    """Compares with class means, and where two are nearly as near, takes the one whose queries come at this place."""

    def predict(self, fitted: Batch, x: Tensor) -> Tensor:
        assert fitted.ways is not None
        means = kshot.NearestCentroid().adapt(fitted)
        return (super().predict(fitted, x) * 0.3 - torch.cdist(x, means)) * self.scale


class InOrder(Positional):
    order_free = False


def test_labels_read_off_the_order() -> None:
    for cheat in (Cheat(), Positional()):
        with pytest.raises(InputError, match=r"% of the predictions of \w+ change when examples are shuffled"):
            evaluate(cheat, episodes(drawings(6)))
    found = evaluate(InOrder(), episodes(drawings(6)))
    assert "query (the support is read in order) is shuffled" in " ".join(found.audit)


def test_a_hint_from_the_order_that_changes_few_predictions() -> None:
    """As a learner that is right nine times out of ten would need it."""
    x = drawings(20, each=40)
    x += 0.4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    tasks = Episodes(labelled(x), ways=3, shots=5, queries=15)
    honest, helped = (
        measure(learner, tasks, 200, 0, curves=False).mean for learner in (kshot.NearestCentroid(), Hinted())
    )
    assert honest > 0.9
    assert 0.01 < helped - honest < 0.05
    with pytest.raises(InputError, match=r"[1-9] % of the predictions of Hinted change when examples are shuffled"):
        evaluate(Hinted(), tasks)
    evaluate(kshot.NearestCentroid(), tasks)


def test_a_hint_where_queries_are_few() -> None:
    """Five predictions a task: many tasks are asked before a share of them means something."""
    x = drawings(20, each=40)
    x += 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    tasks = Episodes(labelled(x), ways=5, shots=1, queries=1)
    with pytest.raises(InputError, match="of the predictions of Hinted change when examples are shuffled"):
        evaluate(Hinted(), tasks)
    evaluate(kshot.NearestCentroid(), tasks)


class Centred(torch.nn.Module):
    """Its output for one example hangs on the others of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        centred: Tensor = self.linear(x - x.mean(0))
        return centred


def test_queries_that_help_each_other_in_secret() -> None:
    with pytest.raises(InputError, match=r"ProtoNet says that it is not transductive, and \d\d % of the first queries"):
        evaluate(kshot.ProtoNet(Centred()), episodes(drawings(6)))

    class Halves(kshot.NearestCentroid):
        def predict(self, fitted: Any, x: Tensor) -> Tensor:
            return super().predict(fitted, x.reshape(2, -1, 3).flatten(0, 1))

    assert "a query that comes alone cannot be predicted" in " ".join(evaluate(Halves(), episodes(drawings(6))).audit)
    found = evaluate(kshot.MAML(MLP(3, (4,), 3)), episodes(drawings(6)))
    assert "a query is predicted alike when it comes alone" in found.audit


class Chaotic(Cheat):
    """Makes much of rounding, as many steps of learning may: two sums in another order end with other predictions."""

    def adapt(self, support: Batch) -> Tensor:  # type: ignore[override]
        return functools.reduce(torch.add, support.x)  # one after the other, each sum rounded

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        z = (fitted + x).sin().square()
        for _ in range(40):
            z = 4 * z * (1 - z)
        return z * self.scale


def test_making_much_of_rounding_is_no_cheat() -> None:
    tasks = Episodes(labelled(drawings(6, each=40)), ways=3, shots=30, queries=2)
    said = " ".join(evaluate(Chaotic(), tasks).audit)
    found = re.search(r"(\d+) % of the predictions stay the same when support and query are shuffled", said)
    assert found
    assert int(found[1]) < 90  # more than what is passed over without rounding for a reason


def test_a_class_that_always_has_the_same_label() -> None:
    class Fixed(Episodes):
        def choose_classes(self, n: int, ways: int, generator: torch.Generator) -> Tensor:
            return torch.arange(ways).repeat(n, 1)

    with pytest.raises(InputError, match=r"the same label in 100 % of the pairs of tasks .* chance gives 33 %"):
        kshot.fit(protonet(), Fixed(labelled(drawings(6)), ways=3, shots=2, queries=2), **QUICK)
    kshot.fit(protonet(), Episodes(labelled(drawings(3)), ways=3, shots=2, queries=2), **QUICK)  # numbered anew


def test_a_class_whose_label_can_be_guessed() -> None:
    """Numbered in order, an early class is nearly always 0."""

    class Sorted(Episodes):
        def choose_classes(self, n: int, ways: int, generator: torch.Generator) -> Tensor:
            return super().choose_classes(n, ways, generator).sort(1).values

    data = labelled(drawings(40))
    for use in (kshot.fit, evaluate):
        with pytest.raises(InputError, match="number the classes of each task anew"):
            use(protonet(), Sorted(data, ways=3, shots=2, queries=2), **(QUICK if use is kshot.fit else {}))  # type: ignore[operator]
    asked_for = from_transforms(data, [NWays(3), KShots(2, queries=2), RemapLabels(shuffle=False)])
    assert "in their order, as the source was told" in " ".join(evaluate(protonet(), asked_for).audit)


class Listed:
    """Two-way tasks of a source that is not Episodes; `number` numbers the classes of each."""

    def __init__(self, classes: int, number: Callable[[Tensor], Tensor]) -> None:
        self.x, self.number = drawings(classes), number

    def sample(self, n: int, generator: torch.Generator) -> Task:
        drawn = torch.stack([torch.randperm(len(self.x), generator=generator)[:2] for _ in range(n)])
        classes = self.number(drawn)
        s, q = self.x[classes][:, :, :2].flatten(1, 2), self.x[classes][:, :, 2:].flatten(1, 2)
        y = torch.arange(2)
        halves = (Batch(x, y.repeat_interleave(x.shape[1] // 2).repeat(n, 1), 2) for x in (s, q))
        return Task(*halves, classes)


def test_a_label_that_can_be_guessed_among_many_classes() -> None:
    """Two tasks seldom share a class: more of them are looked at, and if that does not do, it is said."""
    with pytest.raises(InputError, match="number the classes of each task anew"):
        evaluate(protonet(), Listed(300, lambda classes: classes.sort(1).values))
    found = evaluate(protonet(), Listed(300, lambda classes: classes))
    assert "numbered anew" in " ".join(found.audit)
    found = evaluate(protonet(), Listed(20000, lambda classes: classes))
    assert "too few tasks share a class to tell" in " ".join(found.audit)


class Nameless:
    """Tasks of three classes, from a source that does not say which they are of."""

    def __init__(self, anew: bool) -> None:
        self.x, self.anew = drawings(3, each=20), anew

    def sample(self, n: int, generator: torch.Generator) -> Task:
        support, query = [], []
        for _ in range(n):
            classes = torch.randperm(3, generator=generator) if self.anew else torch.arange(3)
            rows = torch.randperm(20, generator=generator)
            support.append(self.x[classes][:, rows[:2]].flatten(0, 1))
            query.append(self.x[classes][:, rows[2:6]].flatten(0, 1))
        y = torch.arange(3)
        return Task(
            Batch(torch.stack(support), y.repeat_interleave(2).repeat(n, 1), 3),
            Batch(torch.stack(query), y.repeat_interleave(4).repeat(n, 1), 3),
        )


def test_a_fixed_label_where_the_source_does_not_name_its_classes() -> None:
    """The same example comes with the same label, again and again."""
    with pytest.raises(InputError, match="number the classes of each task anew"):
        evaluate(protonet(), Nameless(anew=False))
    with pytest.raises(InputError, match="number the classes of each task anew"):
        kshot.fit(protonet(), Nameless(anew=False), **QUICK)
    assert "the classes of each task are numbered anew" in evaluate(protonet(), Nameless(anew=True)).audit


@pytest.mark.parametrize("ways", [2, 3])
def test_honest_labels_of_few_classes_are_not_refused_at_any_seed(ways: int) -> None:
    """Where all classes are in every task, the labels of one hang together, and chance strays further."""
    tasks = Episodes(labelled(drawings(ways)), ways=ways, shots=2, queries=2)
    for seed in range(300):
        assert labels_are_drawn(tasks, seed) == "the classes of each task are numbered anew"


# Validation and test tasks.


def test_no_task_of_an_evaluation_is_one_of_training_or_validation() -> None:
    """Without classes nothing but the generators keeps them apart; all seeds are 0, as by default, and all batches alike."""

    class Spy(Sinusoids):
        def __init__(self) -> None:
            super().__init__()
            self.drawn_from: set[int] = set()

        def sample(self, n: int, generator: torch.Generator) -> Task:
            self.drawn_from.add(generator.initial_seed())
            return super().sample(n, generator)

    train, validate, test = Spy(), Spy(), Spy()
    learner = kshot.MAML(MLP(1, (4,), 1), loss="mse")
    settings = {"meta_batch": 20, "progress": False, "validate_episodes": 40, "vectorize": "vmap", "compile": False}
    kshot.fit(learner, train, validate=validate, steps=4, **settings)  # type: ignore[arg-type]
    for seed in (0, 1):
        measure(learner, test, 80, seed, curves=False)
    looked_at = {
        kshot.seeded(0, *place).initial_seed() for place in ((0,), (1, OWN), (2, OWN, 0))
    }  # by the auditor, before
    steps = {kshot.seeded(0, step).initial_seed() for step in range(4)}
    assert train.drawn_from == steps | looked_at
    assert len(validate.drawn_from - looked_at) == 2
    assert not (validate.drawn_from - looked_at) & steps
    assert len(test.drawn_from) == 8
    assert not test.drawn_from & (train.drawn_from | validate.drawn_from)


# Few tasks.


def test_few_tasks_are_said_to_be_few() -> None:
    with pytest.raises(InputError, match=r"episodes=100, and papers average over 600 .* few = true"):
        recipes.read("sinusoid-maml", ["evaluation.episodes=100"])
    assert recipes.read("sinusoid-maml", ["evaluation.episodes=100", "evaluation.few=true"]).episodes == 100
    found = evaluate(protonet(), episodes(drawings(6)))
    assert found.few
    assert "fewer than papers use" in str(found)
    enough = kshot.evaluate(protonet(), episodes(drawings(6)), ENOUGH, curves=False)
    assert not enough.few
    assert "fewer" not in str(enough)


# And what is said where nothing is wrong.


def test_what_was_checked_is_said_in_the_evaluation_and_the_run(tmp_path: Any) -> None:
    learner = kshot.fit(
        protonet(), episodes(drawings(6), "a"), validate=episodes(drawings(6, 1), "b"), out=tmp_path, **QUICK
    )
    said = " ".join(evaluate(learner, episodes(drawings(7, seed=2), "c")).audit)
    for sentence in (
        "none of the 7 classes is among the 6 of training, by name, or by three of its examples",
        "seed 0 gives the same tasks again",
        "support and query share no example",
        "all predictions stay the same when support and query are shuffled",
    ):
        assert sentence in said
    assert "the classes of each task are numbered anew" in (tmp_path / "run.json").read_text()
