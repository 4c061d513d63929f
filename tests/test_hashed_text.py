"""HashedText: what it does not look at does not matter, and it differentiates twice."""

import math

import pytest
import torch

import kshot
from kshot.models import HashedText
from kshot.tasks import Intents, hash_texts
from kshot.types import InputError, seeded
from kshot.vectorize import pieces
from tests.conftest import write_intents

TEXTS = ["where is my card", "please block the account now", ""]
SIZES = {"buckets": 512, "lexical": 128, "width": 8}


def built(**options):
    """With weights and a last layer that are not those of the start."""
    model = HashedText(**{**SIZES, **options}).double().eval()
    with torch.no_grad():
        model.log_weight.normal_(0, 0.5)
        model.embedding.normal_()
        model.body[-1].weight.normal_()
    return model


def tasks(tmp_path, n=3):
    write_intents(tmp_path)
    return Intents("train", 3, 2, 4, dataset="SMALL", root=tmp_path, length=64).sample(n, seeded(0))


def test_features_and_outputs():
    x = hash_texts(TEXTS)
    assert HashedText(**SIZES)(x).shape == (3, 136)
    assert HashedText(**SIZES).features == 136
    assert HashedText(5, **SIZES)(x).shape == (3, 5)


def test_the_order_of_words_does_not_matter():
    one, other = built()(hash_texts(["from euros to dollars", "to dollars from euros"]))
    torch.testing.assert_close(one, other)


def test_padding_does_not_matter():
    model = built()
    torch.testing.assert_close(model(hash_texts(TEXTS, length=100)), model(hash_texts(TEXTS, length=400)))
    x = hash_texts(TEXTS)
    torch.testing.assert_close(model(x.flip(1)), model(x))  # nor where it is


def test_a_text_does_not_depend_on_its_neighbours():
    model, x = built(), hash_texts(TEXTS)
    torch.testing.assert_close(torch.cat([model(row.unsqueeze(0)) for row in x]), model(x))


def test_untrained_it_compares_counts():
    model = HashedText(buckets=512, lexical=1 << 16, width=8).double().eval()
    a, b = hash_texts(["where is my card", "where was the card"])
    lexical = model(torch.stack([a, b]))[:, : 1 << 16]
    sets = [set(row[row != 0].tolist()) for row in (a, b)]
    cosine = len(sets[0] & sets[1]) / (len(sets[0]) * len(sets[1])) ** 0.5
    assert float((lexical[0] @ lexical[1]).detach()) == pytest.approx(cosine, abs=1e-9)


def test_vmap_equals_the_loop(tmp_path):
    learner = kshot.ProtoNet(built(), distance="cosine").double().eval()
    several, found = tasks(tmp_path), []
    for way in ("vmap", "loop"):
        losses = torch.cat(list(pieces(learner.loss, several, way)))
        found.append((losses, torch.autograd.grad(losses.mean(), list(learner.parameters()))))
    torch.testing.assert_close(*found)


def test_second_derivatives_are_finite_and_right():
    model, x = built(buckets=16, lexical=8, width=3), hash_texts(TEXTS, length=12)
    names = [name for name, _ in model.named_parameters()]

    def outputs(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())
    first = torch.autograd.grad(outputs(*values).square().sum(), values, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), values)
    assert all(bool(torch.isfinite(g).all()) for g in (*first, *second))
    assert second[0].abs().max() > 0
    assert torch.autograd.gradgradcheck(outputs, values, fast_mode=True)


def test_a_blank_text_has_finite_derivatives_of_both_orders():
    model = built()
    values = tuple(model.parameters())
    first = torch.autograd.grad(
        model(hash_texts([""])).square().sum(), values, create_graph=True, materialize_grads=True
    )
    second = torch.autograd.grad(sum(g.square().sum() for g in first), values, materialize_grads=True)
    assert all(bool(torch.isfinite(g).all()) for g in (*first, *second))


def test_dropout_is_for_training():
    model, x = built(dropout=0.5), hash_texts(TEXTS)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert not torch.allclose(model(x), model(x))
    still = built(dropout=0.0).train()
    torch.testing.assert_close(still(x), still(x))


def test_a_saved_one_is_rebuilt(tmp_path):
    learner = kshot.ProtoNet(HashedText(**SIZES, dropout=0.1), distance="cosine")
    kshot.save(learner, tmp_path / "words.safetensors")
    again = kshot.load(tmp_path / "words.safetensors")
    assert (again.encoder.buckets, again.encoder.dropout) == (512, 0.1)
    x = hash_texts(TEXTS)
    torch.testing.assert_close(again.eval().encoder(x), learner.eval().encoder(x))


def test_bad_input():
    model = HashedText(**SIZES)
    for x in (torch.rand(2, 8), hash_texts(TEXTS)[0], hash_texts(TEXTS).int()):
        with pytest.raises(InputError, match=r"rows of n-gram numbers are needed, int64 \[B, L\].*hash_texts"):
            model(x)
    for dropout in (1, -0.1, 1.5):
        with pytest.raises(InputError, match="give 0 to below 1"):
            HashedText(dropout=dropout)
    for name in ("outputs", "buckets", "lexical", "width"):
        with pytest.raises(InputError, match=name):
            HashedText(**{name: 0})


def test_the_loss_falls(tmp_path):
    several = tasks(tmp_path, 4)
    learner = kshot.ProtoNet(HashedText(**SIZES), distance="cosine")
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)

    def loss():
        with torch.no_grad():
            return float(kshot.meta_loss(learner.eval(), several, "loop"))

    before = loss()
    for _ in range(20):
        optimizer.zero_grad()
        kshot.meta_loss(learner.train(), several, "loop").backward()
        optimizer.step()
    assert loss() < 0.8 * before


def test_training_begins_with_the_rarity_of_each_n_gram() -> None:
    """fit shows the model all training sentences once, and an n-gram's first weight is its inverse document frequency."""
    texts = ["pay the bill", "pay the card", "pay the rent", "lost the card"] * 2
    x = hash_texts(texts, 32)
    model = HashedText(buckets=1 << 16, lexical=64, width=4)
    model.meet(x)

    def weight(word: str) -> float:
        first = int(hash_texts([word], 32)[0, 0]) % model.buckets
        return float(model.log_weight[first].detach().exp())

    for word, documents in (("the", 8), ("pay", 6), ("card", 4), ("rent", 2), ("unheard", 0)):
        assert weight(word) == pytest.approx(math.log(9 / (1 + documents)) + 1, rel=1e-4)

    tasks = kshot.tasks.Episodes((x, torch.arange(2).repeat(4)), ways=2, shots=1, queries=2)
    fresh = HashedText(buckets=1 << 16, lexical=64, width=4)
    kshot.fit(kshot.ProtoNet(fresh, distance="cosine"), tasks, steps=1, meta_batch=1, lr=1e-12, progress=False)
    torch.testing.assert_close(fresh.log_weight, model.log_weight, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        fresh.log_weight.add_(1)
    learner = kshot.ProtoNet(fresh, distance="cosine")
    learner.seen = tasks.identities  # as after a training
    kshot.fit(learner, tasks, steps=1, meta_batch=1, lr=1e-12, progress=False)
    torch.testing.assert_close(fresh.log_weight, model.log_weight + 1, rtol=1e-4, atol=1e-6)  # it is not begun anew
