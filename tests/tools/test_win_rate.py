"""`prefopt win-rate`: whose answers meet, what counts as a preference, and that a killed command asks nothing twice."""

import gzip
import json

import numpy as np
import pytest
from command import command
from fake_server import Answer, FakeServer

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.rules.length_control import length_controlled, length_terms
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.records import make_table, write_json
from prefopt.tools.win_rate import win_rate as tool
from prefopt.tools.win_rate.settings import WinRateConfig
from prefopt.tools.win_rate.win_rate import win_rate

RECORDED = {"kind": "recorded", "name": "gold"}


def config(**values):
    return parse_config(WinRateConfig, values, "test")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def annotations(path, preferences, base="long answer", own="short", **more):
    return write(path, [
        {"instruction": f"q{k}", "output_1": base, "generator_1": "base", "output_2": own, "generator_2": "mine",
         "annotator": "someone", "preference": value, **more}
        for k, value in enumerate(preferences)
    ])  # fmt: skip


def outputs(path, model, texts, **more):
    return write(
        path,
        [
            {"instruction": f"q{k}", "output": text, "generator": model, **more}
            for k, text in enumerate(texts)
        ],
    )


# ---- recorded annotations


def test_annotations_count_as_their_form_says(tmp_path):
    place = annotations(tmp_path / "a.json", [1.0, 2.0, 1.25, 0, 1.5, None])
    found = win_rate([place]).figures
    mine = found["models"]["mine"]
    assert found["baseline"] == "base"
    assert mine["win_rate"]["mean"] == pytest.approx((0 + 1 + 0.25 + 0.5 + 0.5) / 5)
    assert mine["discrete_win_rate"]["mean"] == pytest.approx((1 + 0.5 + 0.5) / 5)
    assert [mine[k] for k in ("wins", "ties", "losses", "unparsed", "comparisons")] == [1, 2, 2, 1, 5]
    assert mine["standard_error"] == pytest.approx(np.std([0, 1, 0.25, 0.5, 0.5], ddof=1) / 5**0.5)
    assert mine["characters"] == {"answer": 5, "baseline": 11}


@pytest.mark.parametrize("value", [0.5, 2.01, -1, "2", True])
def test_a_preference_of_no_known_meaning_is_an_error_with_its_row(tmp_path, value):
    place = annotations(tmp_path / "a.jsonl", [1.0, value])
    with pytest.raises(PrefoptError, match=r"(line|row) 2.*preference"):
        win_rate([place])


def test_length_control_takes_lengths_difficulties_and_anchors_from_the_files(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.random(60)
    rows = [
        {"instruction": f"q{k}", "output_1": "x" * int(rng.integers(10, 90)), "generator_1": "base",
         "output_2": "y" * int(rng.integers(10, 90)), "generator_2": "mine", "preference": 1 + float(v)}
        for k, v in enumerate(y)
    ]  # fmt: skip
    place = write(tmp_path / "a.jsonl", rows)
    gamma = rng.normal(size=60)
    hard = write(
        tmp_path / "hard.jsonl", [{"prompt": f"q{k}", "difficulty": float(g)} for k, g in enumerate(gamma)]
    )
    terms = length_terms([len(r["output_1"]) for r in rows], [len(r["output_2"]) for r in rows])
    found = win_rate([place]).figures["models"]["mine"]["length_controlled"]
    assert found["form"] == "length_controlled_minimal"
    assert found["mean"] == length_controlled(y, terms)["mean"]
    found = win_rate([place], config=config(difficulty=hard)).figures["models"]["mine"]["length_controlled"]
    assert found["form"] == "length_controlled_noreg"
    assert found["mean"] == pytest.approx(length_controlled(y, terms, gamma)["mean"])
    both = config(difficulty=hard, anchors=[place])
    found = win_rate([place], config=both).figures["models"]["mine"]["length_controlled"]
    assert found["form"] == "length_controlled_v1"
    short = write(tmp_path / "short.jsonl", [{"prompt": "q0", "difficulty": 1.0}])
    with pytest.raises(PrefoptError, match="59 prompts have no difficulty"):
        win_rate([place], config=config(difficulty=short))


def test_annotations_need_neither_judge_nor_baseline(tmp_path):
    place = annotations(tmp_path / "a.jsonl", [1.0, 2.0])
    with pytest.raises(PrefoptError, match="leave out --judge"):
        win_rate([place], config=config(judge="verifier"))
    with pytest.raises(PrefoptError, match="leave out --baseline"):
        win_rate([place], place)
    other = outputs(tmp_path / "o.jsonl", "m", ["a"])
    with pytest.raises(PrefoptError, match="one or the other"):
        win_rate([place, other])
    against = annotations(tmp_path / "b.jsonl", [1.0])
    text = (tmp_path / "b.jsonl").read_text().replace('"base"', '"else"')
    (tmp_path / "b.jsonl").write_text(text)
    with pytest.raises(PrefoptError, match="files of one baseline"):
        win_rate([place, against])


# ---- judged


def judgments(model, values):
    return [
        [{"judge": "gold", "model_a": "base", "model_b": model, "preference_b": v, "winner": None}]
        for v in values
    ]


def test_a_tournament_file_by_its_recorded_judge(tmp_path):
    values = [0.9, 0.2, 0.5, 1.0]
    rows = [
        {"id": f"p{k}", "prompt": f"q{k}", "judgments": said,
         "completions": [{"model": "base", "text": "b"}, {"model": "mine", "text": "m" if k else ""}]}
        for k, said in enumerate(judgments("mine", values))
    ]  # fmt: skip
    rows.append({"id": "p9", "prompt": "q9", "completions": rows[0]["completions"], "judgments": []})
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = win_rate([f"{path}:mine"], f"{path}:base", config(judge=RECORDED)).figures["models"]["mine"]
    assert found["win_rate"]["mean"] == pytest.approx(
        np.mean(values)
    )  # the empty answer counts as it was judged
    assert (found["missing"], found["comparisons"], found["discrete_win_rate"]["mean"]) == (1, 4, 0.625)
    hard = win_rate([f"{path}:mine"], f"{path}:base", config(judge=RECORDED, probabilities=False)).figures
    assert hard["models"]["mine"]["win_rate"]["mean"] == 0.625
    with pytest.raises(PrefoptError, match="holds answers of 2 models"):
        win_rate([str(path)], f"{path}:base", config(judge=RECORDED))
    with pytest.raises(PrefoptError, match="did you mean 'mine'"):
        win_rate([f"{path}:mien"], f"{path}:base", config(judge=RECORDED))


def better_is_longer(body):
    """Says which answer has more letters; a judge without position bias."""
    text = body["messages"][-1]["content"]
    a, b = (text.split(f"<answer_{name}>\n")[1].split(f"\n</answer_{name}>")[0] for name in "AB")
    return Answer("A" if len(a) > len(b) else "B")


def served_config(server, **more):
    return config(judge={"kind": "server", "server": {"base_url": server.url, "model": "j"}}, **more)


def test_both_orders_are_asked_and_equal_answers_are_a_tie_without_a_call(tmp_path):
    mine = outputs(tmp_path / "m.jsonl", "mine", ["long long", "x", "same", "extra"])
    base = outputs(tmp_path / "b.jsonl", "base", ["short", "yyy", "same"])
    with FakeServer(better_is_longer) as server:
        found = win_rate([mine], base, served_config(server)).figures
        assert len(server.calls) == 4  # two comparisons, both orders
    mine = found["models"]["mine"]
    assert (mine["wins"], mine["ties"], mine["losses"], mine["prompts"]) == (1, 1, 1, 3)
    with FakeServer(lambda body: Answer("A")) as server:  # always the first: no order counts alone
        found = win_rate([str(tmp_path / "m.jsonl")], base, served_config(server)).figures
    assert found["models"]["mine"]["win_rate"]["mean"] == 0.5


def test_answers_without_a_verdict_are_left_out_and_counted(tmp_path):
    mine = outputs(tmp_path / "m.jsonl", "mine", ["long long", "x"])
    base = outputs(tmp_path / "b.jsonl", "base", ["short", "yyy"])

    def answer(body):
        return Answer("I cannot say.") if "yyy" in body["messages"][-1]["content"] else better_is_longer(body)

    with FakeServer(answer) as server:
        found = win_rate([mine], base, served_config(server)).figures
    mine = found["models"]["mine"]
    assert (mine["unparsed"], mine["comparisons"], mine["win_rate"]["mean"]) == (1, 1, 1.0)
    assert any("left out" in text for text in found["warnings"])


def test_a_command_that_ends_early_asks_only_for_the_rest(tmp_path):
    mine = outputs(tmp_path / "m.jsonl", "mine", [f"long long {k}" for k in range(6)])
    base = outputs(tmp_path / "b.jsonl", "base", ["short"] * 6)
    whole = tmp_path / "whole"
    gone = [True]

    def failing(body):
        said = body["messages"][-1]["content"]
        if gone[0] and "long 5" in said:
            raise RuntimeError("the server hangs up")
        return Answer("who knows") if "long 4" in said else better_is_longer(body)

    def run(server, folder):
        words = ["--judge.kind", "server", "--judge.server.base_url", server.url, "--judge.server.model", "j",
                 "--judge.server.retries", "0"]  # fmt: skip
        return command("win-rate", mine, "--baseline", base, *words, "--output", folder)

    with FakeServer(failing) as server:
        ended = run(server, whole)
        assert ended.exit_code == 2
        assert "start the same command again" in ended.output
        gone[0] = False
        before = {
            json.dumps(call.body, sort_keys=True) for call in server.calls if "long 5" not in call.question
        }
        count = len(server.calls)
        assert run(server, whole).exit_code == 0
        first = len(server.calls)
        fresh = {json.dumps(call.body, sort_keys=True) for call in server.calls[count:]}
        assert not fresh & before  # what was answered is kept
        (whole / "win-rate.json").rename(tmp_path / "first.json")
        assert run(server, whole).exit_code == 0
        assert len(server.calls) == first  # nothing is asked twice
        one, two = (json.loads(p.read_text()) for p in (tmp_path / "first.json", whole / "win-rate.json"))
        assert one["models"] == two["models"]
    rows = json.loads((whole / "annotations.json").read_text())
    again = win_rate([str(whole / "annotations.json")]).figures["models"]["mine"]
    assert len(rows) == 6
    for key in ("win_rate", "length_controlled", "wins", "ties", "losses", "unparsed"):
        assert again[key] == one["models"]["mine"][key]  # what is written can be read


# ---- runs


def sample(k, mode, text):
    return {"kind": "sample", "mode": mode, "id": f"{k}-{mode}", "prompt_id": f"p{k}", "prompt": f"q{k}",
            "completion_index": 0, "completion": text, "is_correct": None}  # fmt: skip


def make_run(folder, arms):
    places = {name: {"evaluate": f"{name}/08-evaluate"} for name in arms}
    for name, rows in arms.items():
        about = {"key": "0" * 64, "config": {}, "seed": 0}
        output = StageOutput(make_table(rows, tuple(rows[0])), about.pop("unused", {}))
        StageFolder(folder / places[name]["evaluate"]).finish("evaluate", output, about)
    write_json(folder / "summary.json", {"main": "dpo", "arms": {"dpo": {}}, "folders": places})
    return folder


def test_arms_of_a_run_meet_by_greedy_answers_unless_told_otherwise(tmp_path):
    run = make_run(tmp_path / "run", {
        "base": [sample(k, mode, "short") for k in range(3) for mode in ("sampled", "greedy")],
        "dpo": [sample(k, mode, "longer one" if mode == "greedy" else "no") for k in range(3) for mode in ("sampled", "greedy")],
    })  # fmt: skip
    with FakeServer(better_is_longer) as server:
        name = f"{run}:dpo"
        found = win_rate([str(run)], f"{run}:base", served_config(server)).figures["models"][name]
        assert (found["wins"], found["losses"]) == (3, 0)
        drawn = win_rate([name], f"{run}:base", served_config(server, mode="sampled")).figures["models"][name]
        assert (drawn["wins"], drawn["losses"]) == (0, 3)
        folder = run / "base" / "08-evaluate"  # a stage's folder, as `prefopt evaluate` writes it
        alone = win_rate([str(run)], str(folder), served_config(server)).figures["models"][name]
        assert alone["wins"] == 3
    with pytest.raises(PrefoptError, match="no arm 'dop', did you mean 'dpo'"):
        win_rate([f"{run}:dop"], str(run))
    with pytest.raises(PrefoptError, match="given twice"):
        win_rate([str(run)], f"{run}:dpo", config(judge="verifier"))


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path):
    mine, base = outputs(tmp_path / "m.jsonl", "mine", ["a"]), outputs(tmp_path / "b.jsonl", "base", ["b"])
    for words, said in (
        ([mine], "against whom"),
        ([mine, "--baseline", base], "who judges"),
        ([mine, "--baseline", tmp_path / "none.jsonl"], "none.jsonl"),
        (
            [mine, "--baseline", base, "--judge", "verifier", "--anchors", f"[{mine}]"],
            "anchors need difficulty",
        ),
        ([mine, "--baseline", base, "--judge", "verifier", "--output", tmp_path], "holds"),
    ):
        result = command("win-rate", *words)
        assert result.exit_code == 2
        assert said in result.output
        assert len(result.output.strip().splitlines()) == 1
    write(tmp_path / "o.jsonl", [{"instruction": "other", "output": "x"}])
    with pytest.raises(PrefoptError, match="answers none of the 1 prompts"):
        win_rate([str(tmp_path / "o.jsonl")], base, config(judge="verifier"))
    assert tool.CLAIMS.stage == "win-rate"
