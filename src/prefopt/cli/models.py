"""Verbs around one model or a few runs: talk to them, compare them, begin with them, hand them on."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from prefopt.cli.verbs import Seed
from prefopt.core.errors import PrefoptError
from prefopt.core.terminal import one_line


def chat_command(
    place: Annotated[str, typer.Argument(help="folder of a finished run, or a model")],
    prompt: Annotated[
        list[str] | None, typer.Option(help="answer this and stop; may be repeated, each by itself")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="arm of the run (default: the main one)")] = None,
    system: Annotated[str | None, typer.Option(help="system prompt")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy", min=0)] = 0.8,
    top_p: Annotated[float, typer.Option(help="draw from the likeliest tokens that hold this share")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer, tokens", min=1)] = 256,
    seed: Seed = 0,
) -> None:
    """Talk to a model, or to base and trained model of a run side by side.

    Without a terminal every line of standard input is a prompt by itself. At one, /help lists what else can be said.
    """
    from prefopt.engines import Sampling
    from prefopt.tools.chat import Chat, Settings, converse, open_voices

    if not 0 < top_p <= 1:
        raise PrefoptError(f"prefopt chat: --top-p {top_p}: give a share above 0, at most 1")
    voices = open_voices(place, arm)
    if system is not None and not any(voice.chats for voice in voices):
        raise PrefoptError("prefopt chat: --system: no chat template takes it; put it into the prompt")
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    chat = Chat(voices, Settings(sampling, seed=seed, system=system))
    if prompt:
        return converse(chat, iter(prompt))
    if not sys.stdin.isatty():
        return converse(chat, iter(sys.stdin))
    names = " and ".join(one_line(voice.name) for voice in voices)
    typer.echo(f"{names}; /help lists what can be said, Ctrl-D ends")
    return converse(chat, _ask)


def _ask() -> str | None:
    """The next line at the terminal; None where it ends."""
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        typer.echo("")
        return None


def compare_command(
    runs: Annotated[list[str], typer.Argument(help="folders of finished runs, also RUN:ARM and RUN:base")],
    output: Annotated[Path | None, typer.Option(help="folder for compare.json and compare.html")] = None,
) -> None:
    """Compare runs on the prompts that all of them answered: paired tests, Holm's correction (docs/compare.md)."""
    from prefopt.tools.compare import compare, print_compare, write_compare

    found = compare(runs)
    print_compare(found)
    if output is not None:
        typer.echo(write_compare(found, output))


def init_command(
    model: Annotated[str, typer.Option(help="model directory, GGUF file, builtin:... or a hub name")],
    data: Annotated[str, typer.Option(help="prompts, completions, pairs or labelled answers")],
    test: Annotated[str | None, typer.Option(help="test prompts with gold answers")] = None,
    output: Annotated[Path | None, typer.Option(help="file to write; null: printed")] = None,
    lora: Annotated[bool | None, typer.Option(help="train an adapter; null: where memory is short")] = None,
    seed: Seed = 0,
) -> None:
    """Write a commented recipe that fits a model, a data file and this machine (docs/settings.md)."""
    from prefopt.tools.init.write import init, write_recipe

    if output is not None and output.exists():
        raise PrefoptError(f"{output}: exists already; name another --output")
    name = re.sub(r"[^\w-]+", "-", output.stem).strip("-") if output is not None else ""
    text = init(model, data, test=test, name=name or "run", seed=seed, lora=lora)
    if output is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{write_recipe(text, output)}; next: prefopt run {output} --dry-run")


def export_command(
    place: Annotated[str, typer.Argument(help="folder of a finished run, or a model")],
    to: Annotated[Literal["adapter", "gguf", "ollama"], typer.Option(help="the form")],
    output: Annotated[Path, typer.Option(help="new directory; of gguf a new file")],
    arm: Annotated[str | None, typer.Option(help="arm of the run (default: the main one)")] = None,
    converter: Annotated[Path | None, typer.Option(help="llama.cpp's convert_hf_to_gguf.py")] = None,
) -> None:
    """Hand a model on: its adapter alone, one GGUF file, or that with a Modelfile for Ollama (docs/real-models.md)."""
    from prefopt.tools.export import export

    typer.echo(export(place, to, output, arm=arm, converter=converter))


def add_to(app: typer.Typer) -> None:
    """Declare these verbs."""
    app.command("export")(export_command)
    app.command("init")(init_command)
    app.command("compare")(compare_command)
    app.command("chat")(chat_command)
