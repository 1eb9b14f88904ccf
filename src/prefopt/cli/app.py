"""The command line: `prefopt run RECIPE` and one verb per stage, all with the same `--key value` overrides."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated

import typer

from prefopt import __version__
from prefopt.cli import evaluations, models, runs, tools, verbs
from prefopt.cli.completion import ASK, SCRIPTS
from prefopt.cli.ends import run_to_end
from prefopt.cli.overview import group_help
from prefopt.cli.plugins import without_plugins
from prefopt.cli.registry import Group, Verb, read_app
from prefopt.core import processes
from prefopt.core.errors import PrefoptError, nearest
from prefopt.suite.commands import suite_app

ABOUT = (
    "Preference optimization as one pipeline: sample, judge, rank, select, weigh, train, evaluate, report."
)
app = typer.Typer(help=ABOUT, add_completion=False)
runs.add_to(app)
verbs.add_to(app)
tools.add_to(app)
models.add_to(app)
evaluations.add_to(app)
app.add_typer(suite_app, name="suite")


@app.command("help")
def help_command(
    verb: Annotated[list[str] | None, typer.Argument(help="a verb, e.g. select or suite bench")] = None,
) -> None:
    """Say what a verb does, and list every setting; the same as VERB --help."""
    typer.echo(help_of(verb or []))


@app.command("completion")
def completion_command(
    shell: Annotated[str, typer.Argument(help=f"one of {', '.join(SCRIPTS)}")],
) -> None:
    """Print the script by which a shell completes verbs, keys and choices.

    For bash: `eval "$(prefopt completion bash)"` in ~/.bashrc; the same with zsh in ~/.zshrc; for fish:
    `prefopt completion fish > ~/.config/fish/completions/prefopt.fish`.
    """
    if shell not in SCRIPTS:
        raise PrefoptError(f"prefopt completion: no shell {shell!r}, {nearest(shell, SCRIPTS)}")
    typer.echo(SCRIPTS[shell], nl=False)


def all_verbs() -> Group:
    """Every verb of the command line."""
    return read_app(app, about=ABOUT)


def find(words: Sequence[str]) -> tuple[Group | Verb, list[str]]:
    """The group or verb that the first words name, and the words after it.

    Raises:
        PrefoptError: no such verb; the nearest one is named.
    """
    entry: Group | Verb = all_verbs()
    left = list(words)
    while isinstance(entry, Group) and left and not left[0].startswith("-"):
        if left[0] not in entry.verbs:
            if entry.alone is not None and entry.alone.signature.positional:
                return entry.alone, left  # `prefopt losses NAME`
            where = " ".join(["prefopt", *entry.path])
            raise PrefoptError(f"{where}: no verb {left[0]!r}, {nearest(left[0], entry.verbs)}")
        entry = entry.verbs[left.pop(0)]
    return entry, left


def help_of(words: Sequence[str]) -> str:
    """The help of a verb, of a group, or of all."""
    entry, _ = find(words)
    if isinstance(entry, Group):
        return group_help(entry, top=not entry.path)
    from prefopt.cli.help import verb_help

    return verb_help(entry)


def call(words: Sequence[str]) -> None:
    """Do what the words of a command say.

    Raises:
        PrefoptError: they say nothing that can be done, or it cannot be done.
    """
    if words[:1] == [ASK]:
        from prefopt.cli.completion import candidates

        typer.echo("\n".join(candidates(all_verbs(), words[1:])))
        return
    if words[:1] == ["--version"]:
        typer.echo(f"prefopt {__version__}")
        return
    words = without_plugins(words)
    entry, left = find(words)
    if isinstance(entry, Group):
        if left and left[0] not in ("-h", "--help"):
            raise PrefoptError(
                f"{' '.join(['prefopt', *entry.path])}: unknown option {left[0]!r}; see --help"
            )
        if left or entry.alone is None:
            typer.echo(help_of(entry.path))
            return
        entry = entry.alone
    from prefopt.cli.words import own_options, read_words

    given = read_words(entry, left)
    if given.wants_help:
        typer.echo(help_of(entry.path))
        return
    if processes.rank() and not _is_for_all(entry, words):
        return  # the first process does it
    arguments = own_options(entry, given)
    if entry.signature.context is not None:
        arguments[entry.signature.context] = SimpleNamespace(args=given.settings, invoked_subcommand=None)
    entry.function(**arguments)


def _is_for_all(verb: Verb, words: Sequence[str]) -> bool:
    """Whether a verb's work is walked through by all processes of a launch."""
    return verb.path[0] in ("run", *verbs.VERBS) and "--dry-run" not in words


def _be_quiet() -> None:
    """Of several processes the first prints."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (to the end of the process)
    logging.getLogger("prefopt").setLevel(logging.ERROR)


def leave_group() -> None:
    """Part from the other processes of a distributed run; one that just ends may abort, or keep the others waiting."""
    if "torch.distributed" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def main(words: Sequence[str] | None = None) -> None:
    """Entry point: whatever stops a command is one line and exit code 2, never a traceback (`prefopt.cli.ends`)."""
    # several stages load models in one process; the tokenizers' own threads would warn after a fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch reads it when it is loaded, which is later: tensors in huge pages, on virtual machines up to twice the speed
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    given = list(sys.argv[1:] if words is None else words)
    if processes.rank():
        _be_quiet()

    def command() -> None:
        call(given)
        processes.leave()

    if processes.world() > 1:
        processes.tell_at_end()
    code = run_to_end(command, given)
    processes.close()
    if not code:
        leave_group()
    sys.exit(code)


if __name__ == "__main__":
    main()
