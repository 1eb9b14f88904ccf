"""Stage 08 by a server: its answers, what is dropped, and what it cannot measure."""

import json

import pytest
from fake_server import Answer, FakeServer

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import run
from prefopt.stages.alone import run_alone
from prefopt.stages.evaluate.evaluate import STAGE, evaluate
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of


@pytest.fixture(autouse=True)
def _loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def quiz(count=4):
    return make_table(
        [{"id": f"t{i}", "prompt_id": f"t{i}", "prompt": f"q{i}", "gold": "1"} for i in range(count)]
    )


def settings(url, **more):
    server = {"base_url": url, "model": "served", "retries": 0, "backoff_s": 0.0}
    return parse_config(EvaluateConfig, {"engine": "server", "server": server, **more}, "recipe")


def answers(body):
    """Right where sampled at the set temperature and top_p, wrong where greedy."""
    drawn = (body.get("temperature", 1.0), body.get("top_p", 1.0)) == (0.7, 0.9)
    return Answer("A: 1" if drawn else "A: 2", "stop")


def test_sampled_and_greedy_answers_of_a_server():
    with FakeServer(answers) as server:
        given = settings(server.url, n=2, temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=33)
        output = evaluate(quiz(), given, Context(seed=3))
        bodies = [call.body for call in server.calls]
    rows = rows_of(output.table)
    assert [(row["mode"], row["model"]) for row in rows] == [("sampled", "served")] * 8 + [
        ("greedy", "served")
    ] * 4
    assert (output.quality["accuracy"]["mean"], output.quality["greedy"]["mean"]) == (1.0, 0.0)
    greedy = [body for body in bodies if body.get("temperature") == 0]
    drawn = [body for body in bodies if body.get("temperature") == 0.7]
    assert (len(greedy), len(drawn), len(bodies)) == (4, 8, 12)
    assert {body["top_k"] for body in drawn} == {5}
    assert {body["max_tokens"] for body in bodies} == {33}
    assert len({body["seed"] for body in bodies}) == 12


def test_answers_that_do_not_come_are_counted():
    long = {"error": {"message": "maximum context length is 4"}}
    with FakeServer(answers, refusals={"q1": (503, "busy"), "q2": (400, long)}) as server:
        output = evaluate(quiz(), settings(server.url), Context())
        assert output.dropped == {"server gave up": 2, "prompt fills the model's context": 2}
        assert output.quality["accuracy"]["n"] == 2
        with pytest.raises(PrefoptError, match=r"'t1'.*strict"):
            evaluate(quiz(), settings(server.url), Context(strict=True))
    with (
        FakeServer(refusals={"q0": (500, "no")}) as server,
        pytest.raises(PrefoptError, match=r"no answer \(server gave up: 2\)"),
    ):
        evaluate(quiz(1), settings(server.url), Context())


PAIR = {"id": "p", "prompt_id": "p", "prompt": "q", "split": "eval", "chosen": "a", "rejected": "b"}
SINGLE = {"id": "p", "prompt_id": "p", "prompt": "q", "split": "eval", "completion": "a", "label": True}


@pytest.mark.parametrize("row", [PAIR, SINGLE], ids=["pairs", "unpaired"])
def test_log_probs_of_held_out_rows_are_not_to_be_had(row):
    given = settings("http://127.0.0.1:9/v1")
    with pytest.raises(
        PrefoptError, match=r"1 held-out rows .* log-probs, which a server does not give; set pairs"
    ):
        evaluate(make_table([row]), given, Context())
    with FakeServer(answers) as server:
        given = settings(server.url, pairs="none")
        context = Context(inputs={"prompts": quiz(2)})
        assert evaluate(make_table([row]), given, context).quality["accuracy"]["n"] == 2


def test_alone_it_wants_no_model(tmp_path):
    prompts = tmp_path / "test.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": "1"}) + "\n" for i in range(3)))
    with FakeServer(answers) as server:
        run_alone(STAGE, settings(server.url), str(prompts), tmp_path / "out", Context())
        assert len(server.calls) == 6
        run_alone(STAGE, settings(server.url), str(prompts), tmp_path / "out", Context())
        assert len(server.calls) == 6


def test_a_run_that_trains_is_not_evaluated_by_a_server(tmp_path):
    server = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"{i}", "chosen": "a", "rejected": "b"}) + "\n" for i in range(4))
    )
    given = {"data": {"path": str(data)}, "evaluate": {"engine": "server", "server": server}}
    with pytest.raises(
        PrefoptError, match=r"arm 'main': evaluate.engine server .* not with the model .* trained"
    ):
        run(parse_config(Recipe, given, "recipe"), tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "server"}, "needs server.base_url"),
        ({"server": {"base_url": "http://h/v1", "model": "m"}}, "server is for engine 'server'"),
        (
            {"engine": "server", "server": {"base_url": "http://h/v1", "model": "m", "bas_url": "x"}},
            "did you mean 'base_url'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_error_lines(given, message):
    with pytest.raises(PrefoptError, match=message):
        parse_config(EvaluateConfig, given, "recipe")
