"""Glyphs: handwritten-like characters made of pen strokes; the data set that needs no download.

A class is a small program: one to four strokes, each of one to four segments (lines, arcs, loops) that meet in
corners or flow on, and each laid on an earlier stroke or beside it, as in the alphabets that Omniglot collects
(Lake et al., 2015; their generative model has the same parts but is fitted to recorded strokes, this one to nothing).
An example is that program in another hand: corners miss their place, arcs bulge, the whole leans, turns, stretches,
moves, and the pen is thicker or thinner.

Every random number is a hash of (seed, class, example, position), not the next of a sequence. So a class is the same
however many are asked for, further examples leave the earlier ones alone, and no two splits share a class's stream.

Shapes: C classes, E examples, S strokes, L segments a stroke, T = S·L·_STEPS steps of the pen, P points of a glyph.
Lengths are fractions of the image's side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kshot.tasks.episodes import Count, Episodes
from kshot.tasks.labelled import Labelled
from kshot.types import InputError

SPLITS = ("train", "val", "test")
CLASSES = {"train": 2000, "val": 200, "test": 1000}

_STROKES, _SEGMENTS, _STEPS = 4, 4, 16
_POINTS = 80
_DRAFTS = 4  # programs sketched for a class; the first legible one becomes the class
_SKETCHED_AT_ONCE, _INKED_AT_ONCE = 128, 128  # classes and images that stay in the processor's cache

_DEGREE = math.pi / 180
_STROKE_COUNTS = torch.tensor([1, 1, 2, 2, 2, 3, 3, 3, 4, 4])
_SEGMENT_COUNTS = torch.tensor([1, 1, 1, 2, 2, 2, 3, 3, 3, 4])
_CORNERS = torch.tensor([45, 90, 90, 90, 90, 120, 135, 160], dtype=torch.float32) * _DEGREE
_BENDS = torch.tensor([50, 90, 90, 140, 180, 180, 220, 320], dtype=torch.float32) * _DEGREE
_HANDLES = torch.tensor([0, 0, 0, 0.5, 0.5, 1, 1], dtype=torch.float32)  # strokes touch at start, middle, end

# How hands differ: standard deviations.
_CORNER_MISS, _ARC_MISS, _STROKE_MISS = 0.026, 0.022, 0.010
_TURN, _LEAN, _SCALE, _ASPECT, _MOVE, _PRESS = 0.10, 0.13, 0.12, 0.10, 0.05, 0.08
_PEN = 0.022  # the pen's gaussian radius
_MARGIN = 0.035


def Glyphs(
    split: str = "train",
    ways: Count = 5,
    shots: Count = 1,
    queries: Count = 15,
    *,
    classes: int | None = None,
    examples: int = 20,
    size: int = 28,
    seed: int = 0,
    **options: Any,
) -> Episodes:
    """Generated handwriting-like characters, drawn from a seed: nothing to download, classes without end.

    split: 'train', 'val' or 'test', which share no class. classes: how many (2,000, 200, 1,000 for the splits).
    options: those of Episodes.
    """
    count = CLASSES.get(split, 1) if classes is None else classes
    images = draw_glyphs(count, examples, split=split, size=size, seed=seed)
    labels = torch.arange(count).repeat_interleave(examples)
    names = [f"glyphs{seed}/{split}{i:05d}" for i in range(count)]
    return Episodes(Labelled.of(images.view(-1, 1, size, size), labels, names), ways, shots, queries, **options)


def draw_glyphs(classes: int, examples: int = 20, *, split: str = "train", size: int = 28, seed: int = 0) -> Tensor:
    """Draws `examples` images of each of the first `classes` classes of a split.

    Returns uint8 [classes, examples, size, size], ink = 255 on 0. Class i of a split is the same whatever the number
    of classes and examples; `seed` names another world of characters.
    """
    _check(classes, examples, split, size, seed)
    numbers = torch.arange(classes) * len(SPLITS) + SPLITS.index(split)
    keys = _mix(_mix(torch.tensor(seed)) + numbers * _STRIDE)
    images = torch.empty(classes, examples, size, size, dtype=torch.uint8)
    step = max(1, _INKED_AT_ONCE // examples)
    for some, pages in zip(torch.split(keys, _SKETCHED_AT_ONCE), torch.split(images, _SKETCHED_AT_ONCE), strict=True):
        parts = (*_programs(some), _words(some, examples, skip=_DRAFTS), pages)
        for *program, hands, page in zip(*(torch.split(part, step) for part in parts), strict=True):
            for few, paper in zip(*(torch.split(part, _INKED_AT_ONCE, 1) for part in (hands, page)), strict=True):
                paper.copy_(_ink(*_write(program, few), size))
    return images


def _check(classes: int, examples: int, split: str, size: int, seed: int) -> None:
    if split not in SPLITS:
        raise InputError(f"found split {split!r}; the splits are {', '.join(SPLITS)}: choose one of them")
    wanted = {"classes": (classes, 1), "examples": (examples, 1), "size": (size, 8), "seed": (seed, 0)}
    for name, (value, least) in wanted.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise InputError(f"found {name}={value!r}; {name} must be a whole number from {least} up: pass such a one")


# Random numbers. A key is an int64; its words are the hashes of key + 1, 2, 3 … strides, and a word can be a key.

_STRIDE = -7046029254386353131  # 2^64 / golden ratio, odd: distinct numbers give distinct keys


def _mix(x: Tensor) -> Tensor:
    """The finisher of SplitMix64: a one-to-one scrambling of int64."""
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ (x >> 31 & 0x1FFFFFFFF)


def _words(keys: Tensor, count: int, skip: int = 0) -> Tensor:
    """[...] -> [..., count]"""
    return _mix(keys.unsqueeze(-1) + torch.arange(skip + 1, skip + count + 1) * _STRIDE)


def _uniforms(keys: Tensor, count: int) -> Tensor:
    """[...] -> [..., count] inside (0, 1)"""
    return ((_words(keys, count) >> 40 & 0xFFFFFF).float() + 0.5) / 2**24


def _signs(uniforms: Tensor) -> Tensor:
    return 1 - 2 * (uniforms < 0.5).float()


def _centres(count: int) -> Tensor:
    """½, 1½, 2½ …: [count]"""
    return torch.arange(count, dtype=torch.float32) + 0.5


class _Dice:
    """Deals the uniforms of keys [C] in order: dice(S, L) -> [C, S, L]."""

    def __init__(self, keys: Tensor, count: int):
        self.left = _uniforms(keys, count)

    def __call__(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        now, self.left = self.left[:, :count], self.left[:, count:]
        return now.reshape(-1, *shape)

    def pick(self, table: Tensor, *shape: int) -> Tensor:
        return table[(self(*shape) * len(table)).long()]


# Programs: what is common to all examples of a class.


def _programs(keys: Tensor) -> list[Tensor]:
    """Sketches a few drafts of each class and keeps the first that can be read: see _trace for what a program is."""
    drafts = _words(keys, _DRAFTS)
    dice = _Dice(drafts.flatten(), 256)
    steps = _strokes(dice)
    program = _trace(_place(dice, steps), steps, dice())
    best = _clutter(program[0], program[1]).view_as(drafts).argmin(1)
    rows = torch.arange(len(keys)) * _DRAFTS + best
    return [part[rows] for part in program]


def _strokes(dice: _Dice) -> Tensor:
    """The pen's steps [C, S, L·_STEPS, 2], stroke by stroke; absent strokes and segments have steps of length 0."""
    S, L = _STROKES, _SEGMENTS
    stroke, segment = torch.arange(S), torch.arange(L)
    strokes, roundness = dice.pick(_STROKE_COUNTS, 1), dice(1, 1)
    segments = dice.pick(_SEGMENT_COUNTS, S) + ((strokes == 1) & (dice(1) < 0.7))
    dot = (stroke > 0) & (dice(S) < 0.08) | (dice(1) < 0.015)
    segments = torch.where(dot, 1, segments)
    bend = dice.pick(_BENDS, S, L) * (0.85 + 0.3 * dice(S, L))
    bend = torch.where(dice(S, L) < 0.05 + 0.75 * roundness, bend, 0)
    flows = (dice(S, L) < 0.6 * roundness) | (segment == 0)
    corner = torch.where(flows, 0, dice.pick(_CORNERS, S, L) + 0.3 * (dice(S, L) - 0.5))
    # A stroke curls one way, zigzags, or does as it likes.
    habit, side = dice(S, 1), _signs(dice(S, L))
    zigzag = side[..., :1] * (1 - 2 * (segment % 2))
    side = torch.where(habit < 0.4, side[..., :1], torch.where(habit < 0.7, zigzag, side))
    bend, corner = bend * side, corner * side
    length = 0.4 + 0.7 * dice(S, L) + 0.2 * bend.abs()
    # Most strokes set out along the paper's axes.
    heading = (90 * (dice(S) * 4).floor() + 45 * (dice(S) < 0.2) + 20 * (dice(S) - 0.5)) * _DEGREE
    bend = torch.where(dot.unsqueeze(-1), 6.0, bend)
    length = torch.where(dot.unsqueeze(-1), 0.22, length) * (segment < segments.unsqueeze(-1))
    # Some strokes repeat the one before, or mirror it.
    again = (stroke > 0) & (dice(S) < 0.15)
    mirror = torch.where(again, _signs(dice(S)), 1)
    rows, source = torch.arange(len(bend)).unsqueeze(1), torch.where(again, 0, stroke).cummax(-1).values
    heading = mirror * heading[rows, source] + (1 - mirror) * (math.pi / 2)
    bend, corner = (mirror.unsqueeze(-1) * angle[rows, source] for angle in (bend, corner))
    length = length[rows, source] * (stroke < strokes).unsqueeze(-1)

    turned = (corner + bend).cumsum(-1) - bend
    along = _centres(_STEPS) / _STEPS
    angle = (heading.unsqueeze(-1) + turned).unsqueeze(-1) + bend.unsqueeze(-1) * along
    return (torch.stack([angle.cos(), angle.sin()], -1) * (length / _STEPS)[..., None, None]).flatten(2, 3)


def _place(dice: _Dice, steps: Tensor) -> Tensor:
    """Where each step of the pen ends, [C, S, L·_STEPS, 2]. A stroke touches an earlier one, or stands beside it."""
    ends = steps.cumsum(2)
    rows = torch.arange(len(ends))
    drawn = (steps.square().sum(-1) > 0).sum(-1).clamp_min(1) - 1  # [C, S] the last step that is drawn
    size = ends.amax(2) - ends.amin(2)
    for s in range(1, _STROKES):
        old = (dice() * s).long()
        there = torch.where(dice() < 0.6, dice.pick(_HANDLES), dice())
        here = torch.where(dice() < 0.8, dice.pick(_HANDLES), dice())
        touch = ends[rows, old, (there * drawn[rows, old]).long()] - ends[rows, s, (here * drawn[:, s]).long()]
        wind = (dice() * 8).floor() * (45 * _DEGREE)
        gap = (size[rows, old] + size[:, s]) / 2 + 0.2 + 0.3 * dice().unsqueeze(-1)
        beside = _middle(ends[rows, old], 1) - _middle(ends[:, s], 1) + gap * torch.stack([wind.cos(), wind.sin()], -1)
        apart = (dice() < 0.17) | (size[:, s].amax(-1) < 0.1)
        ends[:, s] += torch.where(apart.unsqueeze(-1), beside, touch).unsqueeze(1)
    return ends


def _middle(points: Tensor, dim: int) -> Tensor:
    return (points.amin(dim) + points.amax(dim)) / 2


def _trace(ends: Tensor, steps: Tensor, largeness: Tensor) -> list[Tensor]:
    """Spreads P points evenly over the ink, centred at 0 and brought to size.

    Returns points [C, P, 2], the ink's length for a point [C, 1], and where in the program the points lie: the number
    of their segment [C, P], counted over all strokes, and the part of it that lies behind them [C, P].
    """
    ends, steps = ends.flatten(1, 2), steps.flatten(1, 2)
    travelled = steps.norm(dim=-1).cumsum(-1)
    total = travelled[:, -1:]
    goal = total * _centres(_POINTS) / _POINTS
    step = torch.searchsorted(travelled, goal)
    here = step.unsqueeze(-1).expand(-1, -1, 2)
    move = steps.gather(1, here)
    back = ((travelled.gather(1, step) - goal) / move.norm(dim=-1)).clamp(0, 1)
    points = ends.gather(1, here) - back.unsqueeze(-1) * move
    points = points - _middle(points, 1).unsqueeze(1)
    extent = 2 * points.abs().amax((1, 2)).unsqueeze(-1)
    # The more there is to draw, the larger it is drawn.
    wanted = (0.31 + 0.07 * total / extent + 0.24 * largeness.unsqueeze(-1)).clamp(0.35, 0.78)
    scale = (wanted / extent).clamp_max(0.5)
    return [points * scale.unsqueeze(-1), total * scale / _POINTS, step // _STEPS, (step % _STEPS + 1 - back) / _STEPS]


def _clutter(points: Tensor, spacing: Tensor) -> Tensor:
    """How hard glyphs are to read, [C]: too much ink beside other ink, too much in all, or too little; 0 is legible."""
    dots, reach = points[:, ::2], 0.08
    # Without matrix products, whose rounding may depend on how many glyphs are measured together.
    apart = torch.cdist(dots, dots, compute_mode="donot_use_mm_for_euclid_dist")
    near = (apart < reach).float().mean((1, 2))
    length = spacing[:, 0] * _POINTS
    crowding = near * length / (2 * reach)
    return torch.relu(crowding - 1.45) + torch.relu(length - 2.6) + torch.relu(0.8 - length)


# Hands: what differs between the examples of a class.


def _write(program: list[Tensor], hands: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Programs of C classes written by the hands [C, E], keys of random numbers.

    Returns points [C, E, P, 2] in parts of the image's side, the ink's length for a point and the pen's radius, both
    [C, E, 1].
    """
    points, spacing, segment, along = program
    S, L = _STROKES, _SEGMENTS
    sizes = [S * (L + 1) * 2, S * 2, S * L * 2, 2, 1, 1, 1, 1, 1]
    normals = torch.special.ndtri(_uniforms(hands, sum(sizes)))
    corners, strokes, arcs, move, turn, lean, scale, aspect, press = normals.split(sizes, -1)
    corners = _CORNER_MISS * corners.unflatten(-1, (S, L + 1, 2)) + _STROKE_MISS * strokes.unflatten(-1, (S, 1, 2))
    corners, arcs = corners.flatten(2, 3), _ARC_MISS * arcs.unflatten(-1, (S * L, 2))
    corner = segment + segment // L  # a stroke of L segments has L + 1 corners
    at = along[:, None, :, None]
    straight = _take(corners, corner) * (1 - at) + _take(corners, corner + 1) * at
    points = points.unsqueeze(1) + straight + _take(arcs, segment) * (4 * at * (1 - at))
    grow, stretch, turn = (_SCALE * scale).exp(), (_ASPECT * aspect).exp(), _TURN * turn
    x = (points[..., 0] + _LEAN * lean * points[..., 1]) * (grow * stretch)
    y = points[..., 1] * (grow / stretch)
    points = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1)
    # Hands keep to the paper.
    low, high = points.amin(2, keepdim=True), points.amax(2, keepdim=True)
    fit = ((1 - 2 * _MARGIN) / (high - low)).clamp_max(1)
    room = (1 - 2 * _MARGIN - (high - low) * fit) / 2
    centre = 0.5 + (_MOVE * move.unsqueeze(2)).clamp(-room, room)
    points = (points - (low + high) / 2) * fit + centre
    return points, spacing.unsqueeze(1) * grow, _PEN * (_PRESS * press).exp()


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values [C, E, N, 2], index [C, P] -> [C, E, P, 2]"""
    return values.gather(2, index[:, None, :, None].expand(-1, values.shape[1], -1, 2))


def _ink(points: Tensor, spacing: Tensor, pen: Tensor, size: int) -> Tensor:
    """Grey images [C, E, size, size] of ink along points [C, E, P, 2].

    A gaussian blot a point, summed: blots are separable, so an image is one product of two [P, size] tables. At
    distance d from a line the sum is exp(-½ d²/r²), whatever the spacing. The ink's edge is where the sum is ½, and
    the factor 2r makes that edge about a pixel wide at any size.
    """
    radius = (pen * size).clamp_min(0.5).unsqueeze(-1)
    distance = ((points * size).unsqueeze(-1) - _centres(size)) / radius.unsqueeze(-1)
    across, down = distance.square().mul(-0.5).exp().unbind(3)
    blot = spacing.unsqueeze(-1) * size / (radius * math.sqrt(2 * math.pi))
    field = down.transpose(2, 3) @ (across * blot)
    return (0.5 + (field - 0.5) * (2 * radius)).mul(255).clamp(0, 255).round().to(torch.uint8)
