"""A diagnosis for the terminal: what there is to see at a glance, and the recommendation last."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kshot.doctor.findings import Diagnosis, Mode, Range

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
    if d.modules:
        yield _modules(d)
    if d.silent:
        yield _silent(d)
    yield Text.assemble(("recommendation  ", "bold cyan"), (d.recommendation, "bold"))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="cyan", box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _inner(d: Diagnosis) -> RenderableType:
    table = _table("the inner loop: means over tasks", "after step", "gradient norm", "support loss", "query loss")
    every = math.ceil((len(d.inner) - 1) / SHOWN) or 1
    for s in d.inner:
        if s.step % every == 0 or s is d.inner[-1]:
            table.add_row(str(s.step), *(_number(v) for v in (s.gradient, s.support_loss, s.query_loss)))
    return Group(table, "")


def _modes(d: Diagnosis) -> RenderableType:
    far = next(m.forecast.steps for m in d.modes if m.forecast)
    table = _table(
        f"the meta-gradient of one task, and its memory at {far} steps: forecast, measured",
        "hypergradient", "cosine", "length", "time", "memory", "forecast", "measured", "off", "a step",
    )  # fmt: skip
    for m in d.modes:
        mark = (
            f"[bold]{escape(m.hypergradient)}[/] ←" if m.hypergradient == d.hypergradient else escape(m.hypergradient)
        )
        if m.why is None:
            table.add_row(mark, _range(m.cosine), _range(m.ratio), _time(m.seconds), size(m.memory), *_forecast(m))
    notes = [Text(f"{m.hypergradient}: {m.why}", style="dim") for m in d.modes if m.why]
    return Group(
        table,
        Text("← as it is trained. cosine, length: against the exact one, (lowest, highest) of the tasks", "dim"),
        *notes,
        "",
    )


def _forecast(m: Mode) -> tuple[str, ...]:
    f = m.forecast
    if f is None:
        return ()
    off = "–" if f.deviation is None else f"{100 * f.deviation:+.0f} %"
    return size(f.bytes), "does not fit" if f.measured is None else size(f.measured), off, size(max(0.0, f.a_step))


def _modules(d: Diagnosis) -> RenderableType:
    depth = next(k for k in range(9, 0, -1) if k == 1 or len(_grouped(d.modules, k)) <= SHOWN)
    table = _table("the meta-gradient, mean over tasks", "module", "norm")
    for module, norm in _grouped(d.modules, depth).items():
        table.add_row(escape(module), _number(norm))
    lines = []
    if d.agreement:
        noise = d.agreement.noise_scale
        scale = (
            f"as much noise as signal at {noise:.2g} tasks"
            if noise <= 10 * d.tasks
            else "more noise than signal in so few"
        )
        lines.append(Text(f"between tasks: mean cosine {d.agreement.cosine:.2f}, {scale}", "dim"))
    if not d.modes and d.seconds is not None:
        lines.append(Text(f"one task takes {_time(d.seconds)} and {size(d.memory)}", "dim"))
    return Group(table, *lines, "")


def _grouped(modules: dict[str, float], depth: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for module, norm in modules.items():
        short = ".".join(module.split(".")[:depth])
        found[short] = math.hypot(found.get(short, 0.0), norm)
    return found


def _silent(d: Diagnosis) -> RenderableType:
    table = _table("without a gradient", "reason", "which", "numbers")
    table.columns[1].justify = "left"
    for reason, why in dict.fromkeys((s.reason, s.why) for s in d.silent):
        rows = [s for s in d.silent if (s.reason, s.why) == (reason, why)]
        names = ", ".join(s.name for s in rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        table.add_row(reason, f"{escape(names)}\n[dim]{escape(why)}[/]", f"{sum(s.size for s in rows):,}")
    return Group(table, "")


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"


def _range(r: Range | None) -> str:
    return (
        "" if r is None else f"{r.mean:.3f}" if r.low == r.high else f"{r.mean:.3f} [dim]({r.low:.2f}, {r.high:.2f})[/]"
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.1f} s"
        if seconds >= 1
        else f"{1e3 * seconds:.0f} ms"
        if seconds >= 0.01
        else f"{1e3 * seconds:.1f} ms"
    )


def size(count: float | None) -> str:
    """4.1 MB."""
    if count is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.{0 if count >= 100 * factor else 1}f} {unit}"
    return f"{count:.0f} B"
