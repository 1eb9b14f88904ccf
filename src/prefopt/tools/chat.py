"""`prefopt chat`: ask a model, or the base and the trained model of a run side by side, at a terminal or without one.

Each model goes on from its own answers. Turn t draws by (seed, t), so a conversation can be had again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.terminal import console, one_line, printable
from prefopt.engines import Engine, Sampling, batch_seed, open_engine
from prefopt.models.find import has_chat_template, resolve_model
from prefopt.report.load import load_run

if TYPE_CHECKING:
    from rich.console import Console

BASE = "base"
SIDE_BY_SIDE = 100  # columns of a terminal from which two answers stand beside each other
HELP = """\
/new            forget the conversation
/again          answer the last message once more, with the next seed
/seed N         draw from seed N on
/temperature X  0 is greedy
/system TEXT    a system prompt (empty: none); forgets the conversation
/help, /quit"""


@dataclass
class Voice:
    """A model that answers. chats: whether it has a chat template; said: the messages of its conversation."""

    name: str
    engine: Engine
    chats: bool
    said: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Settings:
    """How answers are drawn. turn: number of the next draw under the seed."""

    sampling: Sampling
    seed: int = 0
    system: str | None = None
    turn: int = 0


class Chat:
    """A conversation with one or several models."""

    def __init__(self, voices: Sequence[Voice], settings: Settings) -> None:
        self.voices, self.settings = list(voices), settings

    def ask(self, text: str) -> list[str]:
        """The answer of every model to a further message; base models without a template continue the text alone.

        Raises:
            PrefoptError: the conversation is longer than a model's context, or its template refuses the messages.
        """
        kept = [list(voice.said) for voice in self.voices]
        seed = batch_seed(self.settings.seed, "chat", self.settings.turn)
        try:
            answers = [self._answer(voice, text, seed) for voice in self.voices]
        except PrefoptError:
            for voice, said in zip(self.voices, kept, strict=True):
                voice.said = said
            raise
        self.settings.turn += 1
        return answers

    def again(self) -> list[str]:
        """The last message once more, with the next seed.

        Raises:
            PrefoptError: there is none.
        """
        said = self.voices[0].said
        if len(said) < 2:
            raise PrefoptError("chat: nothing was said yet")
        text = said[-2]["content"]
        for voice in self.voices:
            voice.said = voice.said[:-2]
        return self.ask(text)

    def forget(self) -> None:
        """Begin anew; the seed's turns count from 0 again."""
        self.settings.turn = 0
        for voice in self.voices:
            voice.said = []

    def _answer(self, voice: Voice, text: str, seed: int) -> str:
        prompt: Any = text
        if voice.chats:
            first = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
            prompt = [*first, *voice.said, {"role": "user", "content": text}]
        ids = voice.engine.encode({"prompt": prompt})
        answer = voice.engine.generate([ids], self.settings.sampling, seed)[0].text
        voice.said += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return answer


# ---- whom to ask


def open_voices(place: str, arm: str | None = None) -> list[Voice]:
    """The models of a finished run (base, then that of an arm: the main one unless named), or one model by its name.

    Raises:
        PrefoptError: no run and no model there, an arm that the run has not, or one that trains nothing.
    """
    folder = Path(place).expanduser()
    if (folder / "summary.json").is_file():
        return [_voice(name, path) for name, path in run_models(folder, arm).items()]
    if (folder / "run.json").is_file() or (folder / "00-data").is_dir():
        raise PrefoptError(f"{place}: the run is not finished; start it again, or give a model directory")
    if arm is not None:
        raise PrefoptError(f"{place}: is no run, so it has no arm {arm!r}; leave --arm out")
    path = resolve_model(place)
    return [_voice(path.name, path)]


def run_models(folder: Path, arm: str | None = None) -> dict[str, Path]:
    """`base` and the arm -> directory of the model, of a finished run.

    Raises:
        PrefoptError: no such run or arm, or a model that is not there any more.
    """
    run = load_run(folder)
    name = arm or run.main
    if name not in run.summary["arms"]:
        raise PrefoptError(f"{folder}: no arm {name!r}, {nearest(name, run.summary['arms'])}")
    named = str(run.summary.get("model"))
    base = folder / "00-model" if named == "tiny" else resolve_model(named)
    found = {BASE: base}
    stage = run.stage(name, "train")
    if stage is None:
        raise PrefoptError(f"{folder}: arm {name!r} trains no model; give the base model alone: {base}")
    found[name] = stage.path / "model"
    for path in found.values():
        if not path.is_dir():
            raise PrefoptError(f"{path}: no such model; start the run again, which does it anew")
    return found


def _voice(name: str, path: Path) -> Voice:
    return Voice(name, open_engine("transformers", path), has_chat_template(path))


# ---- at the terminal


def converse(chat: Chat, lines: Iterator[str] | Callable[[], str | None]) -> None:
    """Read messages and show answers until the end of input or /quit. lines: of a file or pipe, each a message of its
    own; or a function that asks for one, where a conversation goes on and /help lists what can be said.

    Raises:
        PrefoptError: a message of a pipe cannot be answered; at a terminal it is told, and the next one is asked for.
    """
    if not callable(lines):
        for line in lines:
            if line.strip():
                show(chat, chat.ask(line.rstrip("\n")), question=line)
                turn = chat.settings.turn
                chat.forget()
                chat.settings.turn = turn
        return
    while (asked := lines()) is not None:
        if asked.strip() in ("/quit", "/exit"):
            return
        try:
            if asked.strip():
                _turn(chat, asked)
        except PrefoptError as error:
            print(f"{one_line(error)}; /new begins anew")


def _turn(chat: Chat, line: str) -> None:
    word, _, rest = line.strip().partition(" ")
    settings = chat.settings
    if not word.startswith("/"):
        return show(chat, chat.ask(line))
    if word == "/again":
        return show(chat, chat.again())
    if word == "/seed":
        settings.seed, settings.turn = int(_number(word, rest, whole=True)), 0
    elif word == "/temperature":
        settings.sampling = replace(settings.sampling, temperature=_number(word, rest))
    elif word == "/system":
        settings.system = rest.strip() or None
        chat.forget()
    elif word == "/new":
        chat.forget()
    elif word == "/help":
        print(HELP)
    else:
        known = ("/new", "/again", "/seed", "/temperature", "/system", "/help", "/quit")
        print(f"no order {one_line(word)}, {nearest(word, known)}")
    return None


def _number(word: str, text: str, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
        if not 0 <= value <= (2**31 if whole else 100):
            raise ValueError
    except ValueError:
        raise PrefoptError(f"{word} takes a number of at least 0, not {one_line(text)!r}") from None
    return value


def show(chat: Chat, answers: Sequence[str], *, question: str = "") -> None:
    """Print the answers: side by side on a wide terminal, else one below the other. Control characters are escaped."""
    screen = console()
    names = [voice.name for voice in chat.voices]
    if question:
        print(f"> {printable(question.strip())}")
    if screen.is_terminal and len(answers) > 1 and shutil.get_terminal_size().columns >= SIDE_BY_SIDE:
        return _columns(screen, names, answers)
    for name, answer in zip(names, answers, strict=True):
        lines = printable(answer.strip()).split("\n")
        print("\n  ".join([f"{printable(name)}: {lines[0]}", *lines[1:]]))
    print(flush=True)  # a reader behind a pipe waits for it
    return None


def _columns(screen: Console, names: Sequence[str], answers: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, expand=True)
    for name in names:
        table.add_column(Text(printable(name)), ratio=1, overflow="fold")
    table.add_row(*(Text(printable(answer.strip())) for answer in answers))
    screen.print(table)
