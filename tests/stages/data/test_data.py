"""Stage 00: any known file becomes a table; what is dropped is counted; names and sides depend on content alone."""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.data.data import STAGE, data, source_digest
from prefopt.stages.data.reading.checks import NUMBERS
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.columns import COLUMNS
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import Row, file_digest, make_table, rows_of, to_json, write_table
from prefopt.tables.table_rows import read_table

U, A, S = (
    lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system")
)


def pair(number: int = 0, **changes: Any) -> Row:
    return {"prompt": f"p{number}", "chosen": "good", "rejected": "bad", **changes}


def save(rows: list[Any], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """run(rows, strict=False, seed=0, **settings) -> StageOutput, through a real file."""

    def run(rows: list[Any], strict: bool = False, seed: int = 0, **options: Any) -> StageOutput:
        path = save(rows, tmp_path / "rows.jsonl")
        config = parse_config(DataConfig, {"path": str(path), **options}, "test")
        return data(None, config, Context(seed=seed, strict=strict))

    return run


def rows_from(output: StageOutput) -> list[Row]:
    return rows_of(output.table)


# ---- the three kinds


def test_pairs(run: Any) -> None:
    output = run([pair(1, id="a", prompt_id="x", source="s", score_chosen=2, score_rejected=1), pair(2)])
    assert output.dropped == {}
    first, second = rows_from(output)
    assert first["id"] == "a"
    assert first["prompt_id"] == "x"
    assert (first["margin"], first["source"]) == (1.0, "s")
    assert second["margin"] is second["source"] is None
    quality = output.quality
    assert (quality["kind"], quality["format"], quality["rows_in"], quality["rows"]) == (
        "pairs",
        "text",
        2,
        2,
    )
    assert (quality["prompts"], quality["turns"]) == (2, {"1": 2})
    assert (quality["chars_chosen"], quality["chars_rejected"]) == (4.0, 3.0)


def test_prompts(run: Any) -> None:
    output = run(
        [{"id": "a", "prompt": "1+1", "answer": 2.0}, {"prompt": "2+2", "answer": "4"}, {"prompt": "hi"}]
    )
    first, second, third = rows_from(output)
    assert (first["id"], first["prompt_id"], first["gold"]) == ("a", "a", "2")
    assert second["id"] == second["prompt_id"] != third["id"]
    assert [r["gold"] for r in (second, third)] == ["4", None]
    assert output.quality["gold"] == 2


def tournament(**changes: Any) -> Row:
    return {
        "id": "q",
        "prompt": "1+1?",
        "answer": 2,
        "completions": [
            {"model": "ground_truth", "text": "It is 2.", "is_correct": True},
            {"model": "m", "text": "2", "is_correct": True, "mood": "good"},
            {"model": "n", "text": " ", "is_correct": False},
            {"model": "n", "text": "3", "is_correct": False},
        ],
        "judgments": [{"model_a": "m", "model_b": "n", "winner": "a"}],
        **changes,
    }


def test_completions(run: Any) -> None:
    output = run([tournament()])
    rows = rows_from(output)
    assert [r["id"] for r in rows] == ["q-0", "q-1"]
    assert [r["completion"] for r in rows] == ["2", "3"]
    assert {r["gold_completion"] for r in rows} == {"It is 2."}
    assert {r["gold"] for r in rows} == {"2"}
    assert [r["model"] for r in rows] == ["m", "n"]
    assert rows[0]["judgments"] == tournament()["judgments"]
    assert rows[0]["mood"] == "good"
    assert rows[0]["finish_reason"] is rows[0]["seed"] is None
    assert output.dropped == {"empty completion": 1}
    assert (output.quality["completions_in"], output.quality["gold_completions"]) == (4, 1)


def test_gold_model_is_a_setting(run: Any) -> None:
    assert run([tournament()], gold_model=None).table.num_rows == 3
    other = rows_from(run([tournament()], gold_model="m"))
    assert {r["gold_completion"] for r in other} == {"2"}
    assert [r["model"] for r in other] == ["ground_truth", "n"]
    with pytest.raises(
        PrefoptError,
        match=r"no completion is by data.gold_model 'ground_thruth'; did you mean 'ground_truth'",
    ):
        run([tournament()], gold_model="ground_thruth")


def test_rows_of_one_prompt_share_their_numbering(run: Any) -> None:
    """Two lines for one prompt: the samples of both belong to it."""
    more = {"prompt": "1+1?", "completions": ["2", "two"]}
    rows = rows_from(run([{"prompt": "1+1?", "completions": ["1", "2"]}, more]))
    assert len({r["prompt_id"] for r in rows}) == 1
    assert [r["completion_index"] for r in rows] == [0, 1, 2, 3]
    assert len({r["id"] for r in rows}) == 4


# ---- rows that cannot be used

T, M = "text", "messages"
BAD_ROWS = [
    (pair(prompt=""), "empty prompt"),
    (pair(prompt="  \n"), "empty prompt"),
    (pair(prompt=None), "prompt is missing"),
    ({"chosen": "a b", "rejected": "a c"}, "prompt is missing"),
    (pair(prompt=5), "prompt is a number, not text or messages"),
    (pair(prompt=True), "prompt is true or false, not text or messages"),
    (pair(chosen=""), "empty chosen answer"),
    (pair(rejected=" "), "empty rejected answer"),
    (pair(chosen=None), "chosen answer is missing"),
    (pair(chosen=True), "chosen answer is true or false, not text or messages"),
    (pair(rejected=3.5), "rejected answer is a number, not text or messages"),
    (pair(rejected="good"), "identical answers"),
    (pair(prompt=[]), "prompt is an empty message list"),
    (pair(prompt=[{"role": "narrator", "content": "x"}]), "message with an unknown role in prompt"),
    (pair(prompt=[{"role": "user"}]), "message without content in prompt"),
    (pair(prompt=[S("s"), U(" ")]), "message without content in prompt"),
    (pair(prompt=[U("  ")]), "empty prompt"),
    (pair(prompt=[U("x"), A("y")]), "prompt ends with an assistant message"),
    (pair(chosen=[]), "chosen answer is an empty message list"),
    (pair(chosen=[A("x"), U("y")]), "chosen answer does not end with an assistant message"),
    (
        pair(prompt=[U("p")], rejected=[U("y"), A("x")]),
        "rejected answer does not begin with an assistant message",
    ),
    (pair(chosen=[A("")]), "empty chosen answer"),
    (pair(weight=-1), "weight is negative"),
    (pair(weight="nan"), "weight is not finite"),
    (pair(weight="heavy"), "weight is not a number"),
    (pair(weight=True), "weight is not a number"),
    (pair(margin="wide"), "margin is not a number"),
    (pair(ref_chosen_logps=[1]), "ref_chosen_logps is not a number"),
    (pair(score_chosen="inf"), "score_chosen is not finite"),
    (pair(tools="{"), "tools is not a list of tool definitions"),
    (pair(tools={"name": "f"}), "tools is not a list of tool definitions"),
    (pair(chat_template_kwargs=[1]), "chat_template_kwargs is not an object"),
    (pair(answer=[1, 2], gold={}), "gold answer is neither text nor a number"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=[f"{i}-{r}" for i, (_, r) in enumerate(BAD_ROWS)])
def test_a_bad_row_is_dropped_and_counted_or_an_error(
    row: Row, reason: str, run: Any, tmp_path: Path
) -> None:
    good = [pair(number) for number in range(3)]
    output = run([good[0], row, *good[1:]])
    assert output.dropped == {reason: 1}
    assert output.table.num_rows == 3
    assert output.quality["rows_in"] == 4
    with pytest.raises(PrefoptError) as caught:
        run([good[0], row, *good[1:]], strict=True)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'rows.jsonl'}: row 2")
    assert reason in message
    assert "\n" not in message


def test_strict_names_the_very_value(run: Any) -> None:
    with pytest.raises(
        PrefoptError, match=r"row 1 \(role 'narrator'\): message with an unknown role in prompt"
    ):
        run([pair(prompt=[{"role": "narrator", "content": "x"}])], strict=True)


def test_every_number_column_is_checked(run: Any) -> None:
    for name in NUMBERS:
        output = run([pair(1), pair(2, **{name: "x"})])
        assert output.dropped == {f"{name} is not a number": 1}


def test_no_row_left_lists_the_reasons(run: Any) -> None:
    with pytest.raises(PrefoptError) as caught:
        run([pair(prompt=""), pair(prompt=""), pair(chosen="bad")])
    assert "no row of 3 is left: empty prompt (2), identical answers (1)" in str(caught.value)
    with pytest.raises(PrefoptError, match=r"no row of 1 is left: empty completion \(1\)"):
        run([{"prompt": "p", "completions": [""]}])
    with pytest.raises(PrefoptError, match="holds no rows"):
        data(make_table([], ["id"]), DataConfig(), Context())


@pytest.mark.parametrize("lost", [{}, {"weight": None}, {"weight": ""}])
def test_a_weight_is_given_to_all_rows_or_to_none(lost: Row, run: Any) -> None:
    output = run([pair(1, weight=2), pair(2, **lost), pair(3, weight=0)])
    assert output.dropped == {"weight is missing": 1}
    assert [row["weight"] for row in rows_from(output)] == [2.0, 0.0]
    assert run([pair(1, **lost), pair(2, **lost)]).dropped == {}


def test_repeated_rows_are_dropped(run: Any) -> None:
    output = run([pair(1), pair(1, source="other"), pair(2)])
    assert output.dropped == {"repeated row": 1}
    assert [r["prompt"] for r in rows_from(output)] == ["p1", "p2"]
    with_tools = [pair(prompt=[U("p")], tools=[{"name": name}]) for name in "ab"]
    assert run(with_tools).dropped == {}


def test_text_and_message_rows_cannot_be_mixed(run: Any) -> None:
    with pytest.raises(PrefoptError) as caught:
        run([pair(1), pair(2), pair(3, prompt=[U("p")])])
    assert "row 1 is text" in str(caught.value)
    assert "row 3 is messages; set data.chat: true" in str(caught.value)
    assert run([pair(1), pair(2, prompt=[U("p")])], chat=True).quality["format"] == "messages"


def test_contradictions_are_counted(run: Any) -> None:
    output = run([pair(1), pair(1, chosen="bad", rejected="good"), pair(2, margin=-1)])
    assert output.quality["contradicting_pairs"] == 2
    assert output.quality["negative_margins"] == 1


# ---- forms


def test_chat_turns_text_into_messages_and_back(run: Any) -> None:
    row = rows_from(run([pair(1)], chat=True))[0]
    assert (row["prompt"], row["chosen"], row["rejected"]) == ([U("p1")], [A("good")], [A("bad")])
    back = rows_from(run([{k: row[k] for k in ("prompt", "chosen", "rejected")}], chat=False))[0]
    assert {name: back[name] for name in pair()} == pair(1)
    long = run([pair(1, prompt=[S("s"), U("p")]), pair(2)], chat=False)
    assert long.dropped == {"conversation cannot be plain text (data.chat is false)": 1}


def test_chat_reads_a_transcript_as_dialogue(run: Any) -> None:
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    row = rows_from(run([pair(prompt=prompt, chosen=" yes", rejected=" no")], chat=True))[0]
    assert (row["prompt"], row["chosen"]) == ([U("a"), A("b"), U("c")], [A("yes")])


def test_system_is_put_in_front_once(run: Any) -> None:
    rows = rows_from(run([pair(prompt=[U("a")]), pair(prompt=[S("mine"), U("a")])], system="be kind"))
    assert [r["prompt"][0]["content"] for r in rows] == ["be kind", "mine"]
    assert [len(r["prompt"]) for r in rows] == [2, 2]
    assert rows_from(run([pair(1)], system="be kind", chat=True))[0]["prompt"] == [S("be kind"), U("p1")]


def test_what_only_a_chat_template_can_use_needs_messages(run: Any) -> None:
    for row, options in ((pair(tools=[{"name": "f"}]), {}), (pair(), {"system": "be kind"})):
        with pytest.raises(
            PrefoptError, match=r"needs message prompts, but prompts are plain text; set data\.chat: true"
        ):
            run([row], **options)
        assert run([row], chat=True, **options).table.num_rows == 1


def test_tools_may_be_json_text(run: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]
    rows = [pair(1, prompt=[U("a")], tools=json.dumps(tools)), pair(2, prompt=[U("b")], tools=tools)]
    rows += [pair(3, prompt=[U("c")], tools=empty) for empty in ("",)] + [pair(4, prompt=[U("d")], tools=[])]
    found = [row["tools"] for row in rows_from(run(rows))]
    assert [json.dumps(t) for t in found] == [json.dumps(tools)] * 2 + ["null"] * 2


# ---- names


def test_ids_are_the_files_where_they_name_one_row(run: Any) -> None:
    rows = [pair(1, id="a"), pair(2, id="a"), pair(3, id="b"), pair(4), pair(5, id=7), pair(6, id=True)]
    output = run(rows)
    ids = [r["id"] for r in rows_from(output)]
    assert (ids[2], ids[4]) == ("b", "7")
    assert ids[0].startswith("a-")
    assert ids[1].startswith("a-")
    assert len(set(ids)) == 6
    assert output.quality["ids_made_unique"] == 2


def test_a_prompt_id_that_names_two_prompts_is_split(run: Any) -> None:
    rows = [pair(1, prompt_id="x"), pair(1, prompt_id="x", chosen="fine"), pair(2, prompt_id="x")]
    output = run(rows)
    first, second, third = (r["prompt_id"] for r in rows_from(output))
    assert first == second != third
    assert output.quality["prompt_ids_made_unique"] == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.sampled_from("abc") | st.none()), min_size=2),
    st.randoms(),
)
def test_names_and_sides_do_not_depend_on_the_order_of_rows(
    run: Any, drawn: list[tuple[int, int, str | None]], rng: random.Random
) -> None:
    rows = [pair(p, chosen=f"good {c}", **({"id": name} if name else {})) for p, c, name in drawn]
    rows = list(
        {(r["prompt"], r["chosen"]): r for r in rows}.values()
    )  # repeats keep the first: order matters there
    shuffled = rng.sample(rows, len(rows))

    def named(output: StageOutput) -> Any:
        keys = ("prompt", "chosen", "id", "prompt_id", "split")
        return sorted(tuple(row[key] for key in keys) for row in rows_from(output))

    first = run(rows, heldout=0.3)
    assert named(first) == named(run(shuffled, heldout=0.3))
    ids = [row["id"] for row in rows_from(first)]
    assert len(set(ids)) == len(ids)


# ---- the held-out split


def test_split_is_by_prompt_and_seed(run: Any) -> None:
    rows = [pair(p, chosen=f"good {c}") for p in range(200) for c in range(3)]
    output = run(rows, heldout=0.25)
    sides: dict[str, set[str]] = {}
    for row in rows_from(output):
        sides.setdefault(row["prompt"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    held = sum(side == {"eval"} for side in sides.values())
    assert held == output.quality["heldout_prompts"]
    assert 30 <= held <= 70  # binomial, n 200, p .25, sd 6: five sd would be 19..81
    assert output.quality["heldout_rows"] == 3 * held
    other = run(rows, heldout=0.25, seed=1)
    assert other.quality["heldout_prompts"] != 0
    assert [r["split"] for r in rows_from(other)] != [r["split"] for r in rows_from(output)]


def test_adding_rows_moves_no_prompt(run: Any) -> None:
    few = {r["prompt"]: r["split"] for r in rows_from(run([pair(p) for p in range(50)], heldout=0.3))}
    many = {r["prompt"]: r["split"] for r in rows_from(run([pair(p) for p in range(90)], heldout=0.3))}
    assert all(many[prompt] == side for prompt, side in few.items())


@pytest.mark.parametrize(("heldout", "held"), [(0.0, 0), (1e-9, 1), (0.999999, 2)])
def test_both_sides_get_a_prompt_where_there_are_some(heldout: float, held: int, run: Any) -> None:
    assert run([pair(p) for p in range(3)], heldout=heldout).quality["heldout_prompts"] == held


def test_a_single_prompt_is_trained_on(run: Any) -> None:
    assert run([pair(1)], heldout=0.9).quality["heldout_prompts"] == 0  # nothing would be left to train on
    assert run([pair(1)], heldout=1e-9).quality["heldout_prompts"] == 0


def test_the_files_own_split_counts_where_it_is_ours(run: Any) -> None:
    sides = ["train", "eval", "train", "train"]
    output = run([pair(n, split=side) for n, side in enumerate(sides)])
    assert [r["split"] for r in rows_from(output)] == sides
    assert output.quality["split_by"] == "file"


@pytest.mark.parametrize(
    "sides", [["train", "test", "train"], ["train", "train", "train"], ["eval", "train", None]]
)
def test_another_split_is_kept_aside(sides: list[str | None], run: Any) -> None:
    output = run([pair(n, split=side) for n, side in enumerate(sides)])
    assert [r["user_split"] for r in rows_from(output)] == sides
    assert output.quality["split_by"] == "hash"


def test_a_split_that_cuts_a_prompt_is_not_followed(run: Any) -> None:
    rows = [pair(1, split="train"), pair(1, chosen="fine", split="eval"), pair(2, split="train")]
    assert run(rows).quality["split_by"] == "hash"


# ---- columns


def test_extra_columns_are_kept(run: Any) -> None:
    extras = {"source": "web", "tags": ["a", "b"], "stars": 4, "seen": True, "ratio": 0.5}
    row = rows_from(run([pair(1, **extras), pair(2)]))[0]
    assert {name: row[name] for name in extras} == extras
    nested = rows_from(run([pair(1, meta={"a": [1, {"b": None}]})]))[0]["meta"]
    assert json.loads(nested) == {"a": [1, {"b": None}]}


def test_convention_columns_are_numbers(run: Any) -> None:
    values = {
        "weight": "1.5",
        "margin": 2,
        "ref_chosen_logps": -3,
        "ref_rejected_logps": -4.5,
        "score_chosen": "1e1",
    }
    row = rows_from(run([pair(1, **values)]))[0]
    assert [row[name] for name in values] == [1.5, 2.0, -3.0, -4.5, 10.0]


def test_names_of_ours_with_other_meaning_are_renamed(run: Any) -> None:
    row = pair(
        1,
        n="many",
        model={"name": "x"},
        kept="yes",
        n_correct=3,
        answer={"a": 1},
        seed="12",
        truncated="false",
    )
    output = run([row])
    found = rows_from(output)[0]
    assert output.quality["renamed"] == {name: f"user_{name}" for name in ("answer", "kept", "model", "n")}
    assert (found["user_n"], json.loads(found["user_model"]), found["user_kept"]) == (
        "many",
        {"name": "x"},
        "yes",
    )
    assert (found["n_correct"], found["seed"], found["truncated"]) == (3, 12, False)


def test_users_names_are_mapped(run: Any) -> None:
    rows = [{"q": "p1", "good": "a", "bad": "b", "prompt_source": "x"}]
    row = rows_from(run(rows, columns={"q": "prompt", "good": "chosen", "bad": "rejected"}))[0]
    assert (row["prompt"], row["chosen"], row["rejected"], row["prompt_source"]) == ("p1", "a", "b", "x")
    swapped = rows_from(run([pair(1)], columns={"chosen": "rejected", "rejected": "chosen"}))[0]
    assert (swapped["chosen"], swapped["rejected"]) == ("bad", "good")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"promt": "prompt"}, "data.columns names 'promt', but no row has it; did you mean 'prompt'?"),
        ({"prompt": "promt"}, "no column is named 'promt'; did you mean 'prompt'?"),
        ({"source": "prompt"}, "row 1: data.columns gives the name 'prompt', which the row has already"),
        ({"source": "chosen", "prompt": "chosen"}, "two of your columns are given the same name"),
    ],
)
def test_a_mapping_that_cannot_work_is_told(columns: dict[str, str], problem: str, run: Any) -> None:
    with pytest.raises(PrefoptError) as caught:
        run([pair(1, source="x")], columns=columns)
    assert problem in str(caught.value)


# ---- settings


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in DataConfig.model_fields.values())
    assert (STAGE.number, STAGE.name, STAGE.config) == (0, "data", DataConfig)


@pytest.mark.parametrize(
    "options", [{"heldout": 1.0}, {"heldout": -0.1}, {"limit": 0}, {"kind": "pair"}, {"system": ""}]
)
def test_settings_out_of_range(options: dict[str, Any], run: Any) -> None:
    with pytest.raises(PrefoptError, match=next(iter(options))):
        run([pair(1)], **options)


def test_limit_and_kind(run: Any) -> None:
    rows = [pair(n) for n in range(9)]
    assert run(rows, limit=4).quality["rows_in"] == 4
    assert run(rows, kind="prompts").table.column_names == ["id", "prompt_id", "prompt", "split"]
    with pytest.raises(PrefoptError, match="no completions"):
        run(rows, kind="completions")


def test_no_path() -> None:
    for call in (lambda: source_digest(DataConfig()), lambda: data(None, DataConfig(), Context())):
        with pytest.raises(PrefoptError, match=r"data\.path is empty; give a file"):
            call()


def test_unpaired_completions(run: Any) -> None:
    rows = [
        {"id": k, "prompt": f"p{k % 3}", "completion": f"c{k // 2}", "label": k % 2 == 0} for k in range(12)
    ]
    output = run([*rows, {**rows[0], "id": 99}, {**rows[1], "label": None}], heldout=0.4)
    found = rows_from(output)
    assert output.dropped == {"repeated row": 1, "label is missing": 1}
    assert [(r["id"], r["label"], r["completion"]) for r in found] == [
        (str(k), k % 2 == 0, f"c{k // 2}") for k in range(12)
    ]
    quality = output.quality
    assert (quality["kind"], quality["rows"], quality["desired"]) == ("unpaired", 12, 6)
    assert quality["prompts"] == 3
    assert 0 < quality["heldout_prompts"] < 3
    sides = {(r["prompt_id"], r["split"]) for r in found}
    assert len(sides) == 3
    both = run([{"prompt": "p", "completion": "c", "label": label} for label in (True, False)])
    assert both.quality["contradicting_labels"] == 1
    talk = rows_from(run(rows, chat=True))
    assert talk[0]["completion"] == [{"role": "assistant", "content": "c0"}]
    assert talk[0]["prompt"] == [{"role": "user", "content": "p0"}]
    assert run(rows, kind="prompts").quality["kind"] == "prompts"


# ---- from Python, and through files of every kind


def test_tables_are_converted_too() -> None:
    table = make_table([{"prompt": "p", "chosen": "a", "rejected": "b", "mine": 1}])
    output = data(table, DataConfig(heldout=0.0), Context())
    row = rows_from(output)[0]
    assert (row["prompt"], row["mine"], output.quality["digest"]) == ("p", 1, None)


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_kinds_of_files_give_equal_tables(suffix: str, run: Any, tmp_path: Path) -> None:
    rows = [pair(n, weight=0.5 * n, source="s") for n in range(20)]
    path = tmp_path / f"other{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    output = data(None, DataConfig(path=str(path)), Context())
    assert rows_from(output) == rows_from(run(rows))
    assert output.quality["digest"] == file_digest(path) == source_digest(DataConfig(path=str(path)))


def test_parquet_messages_lose_the_nulls_that_arrow_adds(tmp_path: Path) -> None:
    tools = [
        {"name": "f", "parameters": {"city": {"type": "string"}}},
        {"name": "g", "parameters": {"n": {"type": "int"}}},
    ]
    rows = [pair(n, prompt=[U("a")], tools=[tool]) for n, tool in enumerate(tools)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = rows_from(data(None, DataConfig(path=str(tmp_path / "x.parquet")), Context()))
    assert [row["tools"] for row in found] == [[tool] for tool in tools]


@pytest.mark.parametrize("form", [T, M])
def test_our_own_tables_can_be_read_again(form: str, run: Any, tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    talk = [U("a"), call, {"role": "tool", "content": "1"}]
    rows = [pair(n, **({"prompt": [*talk, U(str(n))]} if form == M else {})) for n in range(12)]
    output = run(rows)
    write_table(output.table, tmp_path / "ours.parquet")
    again = data(None, DataConfig(path=str(tmp_path / "ours.parquet")), Context(seed=5))
    assert rows_from(again) == rows_from(output) == rows_of(read_table(tmp_path / "ours.parquet"))


# ---- any input

names = st.sampled_from(
    [*COLUMNS, "completions", "text", "messages", "question", "system", "conversations", "", "x"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "model", "id", "chosen", "n"]), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip
role = st.sampled_from(["user", "assistant", "system", "human", "gpt", "x"])
said = st.one_of(
    st.text(max_size=3),
    st.lists(st.builds(lambda r, c: {"role": r, "content": c}, role, st.text(max_size=3)), max_size=3),
    values,
)
entry = st.text(max_size=2) | st.fixed_dictionaries(
    {"text": said}, optional={"model": values, "score": values, "id": values, "n": values}
)
extras = st.dictionaries(names, values, max_size=4)
GOOD = {
    "pairs": st.builds(pair, st.integers(0, 3))
    | st.builds(lambda n: pair(n, prompt=[U(str(n))]), st.integers(0, 3)),
    "completions": st.builds(lambda n: {"prompt": f"p{n}", "completions": ["a", "b"]}, st.integers(0, 3)),
    "prompts": st.builds(lambda n: {"prompt": f"p{n}", "answer": n}, st.integers(0, 3)),
}
BAD = {
    "pairs": st.fixed_dictionaries({"prompt": said, "chosen": said, "rejected": said}),
    "completions": st.fixed_dictionaries({"prompt": said, "completions": st.lists(entry, max_size=3)}),
    "prompts": st.fixed_dictionaries({"prompt": said}, optional={"answer": values}),
}


@st.composite
def wild_rows(draw: st.DrawFn) -> list[Row]:
    """A good row of some kind, others that are good or hardly so, all with columns of any name and value."""
    kind = draw(st.sampled_from(sorted(GOOD)))
    rows = [draw(GOOD[kind]), *draw(st.lists(GOOD[kind] | BAD[kind] | extras, max_size=3))]
    over = draw(st.booleans())  # whether the strange columns may replace the good ones
    rows = [{**row, **draw(extras)} if over else {**draw(extras), **row} for row in rows]
    return draw(st.permutations(rows))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    wild_rows(),
    st.sampled_from(["auto", "auto", "auto", "pairs", "completions", "prompts"]),
    st.sampled_from([None, None, True, False]),
    st.sampled_from([False, False, True]),
)
def test_any_objects_give_a_table_or_one_line(
    run: Any, rows: list[Row], kind: str, chat: bool | None, strict: bool
) -> None:
    try:
        output = run(rows, kind=kind, chat=chat, strict=strict)
    except PrefoptError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    found = rows_from(output)
    assert len({row["id"] for row in found}) == len(found) > 0
    assert all(row["split"] in ("train", "eval") and row["prompt"] and row["prompt_id"] for row in found)
    assert not strict or not output.dropped
    json.dumps([dict(output.dropped), output.quality], allow_nan=False)
    if output.quality["kind"] != "completions":
        assert len(rows) == len(found) + sum(output.dropped.values())
    if output.quality["kind"] == "pairs":
        assert all(row["chosen"] != row["rejected"] for row in found)


# ---- the real files

PAIR_FILES = {
    # file: (rows in, rows, dropped, prompts)
    "tldr/preference.jsonl.gz": (9005, 9003, {"repeated row": 2}, 433),
    "hh_helpful/preference.jsonl.gz": (1668, 1668, {}, 1668),
    "hh_helpful/preference_conversational.jsonl.gz": (1668, 1668, {}, 1668),
    "hh_helpful/native.jsonl.gz": (
        1680, 1668,
        {"another turn inside an answer": 8, "two turns of one speaker in a row in a transcript": 3, "empty rejected answer": 1},
        1668,
    ),
    "oasst_trees/preference_conversational.jsonl.gz": (528, 528, {}, 160),
    "alpaca_eval/preference_v1.jsonl.gz": (3938, 3928, {"repeated row": 10}, 568),
    "alpaca_eval/preference_v2.jsonl.gz": (5093, 5020, {"repeated row": 73}, 568),
    "alpaca_eval/native/alpaca-7b/annotations_alpaca_eval_gpt4.json.gz": (568, 557, {"no preference (tie)": 11}, 557),
    "tldr/native_annotations_dpo_vs_sft.json.gz": (668, 666, {"no preference (tie)": 2}, 446),
    "gsm8k/preference.jsonl.gz": (2164, 2164, {}, 437),
    "pandalm/preference.jsonl": (594, 535, {"repeated row": 59}, 108),
    "pandalm/testset-v1.json": (
        710, 535,
        {
            "no preference (tie)": 84, "chosen answer is true or false, not text or messages": 6,
            "empty rejected answer": 26, "repeated row": 59,
        },
        108,
    ),
    "llmbar/preference.jsonl": (302, 302, {}, 301),
    "demo_mix/preference_conversational.jsonl.gz": (211, 211, {}, 211),
    "demo_mix/dpo_en_demo.json.gz": (215, 211, {"repeated row": 4}, 211),
    "mt_bench/labelled_pairs.jsonl": (132, 129, {"repeated row": 3}, 53),
}  # fmt: skip
COMPLETION_FILES = {
    # file: (rows in, completions in, gold, rows, dropped)
    "gsm8k/completions.jsonl.gz": (500, 2500, 500, 2000, {}),
    "gsm8k/example_model_solutions.jsonl.gz": (500, 2500, 500, 2000, {}),
    "tldr/completions.jsonl.gz": (434, 5208, 0, 5208, {}),
    "alpaca_eval/completions.jsonl.gz": (568, 6246, 0, 6244, {"empty completion": 2}),
    "pandalm/completions.jsonl": (121, 555, 0, 543, {"empty completion": 12}),
    "oasst_trees/completions.jsonl": (160, 472, 0, 472, {}),
}
PROMPT_FILES = {
    # file: (rows, with gold)
    "gsm8k/test.jsonl": (500, 500),
    "gsm8k/train.jsonl.gz": (7473, 7473),
    "alpaca_eval/native/alpaca-7b/model_outputs.json.gz": (568, 0),
    "mt_bench/question.jsonl": (56, 0),
    "vicuna_bench/question.jsonl": (56, 0),
}
REFUSED_FILES = {
    "mt_bench/human_votes.jsonl": "column 'prompt' is missing (found: judge, model_a",
    "mt_bench/judge_prompts.jsonl": "column 'prompt' is missing",
    "oasst_trees/en_100_tree.jsonl.gz": "no row of 75 is left",
}


@functools.cache
def real(folder: Path, name: str, **options: Any) -> StageOutput:
    return data(None, DataConfig(path=str(folder / name), **options), Context())


@pytest.mark.parametrize("name", PAIR_FILES)
def test_real_pairs(name: str, shared_data: Path) -> None:
    output = real(shared_data, name)
    rows_in, rows, dropped, prompts = PAIR_FILES[name]
    assert output.dropped == dropped
    assert (output.quality["rows_in"], output.table.num_rows) == (rows_in, rows)
    assert rows_in == rows + sum(dropped.values())
    assert output.quality["prompts"] == prompts
    assert output.quality["renamed"] == {}
    found = rows_from(output)
    assert len({r["id"] for r in found}) == len(found)
    sides = Counter((r["prompt_id"], r["split"]) for r in found)
    assert len(sides) == len({prompt for prompt, _ in sides})


@pytest.mark.parametrize("name", COMPLETION_FILES)
def test_real_completions(name: str, shared_data: Path) -> None:
    output = real(shared_data, name)
    rows_in, entries, golds, rows, dropped = COMPLETION_FILES[name]
    quality = output.quality
    assert (quality["rows_in"], quality["completions_in"], quality["gold_completions"]) == (
        rows_in,
        entries,
        golds,
    )
    assert (output.table.num_rows, output.dropped) == (rows, dropped)
    assert entries == rows + golds + sum(dropped.values())
    assert quality["kind"] == "completions"
    assert quality["renamed"] == {}


def test_real_unpaired_completions(shared_data: Path) -> None:
    first, second = (
        real(shared_data, f"demo_mix/{name}")
        for name in ("unpaired_conversational.jsonl.gz", "kto_en_demo.json.gz")
    )
    assert first.quality["kind"] == second.quality["kind"] == "unpaired"
    assert first.table.num_rows + sum(first.dropped.values()) == first.quality["rows_in"]
    names = ("prompt", "completion", "label")
    texts = [{to_json([r[n] for n in names]) for r in rows_from(output)} for output in (first, second)]
    assert len(texts[0] & texts[1]) > 0.9 * len(texts[0])


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_real_prompts(name: str, shared_data: Path) -> None:
    output = real(shared_data, name)
    assert (output.table.num_rows, output.quality["gold"]) == PROMPT_FILES[name]
    assert output.dropped == {}


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_real_files_of_other_things(name: str, shared_data: Path) -> None:
    with pytest.raises(PrefoptError) as caught:
        real(shared_data, name)
    assert REFUSED_FILES[name] in str(caught.value)


def test_ranks_of_oasst_become_scores(shared_data: Path) -> None:
    rows = rows_from(real(shared_data, "oasst_trees/completions.jsonl"))
    assert all(row["score"] == -row["rank"] for row in rows)
    pairs = rows_from(real(shared_data, "oasst_trees/preference_conversational.jsonl.gz"))
    assert all(row["margin"] == row["rank_rejected"] - row["rank_chosen"] > 0 for row in pairs)


def test_gsm8k_gold_is_the_number(shared_data: Path) -> None:
    recorded = {r["prompt"]: r["gold"] for r in rows_from(real(shared_data, "gsm8k/completions.jsonl.gz"))}
    official = {r["prompt"]: r["gold"] for r in rows_from(real(shared_data, "gsm8k/test.jsonl"))}
    assert len(recorded) == 500
    assert all(float(recorded[prompt]) == float(official[prompt]) for prompt in recorded)
    assert "18" in recorded.values()


def test_hh_as_chat_equals_the_conversational_file(shared_data: Path) -> None:
    texts = rows_from(real(shared_data, "hh_helpful/preference.jsonl.gz", chat=True))
    talks = rows_from(real(shared_data, "hh_helpful/preference_conversational.jsonl.gz"))
    names = ("id", "prompt_id", "split", "prompt", "chosen", "rejected")
    assert [[r[n] for n in names] for r in texts] == [[r[n] for n in names] for r in talks]


def test_a_parquet_column_that_stands_twice_is_refused_as_a_json_key_is(tmp_path: Path) -> None:
    texts = [pa.array([f"{side} {i}" for i in range(3)]) for side in ("q", "a", "b", "c")]
    path = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_arrays(texts, names=["prompt", "chosen", "rejected", "chosen"]), path)
    with pytest.raises(
        PrefoptError, match=r"twice.parquet: column 'chosen' stands twice; remove or rename one"
    ):
        data(None, DataConfig(path=str(path)), Context())


@pytest.mark.parametrize("weighted", [0, 1, 4, 5, 9, 10])
def test_weights_of_some_rows_are_refused_where_most_have_none(run: Any, weighted: int) -> None:
    rows = [pair(n, **({"weight": 1.5} if n < weighted else {})) for n in range(10)]
    if weighted in (1, 4):
        with pytest.raises(
            PrefoptError, match=rf"{weighted} of 10 rows ha.*row 1\), .*give every row a weight, or none"
        ):
            run(rows)
        return
    output = run(rows)
    assert output.table.num_rows == (weighted or 10)
    assert output.dropped.get("weight is missing", 0) == (10 - weighted if weighted else 0)
