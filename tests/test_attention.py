"""Attention as people write it, in every way to differentiate: what the fused kernels cannot do is seen to, unasked.

The reference is the same model with softmax(q kᵀ / √d) v written out in the place of torch's function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kshot
from kshot import Task, meta_loss
from kshot.hypergradients import Evolution, Hypergradient, hypergradient
from kshot.rules import SGD
from tests.conftest import classification
from tests.test_laws import central_difference, gradients

EXACT = ["unrolled", "mixed-mode", "mixed-mode:2", "checkpoint:2", "truncated:9"]
OTHERS = ["first-order", "truncated:1", "finite-difference", "implicit:cg", Evolution(pairs=2)]


def written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    assert dropout_p == 0
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal and attn_mask is None:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ v


class Words(nn.Module):
    """[B, 12] as 3 words of 4 numbers, something with attention, a head."""

    def __init__(self, layer: nn.Module, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.layer, self.head, self.apply_layer = layer, nn.Linear(8, 3), run or (lambda layer, x: layer(x))
        self.embed = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.apply_layer(self.layer, self.embed(x.reshape(len(x), 3, 4))).mean(1))
        return out


class ByName(nn.Module):
    def __init__(self, **choices: Any) -> None:
        super().__init__()
        self.into, self.choices = nn.Linear(8, 24), choices

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.into(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, **self.choices).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A decoder block as pretrained language models have it: root-mean-square norms, rotary positions, fewer heads of keys and
    values than of queries, a causal mask, a gated feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = (
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 4, bias=False),
            nn.Linear(8, 8, bias=False),
        )
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((8, 10), (8, 10), (10, 8)))
        self.before, self.between = nn.RMSNorm(8), nn.RMSNorm(8)
        angles = torch.outer(torch.arange(3.0), torch.tensor([1.0]))
        self.register_buffer("cos", angles.cos().double(), persistent=False)
        self.register_buffer("sin", angles.sin().double(), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        q = self.q(h).unflatten(-1, (4, 2)).transpose(1, 2)
        k, v = (t.unflatten(-1, (1, 2)).transpose(1, 2) for t in self.kv(h).chunk(2, -1))
        a = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True, enable_gqa=True)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        h = self.between(x)
        out: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


def encoder(**choices: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, activation="gelu", **choices)


CAUSAL = torch.ones(3, 3, dtype=torch.bool).triu(1)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "function": lambda: Words(ByName()),
    "function, causal": lambda: Words(ByName(is_causal=True)),
    "function, masked": lambda: Words(ByName(attn_mask=~CAUSAL)),
    "multihead": lambda: Words(nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x)[0]),
    "multihead, causal, no weights": lambda: Words(
        nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, x: m(x, x, x, attn_mask=CAUSAL, is_causal=True, need_weights=False)[0],
    ),
    "encoder": lambda: Words(encoder(dropout=0.0)),
    "encoder, norm first, causal": lambda: Words(
        encoder(dropout=0.0, norm_first=True), lambda m, x: m(x, src_mask=CAUSAL, is_causal=True)
    ),
    "encoder in eval mode": lambda: Words(encoder(dropout=0.3)).eval(),
    "decoder block": lambda: Words(Block()),
}


def of(name: str, how: str | Hypergradient) -> tuple[kshot.MAML, Task]:
    torch.manual_seed(0)
    learner = kshot.MAML(MODELS[name](), rule=SGD(0.1), steps=2, hypergradient=how).double()
    learner.train(learner.model.training)
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return learner, classification(features=(12,), tasks=2)


def seeded(learner: kshot.MAML, tasks: Task, way: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return gradients(learner, tasks, way)


@pytest.mark.parametrize("name", MODELS)
def test_attention_in_every_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(str(how), way): seeded(*of(name, how), way) for how in [*EXACT, *OTHERS] for way in ("loop", "vmap")}
    monkeypatch.setattr(F, "scaled_dot_product_attention", written_out)
    references = {str(how): seeded(*of(name, how), "loop") for how in ["unrolled", *OTHERS]}
    for (how, way), g in found.items():
        if how.startswith("Evolution") and way == "vmap":
            continue  # other random numbers
        wanted = references["unrolled" if how in EXACT else how]
        near = {"rtol": 1e-4, "atol": 1e-6} if how.startswith(("finite", "implicit")) else {"rtol": 1e-9, "atol": 1e-11}
        for n in wanted:
            torch.testing.assert_close(g[n], wanted[n], **near, msg=lambda m, w=(how, way, n): f"{w}: {m}")
    learner, tasks = of(name, "unrolled")
    along = {
        n: torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).double()
        for n, p in learner.named_parameters()
    }
    slope = central_difference(lambda: meta_loss(learner, tasks, "loop"), along, learner)
    exact = sum(float((g * along[n]).sum()) for n, g in references["unrolled"].items())
    assert exact == pytest.approx(slope, rel=2e-5, abs=1e-8)
    assert hypergradient("unrolled") == learner._way
