"""Templates and tokenizers that fail or never end: their own reason, the model's folder, and no row lost in silence."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.limits import OutOfTime, cpu_limit
from prefopt.models import rendering
from prefopt.models.load import load_tokenizer
from prefopt.models.template import TemplateRefused, encode_pair, encode_prompt, stop_ids
from prefopt.models.tiny import make_tokenizer

MESSAGES = [{"role": "user", "content": "hello there"}]
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
PAIR = {"prompt": MESSAGES, "chosen": "yes", "rejected": "no"}
BROKEN = {
    "{{ 1 // 0 }}": "ZeroDivisionError: ",
    "{{ 10.0 ** 400 }}": "OverflowError: ",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError: maximum recursion depth",
    "{{ 'x' * 10**18 }}": "MemoryError",
    "{{ 'x' + 1 }}": "TypeError: can only concatenate str",
    "{{ nothing.at.all }}": "'nothing' is undefined",
    "{% for m in messages %}": "Unexpected end of template",
    "{{ messages | nofilter }}": "No filter named 'nofilter'",
    "{{ messages[0].content.encode('utf-99') }}": "LookupError: unknown encoding",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "unsafe",
    "{{ strftime_now('%' * 3, 4) }}": "TypeError: ",
}  # fmt: skip
ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
             "{% endfor %}",
    "numbers": "{{ 7 ** (9 ** 9) }}",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    make_tokenizer(["hello there yes no"] * 5, 300).save_pretrained(path)
    return path


@pytest.fixture
def with_template(folder):
    def build(template):
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = template
        return tokenizer

    return build


@pytest.mark.parametrize("template", BROKEN)
def test_a_broken_template_says_its_reason_and_the_folder(with_template, folder, template):
    tokenizer = with_template(template)
    for work in (
        lambda: encode_pair(tokenizer, PAIR, max_length=99),
        lambda: encode_prompt(tokenizer, MESSAGES),
    ):
        with pytest.raises(PrefoptError) as caught:
            work()
        line = str(caught.value)
        assert not isinstance(caught.value, TemplateRefused), "it is no fault of the row"
        assert line.startswith(f"{folder}: the chat template fails (")
        assert BROKEN[template] in line
        assert "\n" not in line
    assert stop_ids(tokenizer)


def test_a_refusal_and_a_fault_at_one_row_alone_drop_the_row(with_template, folder):
    refusing = with_template(
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + PLAIN
    )
    with pytest.raises(TemplateRefused, match="refused the messages: one turn only"):
        encode_pair(refusing, {**PAIR, "prompt": [*MESSAGES, *MESSAGES]}, max_length=99)
    at_content = with_template(
        "{% for m in messages %}{{ m.role + m.content }}{{ 1 // (m.content | length) }}{% endfor %}"
    )
    with pytest.raises(
        TemplateRefused, match=f"chat template of {folder} refused the messages: ZeroDivisionError"
    ):
        encode_prompt(at_content, [{"role": "user", "content": ""}])
    assert encode_prompt(at_content, MESSAGES)


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_never_ends_is_an_error(with_template, folder, monkeypatch, template):
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    start = time.process_time()
    with pytest.raises(PrefoptError, match=f"{folder}: the chat template does not end: more than 0.2 s"):
        encode_prompt(with_template(template), MESSAGES)
    assert time.process_time() - start < 5


def test_a_template_that_writes_far_too_much_is_an_error(with_template, folder):
    with pytest.raises(
        PrefoptError, match=f"{folder}: the chat template writes 30000000 characters for a conv"
    ):
        encode_prompt(with_template("{{ 'x' * 30000000 }}"), MESSAGES)


def endless():
    while True:
        try:
            sum(range(1000))
        except Exception:  # what code that must not win would do
            continue


def test_a_template_cannot_swallow_the_end_of_its_time():
    with pytest.raises(OutOfTime), cpu_limit(0.1):
        endless()


def test_the_limit_leaves_handlers_and_timers_as_they_were():
    handler = signal.getsignal(signal.SIGVTALRM)
    with cpu_limit(100):
        with pytest.raises(OutOfTime), cpu_limit(0.05):
            endless()
        left, _ = signal.getitimer(signal.ITIMER_VIRTUAL)
        assert 90 < left < 101
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) is handler


def test_what_other_threads_compute_does_not_count():
    stop = threading.Event()
    others = [
        threading.Thread(target=lambda: [sum(range(10**5)) for _ in iter(stop.is_set, True)])
        for _ in range(3)
    ]
    for thread in others:
        thread.start()
    try:
        with cpu_limit(0.45):
            before = time.process_time()
            while time.process_time() - before < 0.5:
                pass
    finally:
        stop.set()
        for thread in others:
            thread.join()


def test_other_threads_have_no_limit_and_no_fault():
    done = []

    def work():
        with cpu_limit(0.01):
            done.append(sum(range(10**6)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def edited(folder, tmp_path, name, change):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    value = json.loads((copy / name).read_text(encoding="utf-8"))
    change(value)
    (copy / name).write_text(json.dumps(value), encoding="utf-8")
    return copy


@pytest.mark.parametrize("value", ["x", [1], True, {"a": 1}])
def test_a_model_max_length_that_is_no_number_is_one_line(folder, tmp_path, value):
    copy = edited(
        folder, tmp_path, "tokenizer_config.json", lambda config: config.update(model_max_length=value)
    )
    with pytest.raises(PrefoptError, match=r"model_max_length is .*no number|tokenizer cannot be loaded"):
        load_tokenizer(copy)


def test_a_tokenizer_without_its_unk_token_is_one_line(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"hello": 0, "</s>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="</s>").save_pretrained(
        tmp_path
    )
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(
        PrefoptError, match=f"{tmp_path}: the tokenizer fails at the text .*UNK.*mend tokenizer.json"
    ):
        encode_pair(tokenizer, {"prompt": "hello", "chosen": "there", "rejected": "hello"}, max_length=9)
