"""`prefopt chat`: who is asked, what is remembered, and that nothing a model writes reaches the terminal as an order."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.engines import Completion, Sampling
from prefopt.models.find import resolve_model
from prefopt.tools.chat import Chat, Settings, Voice, converse, open_voices, run_models, show

BUILTIN = "builtin:quickstart/base"


class Echo:
    """An engine that answers with what it was given, so that a test sees the whole prompt."""

    name, max_tokens = "echo", None

    def __init__(self, answer=None):
        self.answer, self.seeds = answer, []

    def encode(self, row):
        if len(row["prompt"]) > 6:
            raise PrefoptError("the prompt fills the context")
        return row["prompt"]

    def generate(self, prompts, sampling, seed):
        self.seeds.append(seed)
        return [Completion(self.answer or json.dumps(prompt), None, "stop") for prompt in prompts]


def chat_of(*answers, chats=True, **settings):
    voices = [Voice(f"m{k}", Echo(answer), chats) for k, answer in enumerate(answers)]
    return Chat(voices, Settings(Sampling(), **settings))


def typed(chat, *lines):
    left = list(lines)
    converse(chat, lambda: left.pop(0) if left else None)


def test_a_conversation_goes_on_from_each_models_own_answers():
    chat = chat_of("one", "two", system="be brief")
    chat.ask("hello")
    for voice, own in zip(chat.voices, ("one", "two"), strict=True):
        voice.engine.answer = None
        (seen,) = [json.loads(chat._answer(voice, "and?", 0))]
        assert [m["content"] for m in seen] == ["be brief", "hello", own, "and?"]


def test_models_are_asked_under_the_same_seed_and_turns_differ():
    chat = chat_of("a", "b", seed=5)
    chat.ask("x")
    chat.ask("y")
    first, second = (voice.engine.seeds for voice in chat.voices)
    assert first == second
    assert len(set(first)) == 2
    other = chat_of("a", seed=6)
    other.ask("x")
    assert other.voices[0].engine.seeds != first[:1]


def test_a_base_model_gets_plain_text():
    chat = chat_of(None, chats=False)
    assert json.loads(chat.ask("2+2=")[0]) == "2+2="
    assert json.loads(chat.ask("3+3=")[0]) == "3+3="


def test_orders(capsys):
    chat = chat_of("a")
    typed(chat, "hi", "/again", "/temperature 0", "/seed 7", "/help", "/nwe", "/seed x", "/quit", "never")
    voice = chat.voices[0]
    assert [m["content"] for m in voice.said] == ["hi", "a"]
    assert len(set(voice.engine.seeds)) == 2  # drawn anew
    assert (chat.settings.sampling.temperature, chat.settings.seed) == (0, 7)
    shown = capsys.readouterr().out
    assert "/new " in shown
    assert "did you mean '/new'" in shown
    assert "takes a number" in shown
    assert "never" not in shown
    typed(chat, "/system be brief")
    assert (chat.settings.system, voice.said) == ("be brief", [])


def test_a_full_context_is_told_and_loses_nothing(capsys):
    chat = chat_of("a")
    typed(chat, "1", "2", "3", "4", "/new", "5")
    shown = capsys.readouterr().out
    assert "the prompt fills the context; /new begins anew" in shown
    assert [m["content"] for m in chat.voices[0].said] == ["5", "a"]
    with pytest.raises(PrefoptError, match="nothing was said"):
        chat_of("a").again()


@pytest.mark.parametrize("terminal", [False, True])
def test_orders_of_a_terminal_are_escaped(terminal, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    evil = "a\x1b[2J\x1b]0;title\x07 \u202eb [red]x[/red]"
    show(chat_of(evil, evil), [evil, evil], question=evil)
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\x1b]0" not in shown
    assert "\u202e" not in shown
    assert "\\x1b" in shown
    assert "[red]x[/red]" in shown.replace("\n", "")


# ---- real models


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run as far as chat looks at it; its trained model is the base."""
    folder = tmp_path_factory.mktemp("run")
    summary = {"main": "full", "arms": {"sft": {}, "full": {}}, "model": BUILTIN}
    summary["folders"] = {"sft": {"data": "00-data"}, "full": {"train": "arms/full/07-train"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    shutil.copytree(resolve_model(BUILTIN), folder / "arms" / "full" / "07-train" / "model")
    return folder


def test_base_and_trained_answer_alike_where_they_are_the_same(run):
    shown = command("chat", run, "--prompt", "3+4-2", "--prompt", "8*2", "--seed", 3, "--max-new-tokens", 24)
    assert shown.exit_code == 0, shown.stderr
    blocks = [block.split("\n", 1) for block in shown.stdout.strip().split("\n\n")]
    assert [question for question, _ in blocks] == ["> 3+4-2", "> 8*2"]
    for _, answers in blocks:
        base, full = answers.removeprefix("base: ").split("\nfull: ")
        assert base == full
        assert "A: " in base


def test_lines_of_a_pipe_are_prompts_by_themselves(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("3+4\n\n3+4\n"))
    words = ("chat", BUILTIN, "--temperature", 0, "--max-new-tokens", 24)
    blocks = command(*words).stdout.strip().split("\n\n")
    assert len(blocks) == 2
    assert blocks[0] == blocks[1]  # greedy, and nothing is remembered
    assert blocks[0].startswith("> 3+4\nbase: ")


def test_whom_to_ask(run, tmp_path):
    assert list(run_models(run)) == ["base", "full"]
    assert [voice.name for voice in open_voices(BUILTIN)] == ["base"]
    for words, said in (
        ((run, "--arm", "ful"), "did you mean 'full'?"),
        ((run, "--arm", "sft"), "trains no model"),
        ((BUILTIN, "--arm", "full"), "is no run"),
        ((tmp_path / "gone",), "no such directory"),
        ((BUILTIN, "--top-p", 0), "above 0"),
    ):
        shown = command("chat", *words, "--prompt", "x")
        assert shown.exit_code == 2
        assert said in shown.stderr
        assert len(shown.stderr.splitlines()) == 1
    (tmp_path / "00-data").mkdir()
    assert "not finished" in command("chat", tmp_path, "--prompt", "x").stderr
