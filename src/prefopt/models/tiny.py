"""`model: tiny`: a smoke model made on the spot, so that any data runs from end to end without a download.

Byte-level BPE trained on the input's texts, a ChatML template, a random Llama of about one million parameters, and, if
asked for, a short supervised warm-up on the answers, so that its log-probs mean something. It is no useful model.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefopt.core.errors import PrefoptError, no_space
from prefopt.models.quiet import no_progress_bar
from prefopt.models.tiny_folder import clear_tiny, has_tiny, mark_tiny
from prefopt.tables.progress import progress
from prefopt.tables.records import Row, digest, rows_of

if TYPE_CHECKING:
    from datasets import Dataset

TEXT_COLUMNS = ("prompt", "gold_completion", "chosen", "rejected", "completion")
ANSWER_COLUMNS = ("gold_completion", "chosen", "gold", "completion")

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# ChatML as Qwen writes it, tools included, without its default system prompt
CHATML = (
    "{%- if tools %}{{ '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{%- endif %}"
    "{{ 'Tools:' }}{%- for tool in tools %}{{ '\n' }}{{ tool | tojson }}{%- endfor %}{{ '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if not (tools and loop.first and message.role == 'system') %}"
    "{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}{{ '\n<tool_call>' }}{{ call | tojson }}{{ '</tool_call>' }}{%- endfor %}"
    "{{ '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)

# Warm-up: small enough for a minute on two cores, large enough to learn the shape of the answers.
WARMUP_BATCH_TOKENS = 1024
WARMUP_WINDOW = 64
WARMUP_MAX_LENGTH = 384
WARMUP_PEAK_LR = 3e-3
WARMUP_RAMP = 0.1
GRADIENT_NORM = 1.0


def build_tiny_for(
    table: Dataset, directory: Path, *, key: str, seed: int, vocab_size: int = 2048, warmup_steps: int = 0
) -> Path:
    """Build the model of a table of prompts, completions or pairs into `directory`, unless `key` is there already.

    Only rows of the train split are read, if the table has one. Returns the directory.

    Raises:
        PrefoptError: a warm-up without any answer to learn from.
    """
    rows = rows_of(table)
    train = [row for row in rows if row.get("split", "train") == "train"] or rows
    texts = list(_texts(train))
    answers = list(_answers(train)) if warmup_steps else []
    return build_tiny(
        texts, directory, seed=seed, key=key, vocab_size=vocab_size, warmup=(warmup_steps, answers)
    )


def build_tiny(
    texts: Sequence[str],
    directory: Path,
    *,
    seed: int,
    key: str | None = None,
    vocab_size: int = 2048,
    warmup: tuple[int, Sequence[tuple[Row, Any]]] = (0, ()),
) -> Path:
    """Write the smoke model as a Hugging Face directory; a killed build leaves nothing and starts anew.

    texts: what the tokenizer learns from. key: names the inputs; a directory with the same key is kept as it is
    (default: a digest of all arguments). warmup: steps, and (row with prompt, answer) pairs to learn.

    Raises:
        PrefoptError: `directory` holds something else, or a warm-up without answers.
    """
    key = key or digest("tiny", list(texts), seed, vocab_size, warmup[0], [list(pair) for pair in warmup[1]])
    if has_tiny(directory, key):
        return directory
    part = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    try:
        clear_tiny(directory)
        part.mkdir(parents=True)
        tokenizer = make_tokenizer(texts, vocab_size)
        model = make_model(tokenizer, seed)
        warm_up(model, tokenizer, *warmup, seed=seed)
        tokenizer.save_pretrained(part)
        with no_progress_bar():
            model.save_pretrained(part)
        mark_tiny(part, key)
        os.replace(part, directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = no_space(error) or getattr(error, "strerror", None) or str(error)
        raise PrefoptError(f"{directory}: cannot be written ({reason}); choose another --output") from None
    return directory


def make_tokenizer(texts: Sequence[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML; every text can be encoded, `<|im_end|>` is EOS, there is no BOS."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    # digits one by one, so that numbers have one spelling
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN],
        chat_template=CHATML,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Random Llama, 4 layers of width 128: 0.8 M parameters and 128 per vocabulary entry; global RNG untouched."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def warm_up(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    answers: Sequence[tuple[Row, Any]],
    *,
    seed: int,
) -> list[float]:
    """Supervised training on the answers, in place; returns the loss per step, nats per answer token.

    Raises:
        PrefoptError: steps, but no answer.
    """
    if steps == 0:
        return []
    sequences = _encode(tokenizer, answers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=WARMUP_PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    batches = _batches(sequences, torch.Generator().manual_seed(seed))
    losses = []
    model.train()
    with progress("tiny warm-up", steps) as advance:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, steps)
            loss = _answer_loss(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            losses.append(loss.item())
            advance(1)
    model.eval()
    return losses


def _answer_loss(model: LlamaForCausalLM, batch: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Mean loss of the answers' tokens, nats; rows are padded on the right."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for place, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[place, :end] = torch.tensor(prompt + answer)
        labels[place, len(prompt) : end] = torch.tensor(answer)
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def _encode(
    tokenizer: PreTrainedTokenizerFast, answers: Sequence[tuple[Row, Any]]
) -> list[tuple[list[int], list[int]]]:
    from prefopt.models.template import Unfit, encode_answer

    sequences = []
    for row, answer in answers:
        try:
            encoded = encode_answer(tokenizer, row, answer, max_length=WARMUP_MAX_LENGTH)
        except Unfit:
            continue  # the stages count such rows as dropped
        sequences.append((encoded.prompt_ids, encoded.answer_ids))
    if not sequences:
        raise PrefoptError(
            "tiny.warmup_steps: no answer to learn from (chosen, gold_completion, gold or completion); set it to 0"
        )
    return sequences


def _batches(
    sequences: Sequence[tuple[list[int], list[int]]], generator: torch.Generator
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Endless batches of at most `WARMUP_BATCH_TOKENS`, padding included, a new order each time round.

    Within a window of the order, sequences of like length stand together.
    """
    while True:
        order = torch.randperm(len(sequences), generator=generator).tolist()
        for start in range(0, len(order), WARMUP_WINDOW):
            window = [sequences[i] for i in order[start : start + WARMUP_WINDOW]]
            window.sort(key=_size)
            yield from _cut(window)


def _cut(
    sequences: Sequence[tuple[list[int], list[int]]],
) -> Iterator[list[tuple[list[int], list[int]]]]:
    batch: list[tuple[list[int], list[int]]] = []
    for sequence in sequences:  # ascending, so the last one sets the width
        if batch and _size(sequence) * (len(batch) + 1) > WARMUP_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(sequence)
    yield batch


def _size(sequence: tuple[list[int], list[int]]) -> int:
    return len(sequence[0]) + len(sequence[1])


def _learning_rate(step: int, steps: int) -> float:
    """Linear ramp, then a cosine to zero."""
    ramp = max(1, round(WARMUP_RAMP * steps))
    if step < ramp:
        return WARMUP_PEAK_LR * (step + 1) / ramp
    return WARMUP_PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def _texts(rows: Sequence[Row]) -> Iterator[str]:
    """Every text of the rows; a prompt shared by many rows is given once."""
    seen: set[str] = set()
    for row in rows:
        for name in TEXT_COLUMNS:
            content = row.get(name)
            messages = content if isinstance(content, list) else [{"content": content}]
            for text in (message.get("content") for message in messages):
                if isinstance(text, str) and text not in seen:
                    seen.add(text)
                    yield text


def _answers(rows: Sequence[Row]) -> Iterator[tuple[Row, Any]]:
    """(row, answer): the best answer the rows have, each once per prompt; undesired ones where there are no others."""
    column = next((c for c in ANSWER_COLUMNS if any(row.get(c) is not None for row in rows)), None)
    desired = [row for row in rows if row.get("label") is not False]
    rows, seen = desired or rows, set[str]()
    for row in rows if column else ():
        answer = row.get(str(column))
        name = digest(row["prompt"], answer)
        if answer is not None and name not in seen:
            seen.add(name)
            yield row, answer
