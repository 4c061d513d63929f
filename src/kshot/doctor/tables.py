"""A diagnosis for the terminal: what there is to see at a glance, and the recommendation last."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kshot.doctor.findings import Diagnosis, Range
from kshot.memory import in_bytes

SHOWN = 12  # inner steps, and modules


def show(d: Diagnosis, out: Console) -> None:
    out.print(Group(*_parts(d)))


def _parts(d: Diagnosis) -> Iterator[RenderableType]:
    where = "trained" if d.trained else "not trained yet"
    steps = "no inner loop" if d.steps is None else f"{d.steps} inner step{'s' if d.steps > 1 else ''}"
    yield Text.from_markup(f"[bold]{d.learner}[/], {where}: {steps}, {d.tasks} tasks, seed {d.seed}, {d.device}\n")
    if d.inner:
        yield _inner(d)
    if d.modes:
        yield _modes(d)
        yield _memory(d)
    if d.modules:
        yield _modules(d)
    if d.silent:
        yield _silent(d)
    yield Text.assemble(("recommendation  ", "bold cyan"), (d.recommendation, "bold"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _section(title: str, table: Table, *notes: str) -> RenderableType:
    return Group(Text(title, "cyan"), table, *(Text(note, "dim") for note in notes), "")


def _inner(d: Diagnosis) -> RenderableType:
    table = _table("after step", "gradient norm", "support loss", "query loss")
    every = math.ceil((len(d.inner) - 1) / SHOWN) or 1
    for s in d.inner:
        if s.step % every == 0 or s is d.inner[-1]:
            table.add_row(str(s.step), *(_number(v) for v in (s.gradient, s.support_loss, s.query_loss)))
    return _section("the inner loop, mean over tasks", table)


def _modes(d: Diagnosis) -> RenderableType:
    table = _table("hypergradient", "cosine", "length", "time", "memory")
    for m in d.modes:
        own = m.hypergradient == d.hypergradient
        if m.why is None:
            values = _range(m.cosine), _range(m.ratio), _time(m.seconds), in_bytes(m.memory)
            table.add_row(f"{escape(m.hypergradient)}{' ←' if own else ''}", *values, style="bold" if own else "")
    notes = ["← as it is trained; cosine and length against the exact one, with the lowest and highest task"]
    notes += [
        f"{m.hypergradient}: its solver left {100 * m.residual:.2g} % unsolved"
        for m in d.modes
        if m.residual is not None
    ]
    notes += [f"{m.hypergradient}: {m.why}" for m in d.modes if m.why]
    return _section(f"the meta-gradient of one task, {d.steps} inner step{'s' if d.steps != 1 else ''}", table, *notes)


def _memory(d: Diagnosis) -> RenderableType:
    far = next(m.forecast.steps for m in d.modes if m.forecast)
    table = _table("hypergradient", "forecast", "measured", "off", "a further step")
    for m in d.modes:
        if f := m.forecast:
            off = "" if f.deviation is None else f"{100 * f.deviation:+.0f} %"
            measured = "does not fit" if f.measured is None else in_bytes(f.measured)
            table.add_row(escape(m.hypergradient), in_bytes(f.bytes), measured, off, in_bytes(max(0.0, f.a_step)))
    return _section(f"its memory at {far} inner steps, forecast from a few", table)


def _modules(d: Diagnosis) -> RenderableType:
    depth = next(k for k in range(9, 0, -1) if k == 1 or len(_grouped(d.modules, k)) <= SHOWN)
    table = _table("module", "norm")
    for module, norm in _grouped(d.modules, depth).items():
        table.add_row(escape(module), _number(norm))
    notes = []
    if d.agreement:
        noise = d.agreement.noise_scale
        scale = (
            f"as much noise as signal at {noise:.2g} tasks" if noise <= 10 * d.tasks else "far more noise than signal"
        )
        notes.append(f"between tasks: mean cosine {d.agreement.cosine:.2f}, {scale}")
    if not d.modes:
        notes.append(f"one task takes {_time(d.seconds)} and {in_bytes(d.memory)} of memory")
    return _section("the meta-gradient, mean over tasks", table, *notes)


def _grouped(modules: dict[str, float], depth: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for module, norm in modules.items():
        short = ".".join(module.split(".")[:depth])
        found[short] = math.hypot(found.get(short, 0.0), norm)
    return found


def _silent(d: Diagnosis) -> RenderableType:
    table = _table("reason", "numbers", "which")
    table.columns[2].justify = "left"
    for reason, why in dict.fromkeys((s.reason, s.why) for s in d.silent):
        rows = [s for s in d.silent if (s.reason, s.why) == (reason, why)]
        names = ", ".join(s.name for s in rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        table.add_row(reason, f"{sum(s.size for s in rows):,}", f"{escape(names)}\n[dim]{escape(why)}[/]")
    return _section("without a gradient", table)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"


def _range(r: Range | None) -> str:
    if r is None:
        return ""
    return f"{r.mean:.3f}" if r.high - r.low < 5e-4 else f"{r.mean:.3f} ({r.low:.2f}, {r.high:.2f})"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
