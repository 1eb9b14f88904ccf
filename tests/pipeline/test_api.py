"""The public face: `import prefopt`, `prefopt.run` and the stages as functions."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from datasets import Dataset

import prefopt
from prefopt.core import plugins
from prefopt.core.errors import PrefoptError
from prefopt.engines import ENGINES
from prefopt.judges import JUDGES
from prefopt.losses import table as losses
from prefopt.rules.selection import RULES
from prefopt.verify.verifiers import VERIFIERS

BASE = "builtin:quickstart/base"
PAIRS = [{"prompt": f"{a}+1", "chosen": f"={a + 1}", "rejected": f"={a + 2}"} for a in range(6)]
HEAVY = ("torch", "transformers", "datasets", "numpy", "pyarrow", "pydantic", "jax", "yaml", "rich", "typer")


@pytest.fixture(autouse=True)
def _tidy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    tables = {
        "loss": losses._BY_NAME,
        "judge": JUDGES,
        "engine": ENGINES,
        "verifier": VERIFIERS,
        "rule": RULES,
    }
    for kind, table in tables.items():
        for name in plugins.added(kind):
            plugins.remove_part(kind, name, table)


def test_importing_the_package_loads_nothing_heavy():
    program = f"import sys, prefopt; dir(prefopt); print(sorted(set({HEAVY}) & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there_and_typed():
    for name in prefopt.__all__:
        assert getattr(prefopt, name) is not None, name
    assert set(prefopt._PLACES) | {"__version__"} == set(prefopt.__all__)
    source = prefopt.__spec__.loader.get_source("prefopt")
    typed = source[source.index("if TYPE_CHECKING:") : source.index("# name -> module")]
    for name in prefopt._PLACES:
        assert name in typed, f"{name} is invisible to type checkers"
    assert prefopt.verify.same_answer("1/2", "0.5")
    assert (plugins.Path(prefopt.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        prefopt.nothing  # noqa: B018


def short(prompt, completion, row, *, words=3):
    return len(completion.split()) <= words


def echo(prompt, sampling, seed, *, times=1):
    return f"A: {seed % 3} " + "word " * (seed % 5) * times


def longer(call):
    return "first" if len(call.first["completion"]) > len(call.second["completion"]) else "second"


def best_half(scores, count, limit):
    return scores >= sorted(scores)[len(scores) // 2] if len(scores) else scores > 0


def test_stages_are_functions_of_tables_without_a_folder(tmp_path):
    """From prompts to selected pairs with parts that are plain functions; nothing is written."""
    completions = prefopt.sample([{"prompt": f"q{i}"} for i in range(3)], engine=echo, n=4)
    judged = prefopt.judge(completions, kind=short)
    wanted = [len(text.split()) <= 3 for text in judged["completion"]]
    assert judged["is_correct"] == wanted
    assert 0 < sum(wanted) < len(wanted)
    pairs = prefopt.rank(judged, judge=longer)
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in pairs)
    scored = [{**row, "ref_chosen_logps": -float(i), "ref_rejected_logps": -1.0, "chosen_tokens": 1, "rejected_tokens": 1}
              for i, row in enumerate(pairs)]  # fmt: skip
    kept = prefopt.select(Dataset.from_list(scored), rule=best_half)["kept"]
    assert kept[0] is True
    assert sum(kept) == len(kept) - len(kept) // 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_what_the_verb_would_and_is_not_done_again(tmp_path, monkeypatch):
    prompts = [{"prompt": "q", "gold": "1"}]
    calls = []

    def counted(prompt, sampling, seed):
        calls.append(seed)
        return "A: 1"

    first = prefopt.sample(prompts, engine=counted, n=2, output="out")
    again = prefopt.sample(prompts, engine=counted, n=2, output="out")
    assert first.to_list() == again.to_list()
    assert len(calls) == 2
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert prefopt.judge("out")["is_correct"] == [True, True]
    prefopt.sample(prompts, engine=counted, n=3, output="out")
    assert len(calls) == 5


def test_another_source_of_a_part_is_another_key():
    def keys(text):
        spec = {}
        exec(compile(text, "<cell>", "exec"), spec)  # noqa: S102
        prefopt.register_verifier("cell")(spec["check"])
        found = plugins.digests("verifier", ["cell"])
        plugins.remove_part("verifier", "cell", VERIFIERS)
        return found

    one, two = (
        "def check(prompt, completion, row): return True",
        "def check(prompt, completion, row): return False",
    )
    assert keys(one) == keys(one) != keys(two)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: prefopt.sample([{"prompt": "q"}], n=2), "no model; give model="),
        (lambda: prefopt.sample([{"prompt": "q"}], modle=2), r"prefopt\.sample: unknown key 'modle'"),
        (lambda: prefopt.judge([]), "the table is empty"),
        (lambda: prefopt.judge([3]), "row 1 is a int"),
        (lambda: prefopt.judge({"prompt": []}), "give one table"),
        (lambda: prefopt.judge([{"prompt": "q", "completion": "a", "label": True}], kind="shrt"), "judge"),
        (lambda: prefopt.select(PAIRS, rule="tpo"), "did you mean 'top'"),
        (lambda: prefopt.rank([{"prompt": "q"}], judge={"kind": "simulatd"}), "did you mean 'simulated'"),
        (lambda: prefopt.load_dataset(PAIRS, output="x"), "output is for files"),
        (lambda: prefopt.Run("nowhere"), "nowhere"),
    ],
)
def test_bad_calls_are_one_line(call, says):
    with pytest.raises(PrefoptError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_errors_of_a_part_name_its_line():
    def failing(prompt, completion, row):
        return {}["gone"]

    line = failing.__code__.co_firstlineno + 1
    rows = prefopt.sample([{"prompt": "q"}], engine=echo, n=1)
    with pytest.raises(PrefoptError, match=rf"test_api\.py:{line}: verifier 'failing': KeyError: 'gone'"):
        prefopt.judge(rows, kind=failing)
    with pytest.raises(PrefoptError, match="verifier 'odd': TypeError: gave 'yes'"):
        prefopt.judge(
            rows,
            kind=prefopt.register_verifier("odd")(lambda prompt, completion, row: "yes").__name__ and "odd",
        )


def test_rows_that_are_dropped_are_told(caplog):
    with caplog.at_level(logging.WARNING, "prefopt"):
        table = prefopt.load_dataset(
            [*PAIRS, {"prompt": "x", "chosen": "same", "rejected": "same"}], heldout=0.0
        )
    assert table.num_rows == 6
    assert "1 identical answers" in caplog.text


def test_a_run_on_objects_with_parts_of_a_file(tmp_path):
    """Data and model in memory, a plug-in of twenty lines with loss, judge and verifier, and a callback."""
    from transformers import TrainerCallback

    from prefopt.models.find import resolve_model
    from prefopt.models.load import load_model, load_tokenizer

    (tmp_path / "my_checks.py").write_text(PLUGIN)
    assert len(PLUGIN.strip().splitlines()) <= 20
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    path = resolve_model(BASE)
    recipe = {
        "name": "mine", "plugins": "./my_checks.py",
        "data": {"heldout": 0.0}, "sample": {"engine": "counting", "n": 4},
        "judge": {"kind": "few", "options": {"words": 3}}, "rank": {"judge": {"kind": "more"}},
        "reference": {}, "select": None, "weight": None, "evaluate": None,
        "train": {"loss": [{"name": "own_dpo", "beta": 0.2}], "pairs_per_step": 2},
    }  # fmt: skip
    prompts = [{"prompt": f"{i}+1"} for i in range(3)]
    run = prefopt.run(
        recipe,
        data=prompts,
        model=(load_model(path), load_tokenizer(path)),
        callbacks=[Count()],
        train__steps=2,
    )
    assert run.arms == ["main"]
    assert steps == [1, 2]
    assert run.folder == plugins.Path("runs/mine")
    assert (run.folder / "input" / "data.jsonl").is_file()
    assert (run.model_path / "model.safetensors").is_file()
    assert run.report_path.is_file()
    assert set(run.table("judge")["is_correct"]) <= {True, False}
    assert all(
        len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in run.table("rank")
    )
    assert run.table("train")[0]["step0/loss"] == pytest.approx(0.693147, abs=1e-4)
    with pytest.raises(PrefoptError, match=r"arm 'main' has no stage 'wait'"):
        run.table("wait")
    again = prefopt.run(
        recipe,
        data=prompts,
        model=(load_model(path), load_tokenizer(path)),
        callbacks=[Count()],
        train__steps=2,
    )
    assert steps == [1, 2]
    assert again.summary["arms"] == run.summary["arms"]
    changed = PLUGIN.replace("return -logsigmoid(", "return -1.0 * logsigmoid(")
    (tmp_path / "my_checks.py").write_text(changed)
    prefopt.run(
        recipe,
        data=prompts,
        model=(load_model(path), load_tokenizer(path)),
        callbacks=[Count()],
        train__steps=2,
    )
    assert steps == [1, 2, 1, 2]


PLUGIN = """
import prefopt
from prefopt.losses.ops import logsigmoid

@prefopt.register_loss("own_dpo")
def own_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
    return -logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))

@prefopt.register_judge("more")
def more(call):
    return 1.0 if len(call.first["completion"]) > len(call.second["completion"]) else 0.0

@prefopt.register_verifier("few")
def few(prompt, completion, row, *, words=5):
    return len(completion.split()) <= words

@prefopt.register_engine("counting")
def counting(prompt, sampling, seed):
    return "word " * (1 + seed % 7)
"""


def test_text_prompts_become_messages_where_the_model_has_a_chat_template(tmp_path):
    """As on the command line: a chat model that is given raw text answers something else, without a word."""
    rows = [{"prompt": "12+7", "answer": "19"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "12+7", "answer": "19"}\n', encoding="utf-8")
    settings = {"model": BASE, "max_new_tokens": 4}

    def asked(table):
        return {(message["role"], message["content"]) for row in table for message in row["prompt"]}

    for given in (rows, str(path)):
        assert asked(prefopt.sample(given, n=1, **settings)) == {("user", "12+7")}
        assert asked(prefopt.evaluate(given, n=0, **settings).table) == {("user", "12+7")}
    beside = prefopt.evaluate(PAIRS, prompts=rows, n=0, pairs="all", **settings).table
    assert asked(beside) == {("user", "12+7"), *(("user", row["prompt"]) for row in PAIRS)}
