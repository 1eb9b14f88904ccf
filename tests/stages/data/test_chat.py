"""Text prompts for a model with a chat template become messages, are said to, and stay text where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.models.find import has_chat_template
from prefopt.stages.alone import open_input
from prefopt.stages.data.chat import for_model, in_messages
from prefopt.stages.data.data import data
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.context import Context
from prefopt.tables.records import rows_of

HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 1+1?\n\nAssistant:"
U, A = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant"))


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return tmp_path / "m"


def write(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_where_a_template_may_stand(tmp_path: Path) -> None:
    for name, text in (
        ("chat_template.jinja", "x"),
        ("chat_template.json", "{}"),
        ("tokenizer_config.json", '{"chat_template": "x"}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        assert has_chat_template(tmp_path / name)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    assert not has_chat_template(adapter)
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "chat_template.jinja")})
    )
    assert has_chat_template(adapter)
    (adapter / "tokenizer_config.json").write_text('{"chat_template": null}')
    assert not has_chat_template(adapter)


def test_text_becomes_messages_for_a_chat_model_alone(tmp_path: Path, chatty: Path, capsys: Any) -> None:
    source = write(
        tmp_path,
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": HH, "chosen": " 2", "rejected": " 3"},
    )
    plain = DataConfig(path=source, heldout=0.0)
    assert for_model(plain, None).chat == for_model(plain, tmp_path).chat == "auto"
    assert isinstance(rows_of(data(None, plain, Context()).table)[0]["prompt"], str)
    capsys.readouterr()
    output = data(None, for_model(plain, chatty), Context())
    first, second = rows_of(output.table)
    assert (first["prompt"], first["chosen"], first["rejected"]) == ([U("p")], [A("a")], [A("b")])
    assert (second["prompt"], second["chosen"]) == ([U("hi"), A("hello"), U("1+1?")], [A("2")])
    assert output.quality["became_messages"] == 2
    said = capsys.readouterr().err
    assert said.count("text prompts became messages") == 1
    assert "data.chat: false keeps them text" in said


@pytest.mark.parametrize("chat", [False, None])
def test_what_is_text_on_purpose_stays_text(chat: bool | None, tmp_path: Path, chatty: Path) -> None:
    source = write(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"})
    config = for_model(DataConfig(path=source, heldout=0.0, chat=chat), chatty)
    table = data(None, config, Context()).table
    assert rows_of(table)[0]["prompt"] == "p"
    again = in_messages(table, chatty, "reference")
    assert rows_of(again)[0]["prompt"] == ("p" if chat is False else [U("p")])


def test_inputs_of_single_stages(tmp_path: Path, chatty: Path, capsys: Any) -> None:
    source = write(tmp_path, {"prompt": "p", "completion": "a", "label": True})
    assert rows_of(open_input(source, Context(model=chatty)).table)[0]["completion"] == [A("a")]
    table = open_input(source, Context()).table
    assert in_messages(table, None, "x") is table
    assert in_messages(table, tmp_path, "x") is table
    assert rows_of(in_messages(table, chatty, "sample"))[0]["completion"] == [A("a")]
    assert "sample: text prompts become messages, for the chat template of" in capsys.readouterr().err
    scored = table.add_column("ref_completion_logps", [-1.0])
    assert in_messages(scored, chatty, "train") is scored


def test_arguments_and_template_for_all_rows(tmp_path: Path) -> None:
    rows = [{"prompt": [U("p")], "chosen": "a", "rejected": "b"},
            {"prompt": "q", "chosen": "a", "rejected": "b", "chat_template_kwargs": {"enable_thinking": True}}]  # fmt: skip
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    config = DataConfig(path=write(tmp_path, *rows), heldout=0.0, chat_template_kwargs={"enable_thinking": False, "x": 1},
                        chat_template=template)  # fmt: skip
    first, second = (row["chat_template_kwargs"] for row in rows_of(data(None, config, Context()).table))
    assert first == {"enable_thinking": False, "x": 1, "chat_template": "{{ messages }}"}
    assert second["enable_thinking"] is True
    with pytest.raises(PrefoptError, match=r"data\.chat_template .*none: cannot be read"):
        data(None, config.model_copy(update={"chat_template": tmp_path / "none"}), Context())
