"""Every public form is read as what it is, with its scores, labels, roles and tools; and nothing is read as less."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from public_forms import SAMPLES, A, G, H, Sample, U

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.data.data import data
from prefopt.stages.data.reading.formats import FORMATS
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import rows_of

Row = dict[str, Any]


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """read(rows, **settings) -> StageOutput, through a JSON lines file."""

    def read(rows: list[Row], **options: Any) -> StageOutput:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = parse_config(DataConfig, {"path": str(path), "heldout": 0.0, **options}, "test")
        return data(None, config, Context())

    return read


def first(output: StageOutput) -> Row:
    return rows_of(output.table)[0]


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.whose for sample in SAMPLES])
def test_a_public_form_is_read_as_what_it_is(sample: Sample, read: Any) -> None:
    output = read([sample.row])
    assert (output.quality["source_format"], output.dropped) == (sample.form, {})
    assert output.quality["kind"] == FORMATS[sample.form].kind
    wanted = sample.want if isinstance(sample.want, list) else [sample.want]
    found = rows_of(output.table)
    assert len(found) == len(wanted)
    for row, want in zip(found, wanted, strict=True):
        assert {name: row[name] for name in want} == want


def test_every_form_has_a_sample() -> None:
    assert {sample.form for sample in SAMPLES} == set(FORMATS)
    assert all(sample.source.startswith("https://") for sample in SAMPLES)


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if FORMATS[s.form].kind != "prompts"], ids=lambda s: s.whose
)
def test_renamed_beyond_knowledge_a_form_is_refused_and_never_read_as_prompts(
    sample: Sample, read: Any
) -> None:
    """The columns of the answers under names that no form knows: an error that names one, or what it was before."""
    wanted = FORMATS[sample.form].kind
    odd = {
        "chosen": "chosen_x9",
        "rejected": "response_x9",
        "score": "my_score",
        "label": "my_label",
        "responses": "my_responses",
    }
    try:
        output = read([{odd.get(name, name): value for name, value in sample.row.items()}])
    except PrefoptError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert output.quality["kind"] in (wanted, "completions", "unpaired", "pairs")


# ---- kinds of fault


@pytest.mark.parametrize(
    "name", ["input", "context", "history", "user_query", "post", "ask", "dialogue", "frage", "qz"]
)
def test_the_question_under_another_name_is_read_or_named_but_never_cut_from_the_answers(
    name: str, read: Any
) -> None:
    towns = [("France", "Paris", "Lyon"), ("Italy", "Rome", "Milan"), ("Spain", "Madrid", "Seville")]
    rows = [
        {
            "id": c,
            name: f"Name the capital of {c}.",
            "chosen": f"The capital of {c} is {a}.",
            "rejected": f"The capital of {c} is {b}.",
        }
        for c, a, b in towns
    ]
    try:
        row = first(read(rows))
    except PrefoptError as error:
        assert f"data.columns: {{{name}: prompt}}" in str(error)  # noqa: PT017
        row = first(read(rows, columns={name: "prompt"}))
    assert (row["prompt"], row["chosen"]) == (
        "Name the capital of France.",
        "The capital of France is Paris.",
    )


def test_more_than_half_of_the_texts_must_carry_their_prompt(read: Any) -> None:
    carries = [
        {"chosen": f"\n\nHuman: {k}?\n\nAssistant: yes {k}", "rejected": f"\n\nHuman: {k}?\n\nAssistant: no"}
        for k in range(3)
    ]
    lacks = [{"chosen": f"Paris {k}", "rejected": f"Rome {k}"} for k in range(3)]
    assert first(read([*carries, *lacks[:2]]))["prompt"].endswith("Assistant:")
    with pytest.raises(PrefoptError, match=r"what chosen and rejected begin with alike is none"):
        read([*carries[:2], *lacks[:2]])


def test_answers_that_share_their_beginning_are_no_prompt(read: Any) -> None:
    with pytest.raises(PrefoptError, match=r"what chosen and rejected begin with alike is none"):
        read([{"chosen": "The sky is blue.", "rejected": "The sky is green."}])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "first_reply": "a", "second_reply": "b"}, "'first_reply' looks like an answer"),
        ({"prompt": "p", "ai_label": "fine"}, "'ai_label' looks like a label"),
        ({"prompt": "p", "judge_rating": 4}, "'judge_rating' looks like a score"),
        ({"question": "p", "r1_output": "a", "r2_output": "b"}, "'r1_output' looks like an answer"),
        ({"prompt": "p", "response": "a", "output": "b"}, "'response' looks like an answer"),
        (
            {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "c"},
            "'response_a' looks like an answer",
        ),
    ],
)
def test_what_looks_like_feedback_is_not_read_as_prompts(row: Row, words: str, read: Any) -> None:
    with pytest.raises(PrefoptError, match="more than prompts, but of no known form") as caught:
        read([row])
    assert words in str(caught.value)
    assert "set data.kind: prompts" in str(caught.value)
    assert read([row], kind="prompts").quality["kind"] == "prompts"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "difficulty_score": 3}, {"prompt": "p", "answer": "4", "level": 2, "source": "web"},
        {"problem": "p", "solution": "s", "answer": "4", "pass_rate": 0.5}, {"instruction": "i", "input": "", "output": "o"},
    ],
)  # fmt: skip
def test_prompts_stay_prompts(row: Row, read: Any) -> None:
    assert read([row]).quality["kind"] == "prompts"


def test_numeric_labels_beyond_true_and_false_are_scores_and_unknown_words_no_labels(read: Any) -> None:
    stars = [{"prompt": f"p{n}", "completion": "c", "label": n} for n in (1, 2, 5)]
    with pytest.raises(PrefoptError, match=r"numbers, not true or false; .*data\.columns: \{label: score\}"):
        read(stars)
    assert [r["score"] for r in rows_of(read(stars, columns={"label": "score"}).table)] == [1.0, 2.0, 5.0]
    with pytest.raises(PrefoptError, match="neither true nor false"):
        read([{"prompt": "p", "completion": "c", "label": "sports"}])


@pytest.mark.parametrize("yes", [True, 1, "1", 1.0, "True", "yes", "good", "Thumbs up", "👍", "chosen"])
@pytest.mark.parametrize("no", [False, 0, -1, "0", "no", "bad", "thumbs_down", "👎", "rejected"])
def test_labels_as_people_write_them(yes: Any, no: Any, read: Any) -> None:
    rows = [{"prompt": f"p{n}", "completion": "c", "label": label} for n, label in enumerate((yes, no))]
    assert [row["label"] for row in rows_of(read(rows).table)] == [True, False]


def test_ties_are_dropped_and_counted(read: Any) -> None:
    said = ["model_a", "tie", "tie (bothbad)", "model_b"]
    rows = [
        {"prompt": f"p{n}", "response_a": "a", "response_b": "b", "winner": winner}
        for n, winner in enumerate(said)
    ]
    output = read(rows)
    assert output.dropped == {"no preference (tie)": 2}
    assert [(r["chosen"], r["score_chosen"]) for r in rows_of(output.table)] == [("a", 1.0), ("b", 1.0)]


@pytest.mark.parametrize(
    ("ends", "verdicts"),
    [
        (("a", "b"), ["a", "b"]), (("a", "b"), ["response_a", "response_b"]), (("a", "b"), ["A is slightly better", "B is much better"]),
        (("1", "2"), [1, 2]), (("1", "2"), ["1", "2.0"]), (("0", "1"), [0, 1]), (("left", "right"), ["left", "right"]),
    ],
)  # fmt: skip
def test_a_verdict_names_an_answer_in_many_ways(
    ends: tuple[str, str], verdicts: list[Any], read: Any
) -> None:
    rows = [
        {
            "prompt": f"p{n}",
            f"response_{ends[0]}": "first",
            f"response_{ends[1]}": "second",
            "preference": verdict,
        }
        for n, verdict in enumerate(verdicts)
    ]
    assert [row["chosen"] for row in rows_of(read(rows).table)] == ["first", "second"]


def test_a_verdict_that_could_mean_either_is_refused(read: Any) -> None:
    with pytest.raises(PrefoptError, match="looks like"):
        read([{"prompt": "p", "response_a": "x", "response_b": "y", "preference": 1}])


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("chosen_response", "rejected_response"), ("response_chosen", "response_rejected"), ("answer_w", "answer_l"),
        ("preferred", "dispreferred"), ("chosenAnswer", "rejectedAnswer"), ("good_answer", "bad_answer"), ("accepted", "rejected"),
        ("winning_response", "losing_response"), ("better", "worse"), ("positive", "negative"),
    ],
)  # fmt: skip
def test_better_and_worse_under_many_names(better: str, worse: str, read: Any) -> None:
    output = read([{"question": "q", worse: "b", better: "a", f"{better}_score": "2", f"{worse}_score": 1.5}])
    row = first(output)
    assert (output.quality["kind"], row["prompt"], row["chosen"], row["rejected"]) == ("pairs", "q", "a", "b")
    assert (row["score_chosen"], row["score_rejected"]) == (2.0, 1.5)


def test_columns_that_nothing_reads_are_named_once(read: Any, capsys: Any) -> None:
    rows = [
        {"prompt": f"p{n}", "chosen": "a", "rejected": "b", "source": "web", "nötig": n} for n in range(3)
    ]
    assert read(rows).quality["unread"] == ["nötig", "source"]
    said = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
    assert len(said) == 1
    assert said[0].endswith("read as pairs (form preference, text); kept but not read: nötig, source")


def test_pictures_and_sound_are_refused_in_words(read: Any) -> None:
    rows = [
        {"prompt": f"p{n}", "chosen": "a", "rejected": "b", "images": [["a.png"], [], None][n]}
        for n in range(3)
    ]
    output = read(rows)
    assert output.dropped == {"images: images, audio and video are not supported, text alone is": 1}
    assert (
        first(read([{"prompt": "p", "chosen": "a", "rejected": "b", "image": "python:3.12"}]))["image"]
        == "python:3.12"
    )


# ---- texts that hold more


@pytest.mark.parametrize("write", [json.dumps, repr, lambda v: repr(v).replace("}, {", "}\n {")])
def test_messages_stored_as_text_are_messages(write: Any, tmp_path: Path) -> None:
    """JSON, Python's repr (pandas), and numpy's print of an array without commas."""
    path = tmp_path / "x.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, ["chosen", "rejected", "chosen_score", "rejected_score"])
        rows.writeheader()
        for n in range(3):
            talk = [U(f"It's {n} o'clock,\n{{or}} [not]?"), A("yes"), U("ok")]
            rows.writerow({"chosen": write([*talk, A(f"good {n}")]), "rejected": write([*talk, A("bad")]),
                           "chosen_score": "7.5", "rejected_score": " 2"})  # fmt: skip
    row = first(data(None, DataConfig(path=str(path), heldout=0.0), Context()))
    assert row["prompt"] == [U("It's 0 o'clock,\n{or} [not]?"), A("yes"), U("ok")]
    assert (row["chosen"], row["score_chosen"], row["score_rejected"], row["margin"]) == (
        [A("good 0")],
        7.5,
        2.0,
        5.5,
    )


def test_an_answer_that_looks_like_a_list_stays_a_text(read: Any) -> None:
    rows = [{"prompt": f"p{n}", "chosen": '{"city": "Rome"}', "rejected": "[1, 2]"} for n in range(3)]
    row = first(read(rows))
    assert (row["chosen"], row["rejected"]) == ('{"city": "Rome"}', "[1, 2]")
    mixed = [
        {"prompt": "p", "chosen": json.dumps([A("a")]), "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    assert first(read(mixed))["chosen"] == json.dumps([A("a")])


def test_lists_in_csv_cells(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('prompt,responses,scores\np,"[""a"", ""b""]","[1, 0.5]"\nq,"[""c"", ""d""]","[2, 0]"\n')
    rows = rows_of(data(None, DataConfig(path=str(path), heldout=0.0), Context()).table)
    assert [(r["completion"], r["score"]) for r in rows] == [("a", 1.0), ("b", 0.5), ("c", 2.0), ("d", 0.0)]


def test_tools_each_as_json_text_and_turns_of_both_speakers(read: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    row = {"prompt": [U("a")], "chosen": [A("b")], "rejected": [A("c")], "tools": [json.dumps(tool), tool]}
    assert first(read([row]))["tools"] == [tool, tool]
    talk = [{"input": "a", "output": "b"}, {"user": "c", "assistant": "d"}]
    assert first(read([{"conversation": talk, "label": True}]))["prompt"] == [U("a"), A("b"), U("c")]


# ---- columns within columns


def test_values_within_objects_and_lists_can_be_mapped(read: Any) -> None:
    rows = [{"x": {"talk": [U("a")]}, "good": {"said": [{"t": "b"}]}, "bad": {"said": [{"t": "c"}]}, "n": 1}]
    columns = {"x.talk": "prompt", "good.said.0.t": "chosen", "bad.said.0.t": "rejected"}
    row = first(read(rows, columns=columns))
    assert (row["prompt"], row["chosen"], row["rejected"], row["n"]) == ([U("a")], [A("b")], [A("c")], 1)
    objects = [
        {"question": "q", "chosen": {"answer": "a", "score": 1.0}, "rejected": {"answer": "b", "score": 0.0}}
    ]
    with pytest.raises(PrefoptError, match="unknown role in chosen answer"):
        read(objects)
    columns = {"chosen.answer": "chosen", "rejected.answer": "rejected", "chosen.score": "score_chosen"}
    row = first(read(objects, columns=columns))
    assert (row["chosen"], row["rejected"], row["score_chosen"]) == ("a", "b", 1.0)
    assert json.loads(row["user_rejected"]) == {"answer": "b", "score": 0.0}


def test_lists_side_by_side_can_be_mapped(read: Any) -> None:
    rows = [
        {"q": "p", "said": [{"t": "a", "s": 1}, {"t": "b", "s": 2}]},
        {"q": "r", "said": [{"t": "c", "s": 3}]},
    ]
    found = rows_of(read(rows, columns={"q": "prompt", "said.t": "responses", "said.s": "scores"}).table)
    assert [(r["completion"], r["score"]) for r in found] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    uneven = [{"prompt": "p", "texts": ["a", "b"], "points": [1]}]
    with pytest.raises(PrefoptError, match="not as many values of scores as answers"):
        read(uneven, columns={"texts": "responses", "points": "scores"})


def test_a_path_that_leads_nowhere_is_told(read: Any) -> None:
    with pytest.raises(PrefoptError, match="no row has 'tlak' in its column 'x'"):
        read([{"x": {"talk": "a"}, "chosen": "b", "rejected": "c"}], columns={"x.tlak": "prompt"})


# ---- LLaMA-Factory's registry


def test_a_registry_names_file_columns_and_tags(tmp_path: Path) -> None:
    rows = [{"q": "2+2?", "more": "", "best": "4", "worst": "5", "who": "x"}]
    talks = [{"talk": [{"speaker": "kid", "says": "hi"}], "chosen": {"speaker": "bot", "says": "yes"},
              "rejected": {"speaker": "bot", "says": "no"}}]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text(json.dumps(talks[0]))
    registry = {
        "plain": {"file_name": "a.json", "ranking": True,
                  "columns": {"prompt": "q", "query": "more", "chosen": "best", "rejected": "worst"}},
        "tagged": {"file_name": "b.jsonl", "ranking": True, "formatting": "sharegpt", "columns": {"messages": "talk"},
                   "tags": {"role_tag": "speaker", "content_tag": "says", "user_tag": "kid", "assistant_tag": "bot"}},
    }  # fmt: skip
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry))

    def read(**options: Any) -> Row:
        return first(data(None, DataConfig(heldout=0.0, **options), Context()))

    row = read(path=str(tmp_path), split="plain")
    assert (row["prompt"], row["chosen"], row["rejected"], row["who"]) == ("2+2?", "4", "5", "x")
    row = read(path=str(tmp_path / "dataset_info.json"), split="tagged")
    assert (row["prompt"], row["chosen"], row["rejected"]) == ([U("hi")], [A("yes")], [A("no")])
    with pytest.raises(PrefoptError, match=r"names 2 data sets; say which with data\.split: plain, tagged"):
        read(path=str(tmp_path))
    with pytest.raises(PrefoptError, match="no data set 'plan' in it; did you mean 'plain'"):
        read(path=str(tmp_path), split="plan")


def test_speakers_of_sharegpt_in_any_case(read: Any) -> None:
    row = {
        "conversations": [{"from": "User", "value": "a"}],
        "chosen": {"from": "AI", "value": "b"},
        "rejected": G("c"),
    }
    assert first(read([row]))["chosen"] == [A("b")]
    assert first(read([{**row, "conversations": [H("a")]}]))["prompt"] == [U("a")]


def test_the_page_of_forms_is_made_of_these_samples() -> None:
    place = Path(__file__).parents[4] / "tools" / "formats_docs.py"
    spec = importlib.util.spec_from_file_location("formats_docs", place)
    assert spec
    assert spec.loader
    formats_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formats_docs)
    assert formats_docs.page() == formats_docs.PAGE.read_text(encoding="utf-8"), (
        "run python tools/formats_docs.py"
    )
