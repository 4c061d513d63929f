"""The command line, in the order that `kshot --help` shows."""

from __future__ import annotations

from collections.abc import Callable

import typer

from kshot.cli.adapt import adapt
from kshot.cli.demo import demo
from kshot.cli.evidence import compare, reproduce
from kshot.cli.examine import examine
from kshot.cli.listing import list_all
from kshot.cli.runs import evaluate_run, report, train
from kshot.cli.terminal import sentences

app = typer.Typer(
    name="kshot",
    help="Train models that learn a new task from a few examples.\n\n"
    "Begin with [bold]kshot demo[/], or [bold]kshot train glyphs-5w1s-protonet[/].",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
commands: dict[str, Callable[..., None]] = {
    "train": train,
    "evaluate": evaluate_run,
    "adapt": adapt,
    "report": report,
    "compare": compare,
    "reproduce": reproduce,
    "doctor": examine,
    "list": list_all,
    "demo": demo,
}
for name, command in commands.items():
    app.command(name)(sentences(command))


def main() -> None:
    app()
