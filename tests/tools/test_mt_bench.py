"""`prefopt mt-bench`: two turns, the right prompt of the judge, what is read of its words, tables, and going on."""

import json
import re
import shutil

import pytest
from command import command
from fake_server import Answer, FakeServer

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.models.find import resolve_model
from prefopt.rules.votes import INCONSISTENT
from prefopt.tools.mt_bench.grading import read_rating, read_verdict
from prefopt.tools.mt_bench.mt_bench import mt_bench
from prefopt.tools.mt_bench.settings import MtBenchConfig

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write {answer}.", "Shorter."]},
    {"question_id": 2, "category": "math", "turns": ["2 + 2?", "And 3 more?"]},
    {"question_id": 3, "category": "stem", "turns": ["Only one turn."]},
]
REFERENCES = [{"question_id": 2, "choices": [{"turns": ["four", "seven"]}]}]


def prompt(name, kind, slots):
    text = f"<{name}> " + " | ".join(f"{slot}={{{slot}}}" for slot in slots)
    return {"name": name, "type": kind, "system_prompt": "", "prompt_template": text}


PROMPTS = [
    prompt("s", "single", ["question", "answer"]),
    prompt("s-ref", "single", ["question", "ref_answer_1", "answer"]),
    prompt("s2", "single", ["question_1", "answer_1", "question_2", "answer_2"]),
    prompt("s2-ref", "single", ["ref_answer_1", "ref_answer_2", "question_1", "answer_1", "question_2", "answer_2"]),
    prompt("p", "pairwise", ["question", "answer_a", "answer_b"]),
    prompt("p-ref", "pairwise", ["question", "ref_answer_1", "answer_a", "answer_b"]),
    prompt("p2", "pairwise", ["question_1", "question_2", "answer_a_1", "answer_a_2", "answer_b_1", "answer_b_2"]),
    prompt("p2-ref", "pairwise", ["ref_answer_2", "question_2", "answer_a_2", "answer_b_2"]),
]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    return {
        "questions": write(tmp_path / "question.jsonl", QUESTIONS),
        "judge_prompts": write(tmp_path / "judge_prompts.jsonl", PROMPTS),
        "references": write(tmp_path / "reference.jsonl", REFERENCES),
    }


def answers(path, model, said):
    rows = [
        {"question_id": q["question_id"], "model_id": model, "choices": [{"turns": [f"{said}{k}" for k, _ in enumerate(q["turns"], 1)]}]}
        for q in QUESTIONS
    ]  # fmt: skip
    return str(write(path, rows))


def config(server=None, **values):
    judge = {"judge": {"base_url": server.url, "model": "judge", "retries": 0}} if server else {}
    values = {
        k: str(v) if k in ("questions", "judge_prompts", "references") else v for k, v in values.items()
    }
    return parse_config(MtBenchConfig, {**judge, **values}, "test")


# ---- what is read of the judge's words


@pytest.mark.parametrize(
    ("text", "score"),
    [("Good. Rating: [[7]]", 7), ("Rating: [[8.5]]", 8.5), ("as [[2]] would be, so [[9]]", 9), ("Rating: [6]", 6),
     ("Rating: 7", None), ("[[11]]", None), ("[[0]]", None), ("", None), ("[[seven]]", None), ("cites [3]. [[4]]", 4)],
)  # fmt: skip
def test_ratings(text, score):
    assert read_rating(text) == score


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("so [[A]]", "A"), ("not [[A]] but [[B]]", "B"), ("[[C]]", "C"), ("A", None), ("[[D]]", None)],
)
def test_verdicts(text, verdict):
    assert read_verdict(text) == verdict


# ---- single grading


def test_every_turn_is_graded_by_its_own_prompt_and_the_table_is_by_category_and_turn(tmp_path, files):
    place = answers(tmp_path / "m.jsonl", "mine", "{question}-answer")  # braces of an answer stay text

    def grade(body):
        said = body["messages"][-1]["content"]
        if "<s2>" in said:
            return Answer("cannot say")
        return Answer(f"Rating: [[{4 if '<s2-ref>' in said else 8 if '<s-ref>' in said else 6}]]")

    with FakeServer(grade) as server:
        found = mt_bench([place], config(server, **files))
        asked = sorted({call.question for call in server.calls})
        assert len(server.calls) == 6  # five turns, one of them twice
    assert asked[0] == "<s-ref> question=2 + 2? | ref_answer_1=four | answer={question}-answer1"
    assert any("answer={question}-answer1" in text and "question=Write {answer}." in text for text in asked)
    mine = found.figures["models"]["mine"]
    assert mine["all"]["turn_1"]["mean"] == pytest.approx((6 + 8 + 6) / 3)
    assert mine["math"]["both"]["mean"] == 6
    assert mine["writing"]["turn_2"]["mean"] is None
    assert (found.figures["judgments"], found.figures["unparsed"]) == (5, 1)
    assert any("cannot be read" in text for text in found.figures["warnings"])


def test_references_are_asked_for_where_a_category_needs_them(tmp_path, files):
    place = answers(tmp_path / "m.jsonl", "mine", "a")
    with FakeServer(lambda body: Answer("[[5]]")) as server:
        without = {k: v for k, v in files.items() if k != "references"}
        with pytest.raises(PrefoptError, match=r"question 2 \(math\) needs a reference"):
            mt_bench([place], config(server, **without))
        found = mt_bench([place], config(server, **without, reference_categories=[]))
        assert not any("-ref>" in call.question for call in server.calls)
    assert found.figures["models"]["mine"]["all"]["both"]["mean"] == 5


# ---- pairs


def test_pairs_meet_in_both_orders_and_a_flip_is_an_inconsistent_tie(tmp_path, files):
    one, two = answers(tmp_path / "1.jsonl", "one", "good"), answers(tmp_path / "2.jsonl", "two", "bad")

    def verdict(body):
        said = body["messages"][-1]["content"]
        if "<p-ref>" in said:
            return Answer("[[A]]")  # whoever stands first
        if "<p2-ref>" in said:
            return Answer("[[C]]")
        first = re.search(r"answer_a(?:_1)?=(\w+?)\d", said)[1]
        return Answer("[[A]]" if first == "good" else "[[B]]")

    with FakeServer(verdict) as server:
        found = mt_bench([one], config(server, **files, mode="pairwise"), baseline=two)
        assert len(server.calls) == 10  # five turns, both orders
        every = mt_bench([one, two], config(server, **files, mode="pairwise"))
    assert found.figures["win_rates"] == every.figures["win_rates"]
    rates = found.figures["win_rates"]["judge"]["all"]
    assert (rates["one"]["wins"], rates["one"]["ties"], rates["two"]["losses"]) == (3, 2, 3)
    assert [v.winner for v in found.votes if v.question == 2] == [INCONSISTENT, "tie"]
    assert found.figures["win_rates"]["judge"]["math"]["one"]["adjusted"]["mean"] == 0.5


# ---- answers of models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(resolve_model("builtin:quickstart/base"), folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    return folder


def test_a_model_answers_its_own_first_answer_and_a_second_start_asks_nothing_again(tmp_path, files, model):
    rows = [
        {"question_id": k, "category": "math" if k else "writing", "turns": ["1+2", "+3"]} for k in range(3)
    ]
    files["questions"] = write(tmp_path / "q.jsonl", rows)
    output = tmp_path / "out"

    def run(server):
        words = ["--judge.base-url", server.url, "--judge.model", "judge", "--reference-categories", "[]"]
        given = [
            word
            for name in ("questions", "judge_prompts")
            for word in ("--" + name.replace("_", "-"), files[name])
        ]
        return command("mt-bench", model, *given, *words, "--max-new-tokens", "8", "--output", output)

    with FakeServer(lambda body: Answer("Rating: [[3]]")) as server:
        first = run(server)
        assert first.exit_code == 0, first.output
        count = len(server.calls)
        before = {
            p.name: p.read_bytes() for p in output.iterdir() if p.suffix in (".json", ".jsonl", ".parquet")
        }
        assert run(server).exit_code == 0
        assert len(server.calls) == count
    after = {p.name: p.read_bytes() for p in output.iterdir() if p.suffix in (".json", ".jsonl", ".parquet")}
    assert after == before
    said = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    assert [len(row["choices"][0]["turns"]) for row in said] == [2, 2, 2]
    assert said[1]["choices"] == said[2]["choices"]  # greedy: the same question, the same answer
    assert "grades from 1 to 10" in first.stdout


def test_answers_that_are_cut_are_told(tmp_path, files, model):
    files["questions"] = write(
        tmp_path / "q.jsonl", [{"question_id": 1, "category": "writing", "turns": ["1+2"]}]
    )
    with FakeServer(lambda body: Answer("[[5]]")) as server:
        found = mt_bench([str(model)], config(server, **files, max_new_tokens=1))
    assert found.figures["warnings"] == [f"{model}: 1 of 1 answers were cut at max_new_tokens."]


def test_a_model_behind_a_server_hears_the_whole_conversation(tmp_path, files):
    heard = []

    def talk(body):
        heard.append([m["content"] for m in body["messages"]])
        return Answer(f"reply {len(body['messages'])}")

    with FakeServer(talk) as mine, FakeServer(lambda body: Answer("[[5]]")) as judge:
        settings = {"engine": "server", "engine_server": {"base_url": mine.url, "model": "talker"}}
        found = mt_bench(["talker"], config(judge, **files, **settings))
    assert ["2 + 2?", "reply 1", "And 3 more?"] in heard
    assert found.answers[0].turns[2] == ("reply 1", "reply 3")
    temperatures = {call.question: call.body["temperature"] for call in mine.calls}
    assert temperatures["2 + 2?"] == 0
    assert temperatures["Write {answer}."] == 0.7


def test_a_command_that_ends_early_goes_on_where_it_was(tmp_path, files):
    """The judge hangs up on one question: no answer is written again, and only what it has not judged is asked."""
    gone = [True]

    def judged(body):
        if gone[0] and "2 + 2?" in body["messages"][-1]["content"]:
            raise RuntimeError("the judge hangs up")
        return Answer("[[5]]")

    with FakeServer(lambda body: Answer("reply")) as mine, FakeServer(judged) as judge:
        words = [word for name in files for word in ("--" + name.replace("_", "-"), files[name])]
        words += [
            "--judge.base-url",
            judge.url,
            "--judge.model",
            "j",
            "--judge.retries",
            "0",
            "--judge.concurrency",
            "1",
        ]
        words += [
            "--engine",
            "server",
            "--engine-server.base-url",
            mine.url,
            "--engine-server.model",
            "talker",
        ]
        ended = command("mt-bench", "talker", *words, "--output", tmp_path / "out")
        assert ended.exit_code == 2
        assert "start the same command again" in ended.output
        written, asked = (
            len(mine.calls),
            {call.question for call in judge.calls if "2 + 2?" not in call.question},
        )
        count = len(judge.calls)
        gone[0] = False
        assert command("mt-bench", "talker", *words, "--output", tmp_path / "out").exit_code == 0
        assert len(mine.calls) == written == 5
        assert not asked & {call.question for call in judge.calls[count:]}
    found = json.loads((tmp_path / "out" / "mt-bench.json").read_text())
    assert found["models"]["talker"]["all"]["both"]["mean"] == 5


# ---- votes and errors


def test_recorded_votes_give_the_table_and_agreement(tmp_path):
    rows = [
        {"judge": judge, "question_id": 1, "turn": turn, "model_a": "x", "model_b": "y", "winner": winner}
        for judge, turn, winner in (
            ("gpt4_pair", 1, "model_a"),
            ("expert_1", 1, "model_a"),
            ("expert_2", 2, "tie"),
        )
    ]
    place = write(tmp_path / "votes.jsonl", rows)
    result = command("mt-bench", place)
    assert result.exit_code == 0
    assert re.search(r"expert - gpt4_pair +1 +with +100\.0 +1", result.stdout)
    write(tmp_path / "bad.jsonl", [{**rows[0], "winner": "x"}])
    with pytest.raises(PrefoptError, match=r"row 1: winner 'x'"):
        mt_bench([str(tmp_path / "bad.jsonl")], config())


def test_what_is_wrong_is_said_in_a_line(tmp_path, files):
    place = answers(tmp_path / "m.jsonl", "mine", "a")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "tokenizer_config.json").write_text("{}")
    judge = ["--judge.base-url", "http://127.0.0.1:9/v1", "--judge.model", "j", "--judge.retries", "0"]
    q = [
        "--questions",
        files["questions"],
        "--judge-prompts",
        files["judge_prompts"],
        "--references",
        files["references"],
    ]
    bad = write(tmp_path / "bad.jsonl", [prompt("s", "single", ["question", "anser"])])
    part = write(tmp_path / "part.jsonl", PROMPTS[:1])
    short = write(
        tmp_path / "short.jsonl", [{"question_id": 1, "model_id": "m", "choices": [{"turns": ["a"]}]}]
    )
    for words, said in (
        ([place, *q], "who judges"),
        ([place, *judge], "give --questions"),
        ([place, *judge, *q[:2], "--judge-prompts", bad, *q[4:]], "{anser}, did you mean"),
        (
            [place, *judge, *q[:2], "--judge-prompts", part, *q[4:]],
            "holds no single prompt for turn 1 with reference",
        ),
        ([short, *judge, *q], "no answer to every turn of question 1"),
        ([place, *judge, *q, "--mode", "pairwise"], "at least two models"),
        ([place, *judge, *q, "--baseline", place], "is for --mode pairwise"),
        ([bare, *judge, *q], "has no chat template"),
    ):
        result = command("mt-bench", *words)
        assert result.exit_code == 2, result.output
        assert said in result.output
        assert len(result.output.strip().splitlines()) == 1
