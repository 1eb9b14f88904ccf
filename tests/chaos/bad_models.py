"""Hostile model folders: configs, tokenizers, templates, weights, adapters."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos.malformed import Case
from chaos.worlds import World

SPIN = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "division by zero": "{{ 1 / 0 }}", "overflow": "{{ 10.0 ** 400 }}", "huge power": "{{ (9 ** 9 ** 7) | string | length }}", "recursion":
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "memory": "{{ 'x' * 10 ** 13 }}", "type": "{{ 1 + 'a' }}", "undefined":
    "{{ nothing.at.all }}", "syntax": "{% for %}", "unknown filter": "{{ 1 | nothing }}", "raises": "{{ raise_exception('no') }}",
    "raises an escape": "{{ raise_exception('\x1b[31mred') }}", "does not end": SPIN, "long text": "{{ 'x' * 30000000 }}", "many ranges":
    "{{ range(10 ** 12) | list }}", "reaches out": "{{ ''.__class__.__mro__[1].__subclasses__() }}", "imports": "{% import 'x' as y %}",
    "includes": "{% include '/etc/passwd' %}", "empty": "", "blank": " ", "no messages": "constant", "NUL": "{{ messages[0]['content'] }}\0",
    "escapes": "{{ messages[0]['content'] }}\x1b[2J", "changes messages": "{{ messages.append(1) }}", "not UTF-8": "\udcff", "lists":
    "{{ messages }}", "counts down": "{% for m in messages[::-1] %}{{ m.content }}{% endfor %}", "half": "{{ messages[0]['content'][:1] }}",
    "index": "{{ messages[99]['content'] }}", "key": "{{ messages[0]['nothing']['more'] }}", "date": "{{ strftime_now('%Y') }}{{ messages }}",
    "format": "{{ '{0.__class__}'.format(messages) }}", "prints a generator": "{{ messages | map('upper') }}", "do": "{% do 1 %}",
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "no object": [1], "empty": {}, "model_type unknown": {"model_type": "nothing"}, "model_type of number": {"model_type": 3}, "no model_type":
    {"model_type": None}, "layers huge": {"num_hidden_layers": 1_000_000}, "layers negative": {"num_hidden_layers": -1}, "layers 0":
    {"num_hidden_layers": 0}, "layers of text": {"num_hidden_layers": "four"}, "layers two of four": {"num_hidden_layers": 2}, "layers six":
    {"num_hidden_layers": 6}, "hidden 0": {"hidden_size": 0}, "hidden huge": {"hidden_size": 10**9}, "hidden odd": {"hidden_size": 127},
    "heads 0": {"num_attention_heads": 0}, "heads odd": {"num_attention_heads": 3}, "vocab huge": {"vocab_size": 10**12}, "vocab 1":
    {"vocab_size": 1}, "vocab of text": {"vocab_size": "24"}, "positions 0": {"max_position_embeddings": 0}, "positions of text":
    {"max_position_embeddings": "x"}, "positions 4": {"max_position_embeddings": 4}, "activation unknown": {"hidden_act": "nothing"},
    "dtype unknown": {"dtype": "float99"}, "dtype of number": {"dtype": 3}, "epsilon NaN": {"rms_norm_eps": "NaN"}, "rope odd":
    {"rope_parameters": {"rope_type": "nothing"}}, "rope of text": {"rope_parameters": "x"}, "eos of text": {"eos_token_id": "x"}, "eos far":
    {"eos_token_id": 10**9}, "bos negative": {"bos_token_id": -5}, "auto_map": {"auto_map": {"AutoModelForCausalLM": "x.Y"}}, "quantized":
    {"quantization_config": {"quant_method": "nothing"}}, "architectures of text": {"architectures": "x"}, "an escape":
    {"model_type": "\x1b[31m"}, "attention odd": {"attn_implementation": "nothing"}, "pad far": {"pad_token_id": 99999}, "tie of text":
    {"tie_word_embeddings": "maybe"},
}  # fmt: skip
TOKENIZER_CONFIGS: dict[str, Any] = {
    "no object": [1], "max_length of text": {"model_max_length": "x"}, "max_length negative": {"model_max_length": -1}, "max_length huge":
    {"model_max_length": 10**40}, "class unknown": {"tokenizer_class": "NothingTokenizer"}, "class of number": {"tokenizer_class": 3}, "no eos":
    {"eos_token": None}, "eos of number": {"eos_token": 3}, "eos unknown": {"eos_token": "<nothing>"}, "unk unknown": {"unk_token": "<nothing>"},
    "no unk": {"unk_token": None}, "template of number": {"chat_template": 3}, "template of list": {"chat_template": [1]}, "auto_map":
    {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "padding odd": {"padding_side": "up"}, "added odd": {"added_tokens_decoder": {"x": 1}},
    "added negative": {"added_tokens_decoder": {"-1": {"content": "a"}}}, "an escape": {"eos_token": "\x1b[31m"}, "empty bos": {"bos_token": ""},
}  # fmt: skip
# what cannot be right in any way
REFUSED = {
    "layers huge",
    "layers negative",
    "layers 0",
    "layers two of four",
    "layers six",
    "base is itself",
    "base is gone",
    "does not end",
}
FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors",
    "chat_template.jinja",
)
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda data: None, "empty": lambda data: b"", "cut": lambda data: data[: len(data) // 2], "NULs": lambda data: b"\0" * len(data),
    "not UTF-8": lambda data: b"\xff\xfe" + data, "deep": lambda data: b"[" * 50_000 + b"]" * 50_000, "null": lambda data: b"null",
    "deep objects": lambda data: b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "a text": lambda data: b'"abc"', "NaN": lambda data: b"NaN",
}  # fmt: skip


def cases(world: World) -> Iterator[Case]:
    """All of them."""
    base = world.reference("train") / "model"
    pairs = str(world.root / "talk.jsonl")
    for what, text in TEMPLATES.items():
        yield _case(f"template: {what}", base, pairs, "inspect", _template(text))
        yield _case(f"template: {what}, whole file", base, pairs, "reference", _template(text))
    for what, change in CONFIGS.items():
        yield _case(f"config: {what}", base, pairs, "reference", _changed("config.json", change))
    for what, change in TOKENIZER_CONFIGS.items():
        yield _case(
            f"tokenizer config: {what}", base, pairs, "reference", _changed("tokenizer_config.json", change)
        )
    for name in FILES:
        for what, damage in DAMAGES.items():
            yield _case(f"{name}: {what}", base, pairs, "reference", _damaged(name, damage))
    for what, way in TOKENIZERS.items():
        yield _case(f"tokenizer: {what}", base, pairs, "reference", _rewritten("tokenizer.json", way))
    adapter = world.reference("train lora") / "model"
    for what, settings in ADAPTERS.items():
        yield _case(
            f"adapter: {what}", adapter, pairs, "reference", _changed("adapter_config.json", settings)
        )
        yield _case(
            f"adapter: {what}, merged", adapter, pairs, "merge", _changed("adapter_config.json", settings)
        )


def _case(name: str, source: Path, pairs: str, verb: str, spoil: Callable[[Path], None]) -> Case:
    def lay(home: Path) -> list[str]:
        model = home / "model"
        model.mkdir()
        for file in source.iterdir():
            if file.suffix == ".safetensors":
                os.link(file, model / file.name)
            else:
                shutil.copy(file, model / file.name)
        spoil(model)
        return {
            "inspect": ["inspect", "--input", pairs, "--model", "model"],
            "reference": ["reference", "--input", pairs, "--model", "model", "--output", "out"],
            "merge": ["merge-adapter", "--adapter", "model", "--output", "out"],
        }[verb]

    # memory that a template or a config asks for is not the machine's last
    ends = (2,) if name.split(": ", 1)[1].split(", ")[0] in REFUSED else (0, 2)
    return Case(
        name, lay, rows=8 if verb == "reference" else None, ends=ends, plan={"limits": {"AS": 6 * 2**30}}
    )


def _template(text: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        (model / "chat_template.jinja").write_bytes(text.encode("utf-8", "surrogateescape"))

    return spoil


def _changed(name: str, change: Any) -> Callable[[Path], None]:
    def way(value: Any) -> Any:
        if not isinstance(change, dict) or not change:
            return change
        return {key: inner for key, inner in {**value, **change}.items() if inner is not None}

    return _rewritten(name, way)


def _rewritten(name: str, way: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        path = model / name
        path.write_text(json.dumps(way(json.loads(path.read_text()))))

    return spoil


def _damaged(name: str, damage: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        path = model / name
        if not path.is_file():
            path = next(model.iterdir())
        data = damage(path.read_bytes())
        path.unlink()  # a link to the world's own weights
        if data is not None:
            path.write_bytes(data)

    return spoil


def _vocabulary(change: Callable[[dict[str, int]], Any]) -> Callable[[Any], Any]:
    return lambda value: {
        **value,
        "model": {**value["model"], "vocab": change(dict(value["model"]["vocab"]))},
    }


TOKENIZERS: dict[str, Callable[[Any], Any]] = {
    "empty vocabulary": _vocabulary(lambda vocabulary: {}),
    "ids far": _vocabulary(lambda vocabulary: {token: number + 10**6 for token, number in vocabulary.items()}),
    "ids negative": _vocabulary(lambda vocabulary: {token: -number for token, number in vocabulary.items()}),
    "ids of text": _vocabulary(lambda vocabulary: {token: str(number) for token, number in vocabulary.items()}),
    "ids twice": _vocabulary(lambda vocabulary: dict.fromkeys(vocabulary, 5)),
    "a list": _vocabulary(lambda vocabulary: list(vocabulary)),
    "no unk": lambda value: {**value, "model": {**value["model"], "unk_token": "<nothing>"}},
    "unk of null": lambda value: {**value, "model": {**value["model"], "unk_token": None}},
    "model unknown": lambda value: {**value, "model": {"type": "Nothing"}},
    "no model": lambda value: {key: inner for key, inner in value.items() if key != "model"},
    "added without content": lambda value: {**value, "added_tokens": [{"id": 0}]},
    "added far": lambda value: {**value, "added_tokens": [{**entry, "id": entry["id"] + 10**6} for entry in value["added_tokens"]]},
    "normalizer unknown": lambda value: {**value, "normalizer": {"type": "Nothing"}},
    "pattern odd": lambda value: {**value, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    "drops everything": lambda value: {**value, "normalizer": {"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""}},
    "truncates": lambda value: {**value, "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
}  # fmt: skip
ADAPTERS: dict[str, Any] = {
    "base is itself": {"base_model_name_or_path": "model"}, "base is gone": {"base_model_name_or_path": "no/such/model"}, "base of number":
    {"base_model_name_or_path": 3}, "no base": {"base_model_name_or_path": None}, "type unknown": {"peft_type": "NOTHING"}, "no type":
    {"peft_type": None}, "r 0": {"r": 0}, "r huge": {"r": 10**9}, "r of text": {"r": "x"}, "modules unknown": {"target_modules": ["nothing"]},
    "modules of number": {"target_modules": 3}, "no object": [1], "base of an escape": {"base_model_name_or_path": "\x1b[31m"}, "auto_mapping":
    {"auto_mapping": {"base_model_class": "x", "parent_library": "os"}},
}  # fmt: skip
