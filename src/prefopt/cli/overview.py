"""What verbs there are, a line each; light, because it is the first thing that is asked for."""

from __future__ import annotations

import textwrap

from prefopt.cli.registry import Group

WIDTH = 80


def group_help(group: Group, *, top: bool = False) -> str:
    """The verbs of a group with a line of meaning each."""
    lines = [f"usage: {' '.join(['prefopt', *group.path])} VERB ...", "", *wrapped(group.about, 2), ""]
    if group.alone is not None:
        lines += [*wrapped(f"Without a verb: {group.alone.about}", 2), ""]
    lines.append("verbs:")
    width = max(map(len, group.verbs)) + 2
    for name, entry in group.verbs.items():
        text = textwrap.wrap(summary_line(entry.about), WIDTH - width - 2)
        lines += [f"  {name if n == 0 else '':<{width}}{part}" for n, part in enumerate(text)]
    lines += ["", *wrapped(f"`{' '.join(['prefopt', *group.path])} VERB --help` lists every setting.", 2)]
    if top:
        lines += wrapped("`prefopt completion --help` says how words are completed by the shell.", 2)
        lines += ["", "options:", "  --version   print the version and stop", "  -h, --help  show this text"]
    return "\n".join(lines)


def summary_line(about: str) -> str:
    """The first paragraph of what is said of a verb, up to its first full stop or semicolon."""
    text = " ".join(about.split("\n\n")[0].split())
    for mark in ("; ", ". "):
        text = text.split(mark)[0]
    return text.rstrip(".")


def wrapped(text: str, indent: int, *, first: int | None = None) -> list[str]:
    """Lines of at most 80 columns. first: indent of the first one, where it is another."""
    start = indent if first is None else first
    # long lists of choices a|b|c have no blanks: they may break after a bar
    shown = text.replace("|", "|\u200b")
    lines = textwrap.wrap(
        shown.replace("\u200b", " \u200b"), WIDTH, initial_indent=" " * start, subsequent_indent=" " * indent,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    return [line.replace("| \u200b", "|").replace("\u200b", "").rstrip() for line in lines]
