"""kshot list: what there is, a line each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from kshot import recipes
from kshot.cli.terminal import out
from kshot.learners import FAMILIES
from kshot.models import MODELS
from kshot.rl import ENVIRONMENTS
from kshot.rules import RULES
from kshot.settings import suggestion
from kshot.tasks import SOURCES
from kshot.types import InputError


def list_all(
    what: Annotated[
        str | None, typer.Argument(help="Only recipes, learners, models, rules or tasks.", show_default=False)
    ] = None,
) -> None:
    """Show recipes, learners by family, models, inner rules and task sources, a line each."""
    tables: dict[str, dict[str, str]] = {"recipes": {name: recipes.read(name).about for name in recipes.names()}}
    made: dict[str, Mapping[str, Any]] = {f"learners: {family}": learners for family, learners in FAMILIES.items()}
    made |= {"models": MODELS, "rules": RULES, "tasks": SOURCES | ENVIRONMENTS}
    tables |= {kind: {name: _line(thing) for name, thing in table.items()} for kind, table in made.items()}
    kinds = list(dict.fromkeys(kind.split(":")[0] for kind in tables))
    if what is not None and what not in kinds:
        raise InputError(f"there is no list of {what!r}: {suggestion(what, kinds)}, or leave it out to see all")
    for kind, lines in tables.items():
        section = kind.split(":")[0]
        if what is None or what == section:
            role = "tasks" if section == "tasks" else section.removesuffix("s")
            use = "kshot train NAME" if section == "recipes" else f"\\[{role}] name = …"
            out.print(f"[cyan]{kind}[/]  [dim]{use}[/]")
            for name, line in lines.items():
                out.print(f"  [bold]{name:34}[/]{escape(line)}", no_wrap=True, overflow="ellipsis", highlight=False)
            out.print()


def _line(thing: Any) -> str:
    """The first sentence of its docstring, up to what follows a colon or semicolon."""
    first = (thing.__doc__ or "").strip().splitlines()[0]
    return re.split(r"[:;] ", first, maxsplit=1)[0].rstrip(".")
