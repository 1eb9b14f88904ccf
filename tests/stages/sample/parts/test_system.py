"""A system prompt for all prompts: how it reaches the engines, and what is refused."""

import shutil
from importlib import resources
from pathlib import Path

import pytest
from fake_server import FakeServer

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.engines.server_settings import ServerSettings
from prefopt.stages.evaluate.evaluate import evaluate
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.sample.sample import sample
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"
SYSTEM = "Answer briefly."
USER = {"role": "user", "content": "1+2+3"}
# the quickstart's template, with and without a place for a system message
WITH = "{% for m in messages %}{% if m.role != 'assistant' %}Q:{{ m.content }}\n{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
WITHOUT = WITH.replace("m.role != 'assistant'", "m.role == 'user'").replace(
    "{% else %}", "{% elif m.role == 'assistant' %}"
)


def prompts(*contents):
    rows = [{"id": f"p{i}", "prompt_id": f"p{i}", "prompt": p, "gold": "6"} for i, p in enumerate(contents)]
    return make_table(rows)


def model_with(template, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("prompt", ["1+2+3", [USER]], ids=["text", "messages"])
def test_a_server_is_sent_the_system_message_and_the_prompt_keeps_it(prompt, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeServer() as server:
        settings = ServerSettings(base_url=server.url, model="m")
        given = SampleConfig(engine="server", n=2, system=SYSTEM, server=settings)
        output = sample(prompts(prompt), given, Context())
        asked = [call.body["messages"] for call in server.calls]
    wanted = [{"role": "system", "content": SYSTEM}, USER]
    assert asked == [wanted, wanted]
    assert [row["prompt"] for row in rows_of(output.table)] == [wanted, wanted]
    assert {row["prompt_id"] for row in rows_of(output.table)} == {"p0"}


def test_a_local_model_sees_it_by_its_chat_template(tmp_path):
    model = model_with(WITH, tmp_path)
    given = {"n": 4, "max_new_tokens": 24, "batch_size": 8}
    written = [{"role": "system", "content": SYSTEM}, USER]
    one = sample(prompts([USER]), SampleConfig(system=SYSTEM, **given), Context(model=model))
    other = sample(prompts(written), SampleConfig(**given), Context(model=model))
    assert one.table.data.table.equals(other.table.data.table)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"system: .*refuses? a system message.*user and assistant"),
        (WITHOUT, r"system: .*leaves? .*system message out"),
    ],
    ids=["refused", "left out"],
)
def test_a_template_without_system_messages_is_an_error_line(template, message, tmp_path):
    model = BASE if template is None else model_with(template, tmp_path)
    with pytest.raises(PrefoptError, match=message):
        sample(prompts("1+2"), SampleConfig(system=SYSTEM, n=1, max_new_tokens=4), Context(model=model))


def test_a_row_at_fault_of_its_own_is_still_dropped_with_a_count(tmp_path):
    model = model_with(WITH + "{% if messages[-1].content == 'bad' %}{{ raise_exception('no') }}{% endif %}", tmp_path)  # fmt: skip
    table = prompts([{**USER, "content": "bad"}], [USER])
    output = sample(table, SampleConfig(system=SYSTEM, n=1, max_new_tokens=4), Context(model=model))
    assert output.dropped == {"refused by the chat template": 1}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_prompts_that_have_one_already_are_an_error_line(role):
    table = prompts([USER], [{"role": role, "content": "x"}, USER])
    with pytest.raises(PrefoptError, match=rf"row 'p1' has a {role} message already; remove"):
        sample(table, SampleConfig(engine="fake", system=SYSTEM), Context())


def test_an_empty_system_prompt_is_refused():
    with pytest.raises(PrefoptError, match="system: "):
        parse_config(SampleConfig, {"system": "  "}, "recipe")


def test_test_prompts_have_it_too():
    output = evaluate(prompts("1+2+3"), EvaluateConfig(engine="fake", system=SYSTEM), Context())
    assert {row["prompt"][0]["content"] for row in rows_of(output.table)} == {SYSTEM}
